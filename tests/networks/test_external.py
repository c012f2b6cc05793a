"""Networks of other packages in the outer form of all networks."""

import pytest
import torch
from torch import nn
from typing_extensions import override

from autoseg.errors import UsageError
from autoseg.networks.build import build_network
from autoseg.networks.external import ExternalModule
from autoseg.networks.layout import place_network
from tests.builders import install_networks, make_external_spec

IMAGE = torch.zeros((2, 1, 4, 8, 12))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_it_is_built_with_the_start_values_of_its_package(tmp_path, monkeypatch, dimensions):
    install_networks(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    spec = make_external_spec(dimensions, network_options={"features": "6"})
    torch.manual_seed(5)
    network = build_network(spec, deep_supervision=True)
    torch.manual_seed(5)
    first = nn.Conv2d(1, 6, (4, 4), (4, 4)) if dimensions == 2 else nn.Conv3d(1, 6, (2, 4, 4), (2, 4, 4))
    assert torch.equal(network.state_dict()["network.0.weight"], first.weight)
    logits = network.train()(IMAGE[(slice(None), slice(None), 0)[: 5 - dimensions]])
    assert logits.shape == (2, 3, 4, 8, 12)[:2] + (4, 8, 12)[3 - dimensions :]


def test_its_weights_stay_in_the_ordinary_layout_and_it_gets_such_images():
    spec = make_external_spec(3, network_options={})

    class Viewing(nn.Module):
        @override
        def forward(self, image):
            return image.view(-1).view(image.shape).expand(-1, 3, -1, -1, -1)

    network = ExternalModule(spec, nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 4, 3)), deep_supervision=False)
    placed = place_network(network, spec, torch.device("cpu"))
    assert all(weight.is_contiguous() for weight in placed.parameters())
    viewing = ExternalModule(spec, Viewing(), deep_supervision=False)
    assert viewing(IMAGE.contiguous(memory_format=torch.channels_last_3d)).shape == (2, 3, 4, 8, 12)


class Levels(nn.Module):
    """Logits of two levels in training, as one with deep supervision gives them."""

    @override
    def forward(self, image):
        logits = image.expand(-1, 3, -1, -1, -1)
        return [logits, logits[..., ::2, ::2]] if self.training else logits


def test_deep_supervision_is_switched():
    strides = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    spec = make_external_spec(3, features=(4, 6, 8), strides=strides, deep_supervision=True)
    network = ExternalModule(spec, Levels(), deep_supervision=True)
    assert [tuple(level.shape[2:]) for level in network.train()(IMAGE)] == [(4, 8, 12), (4, 4, 6)]
    assert network.eval()(IMAGE).shape == (2, 3, 4, 8, 12)
    network.deep_supervision = False
    assert network.train()(IMAGE).shape == (2, 3, 4, 8, 12)


def test_other_logits_are_refused():
    network = ExternalModule(make_external_spec(3), nn.Conv3d(1, 3, 3), deep_supervision=False)
    expected = r"'small' gives \(2, 3, 2, 6, 10\) for an image of \(2, 1, 4, 8, 12\), expected logits of 3 channels"
    with pytest.raises(UsageError, match=expected):
        network(IMAGE)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def build(spec): import not_there\n", "ModuleNotFoundError: No module named 'not_there'. It needs small-n"),
        ("def build(spec): raise ValueError('too deep')\n", "ValueError: too deep"),
        ("def build(spec): return 3\n", "its builder gives a int, expected a torch module"),
    ],
)
def test_a_builder_that_fails_is_named(tmp_path, monkeypatch, source, fault):
    name = f"failing_{len(source)}"
    install_networks(tmp_path, name, f"small = {name}:build", source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=fault):
        build_network(make_external_spec(), deep_supervision=True)
