"""The contract of networks of other packages, tried on networks that keep it and on networks that break it."""

import os
import re

import pytest

from autoseg.testing import network_violations
from tests.builders import SMALL_NETWORK, install_networks

BREAKS = {
    "loads torch before `build`": ("def declare(", "import torch\n\n\ndef declare("),
    "accepts a setting that does not exist": ('set(options) - {"features"}', "False"),
    r"'\w+' gives .* expected logits of 2 channels": ("spec.output_channels, 3, padding=1", "7, 3, padding=1"),
    "start values do not follow torch's seed": (
        "return torch.nn.Sequential(\n",
        "torch.seed()\n    return torch.nn.Sequential(\n",
    ),
    "other logits for the same image": ("torch.nn.ReLU(),\n        convolution", "Noise(),\n        convolution"),
    "RuntimeError": ("spec.input_channels, features, stride", "5, features, stride"),
    "Kernel size can't be greater": ("stride, stride),\n        torch.nn.ReLU(),\n        up", "5, 5), up"),
    "gives 1 levels in training, declared are": ('requires=("torch",)', "deep_supervision=True"),
    "declare` gives a int": ("return NetworkDeclaration(", "return 3 or NetworkDeclaration("),
}
"""A sentence, and the change of a good package that leads to it."""

NOISE = """

def make_noise():
    import torch

    class Noise(torch.nn.Module):
        def forward(self, image):
            return image + torch.rand_like(image)

    return Noise
"""


def install(folder, monkeypatch, source, name):
    install_networks(folder, name, f"{name} = {name}:build", source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def test_a_good_network_keeps_all_promises(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, SMALL_NETWORK, "good_net")
    assert network_violations("good_net") == []
    assert network_violations("good_net", {"features": "3"}) == []


@pytest.mark.parametrize("sentence", BREAKS)
def test_a_broken_promise_is_named(tmp_path, monkeypatch, sentence):
    name = f"bad_net_{list(BREAKS).index(sentence)}"
    before, after = BREAKS[sentence]
    assert SMALL_NETWORK.count(before) > 0
    source = SMALL_NETWORK.replace(before, after).replace("Noise(),", "make_noise()(),") + NOISE
    install(tmp_path, monkeypatch, source, name)
    found = network_violations(name)
    assert len(found) > 0
    assert any(re.search(sentence, line) for line in found), found


def test_a_network_that_is_not_installed():
    [sentence] = network_violations("nowhere")
    assert "No installed package has a network 'nowhere'" in sentence
