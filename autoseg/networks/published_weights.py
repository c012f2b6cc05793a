"""Weights that others published, brought into the form of this project's encoders; read from an installed package.

    file --hash, weights only--> published tensors --batch normalisation into the convolutions--> the encoder's names

Nothing is downloaded. A trained model holds all its weights, so only a training that begins needs the package.

Tested in tests/networks/test_published_weights.py.
"""

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from autoseg.errors import TrainingError
from autoseg.records.encoders import (
    EFFICIENTNET_LEVELS,
    ENCODER_WEIGHTS,
    EncoderName,
    explain_missing_weights,
)
from autoseg.system import find_encoder_weights

logger = logging.getLogger("autoseg.train")

EPSILON: Final = 1e-3
"""Added to the variances of the published batch normalisation."""

COLOURS: Final = 3
"""Input channels of the published first convolution: red, green and blue."""

INPUT_SCALE: Final = 0.5
"""Standard deviation of the images that the weights were trained on, in the unit of the published first convolution:
(value - 127) / 128 of bytes. Our images have a deviation of 1, so the first kernels are multiplied by it."""


def load_published_encoder(network: nn.Module, name: EncoderName, num_planes: int = 0) -> None:
    """Put an encoder's published weights into a fresh network, in place.

    The first convolution follows the channels: three take the kernels of red, green and blue in their order; otherwise
    each of the n channels takes the mean of the three kernels, times 3 / n, so that a grey image gives the response of
    the same image in colour.

    Args:
        network: Built from a NetworkSpec with that encoder; of any number of levels and channels.
        name: Which weights.
        num_planes: Last inputs of the network that say which channels an image has; their kernels become zeros.

    Raises:
        TrainingError: If the package with the weights is not installed, or its file is not the published one.
    """
    published = dict(read_published_encoder(name))
    encoder = network.get_submodule("encoder")
    own = encoder.state_dict()
    first = next(iter(own))
    kernels = adapt_colours(published[first], own[first].shape[1] - num_planes)
    planes = kernels.new_zeros((len(kernels), num_planes, *kernels.shape[2:]))
    published[first] = torch.cat([kernels, planes], dim=1)
    encoder.load_state_dict({key: published[key] for key in own})
    weights = ENCODER_WEIGHTS[name]
    logger.info(
        "the encoder starts from %s: weights trained on %s, license %s, sha256 %s",
        name, weights.trained_on, weights.license, weights.sha256,
    )  # fmt: skip


def adapt_colours(kernels: Tensor, channels: int) -> Tensor:
    """Kernels of the first convolution for images of another number of channels, (F, 3, *K) -> (F, C, *K)."""
    if channels != COLOURS:
        kernels = kernels.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1) * (COLOURS / channels)
    return kernels * INPUT_SCALE


def read_published_encoder(name: EncoderName) -> Iterator[tuple[str, Tensor]]:
    """Tensors of all levels by their names in this project's encoder; the first one is the first convolution's kernel.

    Raises:
        TrainingError: If the package with the weights is not installed, or its file is not the published one.
    """
    found = _read_file(name)
    yield from _fold(found, "_conv_stem", "_bn0", "levels.1.0")
    published = 0
    for level, stages in enumerate(EFFICIENTNET_LEVELS):
        position = 1 if level == 1 else 0  # the stem comes first
        for stage in stages:
            for _ in range(stage.blocks):
                there, here = f"_blocks.{published}", f"levels.{level}.{position}"
                if stage.expansion > 1:
                    yield from _fold(found, f"{there}._expand_conv", f"{there}._bn0", f"{here}.expansion")
                yield from _fold(found, f"{there}._depthwise_conv", f"{there}._bn1", f"{here}.depthwise")
                yield from _fold(found, f"{there}._project_conv", f"{there}._bn2", f"{here}.projection")
                published, position = published + 1, position + 1


def read_published_classifier(name: EncoderName) -> dict[str, Tensor]:
    """What follows the encoder in the published network: `head` (1 x 1 convolution) and `classes` (linear).

    Raises:
        TrainingError: See `read_published_encoder`.
    """
    found = _read_file(name)
    classes = {f"classes.{part}": found[f"_fc.{part}"] for part in ("weight", "bias")}
    return dict(_fold(found, "_conv_head", "_bn1", "head")) | classes


def _fold(found: Mapping[str, Tensor], convolution: str, norm: str, name: str) -> Iterator[tuple[str, Tensor]]:
    """A convolution without a bias and the batch normalisation after it as one convolution with a bias."""
    scale = found[f"{norm}.weight"] / torch.sqrt(found[f"{norm}.running_var"] + EPSILON)
    weight = found[f"{convolution}.weight"]
    yield f"{name}.convolution.weight", weight * scale.view(-1, *(1,) * (weight.ndim - 1))
    yield f"{name}.convolution.bias", found[f"{norm}.bias"] - found[f"{norm}.running_mean"] * scale


def _read_file(name: EncoderName) -> dict[str, Tensor]:
    path = find_encoder_weights(name)
    if path is None:
        raise TrainingError(explain_missing_weights(name))
    content = path.read_bytes()
    _check_hash(content, path, ENCODER_WEIGHTS[name].sha256)
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    return tensors


def _check_hash(content: bytes, path: Path, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise TrainingError(
            f"{path}: not the published weights: its SHA-256 is {found}, expected {expected}. Install the package "
            "again."
        )
