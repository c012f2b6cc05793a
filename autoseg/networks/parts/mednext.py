"""MedNeXt's block: a depthwise convolution, then a perceptron at every voxel.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import NORMALIZATION_EPSILON, LayerTypes

EXPANSION: Final = 2
"""How many times as wide the hidden layer is, as in the published size S."""


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm, expansion, GELU, compression, and a shortcut around all of them.

    The shortcut is a strided 1 x 1 convolution where size or width change.

    References:
        Roy et al., "MedNeXt: transformer-driven scaling of ConvNets for medical image segmentation", MICCAI 2023,
        block and downsampling block, without global response normalisation. Differs: kernels and strides per axis, in
        two and three dimensions.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        hidden = EXPANSION * in_features
        self.depthwise = layers.convolution(
            in_features,
            in_features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=tuple(stride),  # type: ignore[arg-type]
            padding=tuple(size // 2 for size in kernel_size),  # type: ignore[arg-type]
            groups=in_features,
        )
        self.normalization = layers.normalization(in_features, eps=NORMALIZATION_EPSILON)
        self.expansion = layers.convolution(in_features, hidden, kernel_size=1)
        self.compression = layers.convolution(hidden, out_features, kernel_size=1)
        self.shortcut: nn.Module = nn.Identity()
        if in_features != out_features or set(stride) != {1}:
            self.shortcut = layers.convolution(in_features, out_features, kernel_size=1, stride=tuple(stride))  # type: ignore[arg-type]

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        hidden = F.gelu(self.expansion(self.normalization(self.depthwise(features))))
        added: Tensor = self.compression(hidden) + self.shortcut(features)
        return added
