"""Tokenised multilayer perceptrons: every voxel's features are a token, and tokens meet by being shifted.

Used by the lowest levels of a UNeXt. Tokens are (B, *S, C), which is how a channels-last feature map lies in memory, so
that layers over features and convolutions follow each other without a copy.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LayerTypes

NUM_GROUPS: Final = 5
"""Groups of features, shifted by -2, -1, 0, 1 and 2 voxels."""

FARTHEST: Final = NUM_GROUPS // 2
"""Voxels."""

MIN_SHIFTED_AXIS: Final = NUM_GROUPS
"""Voxels; on a shorter axis most of what a shift moves would leave the image."""


def shift_tokens(tokens: Tensor, axis: int) -> Tensor:
    """Move groups of features along one axis by different distances; zeros come in, what leaves is lost.

    The features are divided as `torch.chunk` does it, into five groups of ceil(C / 5), the last ones smaller or
    missing. Group g = 0..4 moves by g - 2 voxels towards higher indices.

    Args:
        tokens: (B, *S, C).
        axis: Spatial axis, 0 being the first of S.

    Returns:
        (B, *S, C); `tokens` itself where the axis has fewer than 5 voxels.

    References:
        Valanarasu and Patel, "UNeXt: MLP-based rapid medical image segmentation network", 2022, axial shift. Differs:
        short axes are left alone; each group is cropped and padded instead of rolled within a padded image.
    """
    if tokens.shape[1 + axis] < MIN_SHIFTED_AXIS:
        return tokens
    # padding is listed from the last axis, the features, backwards
    other_axes = (0, 0) * (tokens.ndim - 2 - axis)
    groups = (
        group if distance == 0 else F.pad(group, (*other_axes, distance, -distance))
        for distance, group in enumerate(tokens.chunk(NUM_GROUPS, dim=-1), start=-FARTHEST)
    )
    return torch.cat(list(groups), dim=-1)


class ShiftedPerceptron(nn.Module):
    """Per axis a shift and a linear layer; after the first one a depthwise convolution and a GELU.

    Parameter names: `linears.<axis>` and `depthwise`.

    References:
        Valanarasu and Patel 2022, tokenised MLP block, as in its published code: the first axis first, all layers as
        wide as the input. Differs: in 3D a third shift and linear layer; the kernel is free.
    """

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(features, features) for _ in range(layers.dimensions))
        self.depthwise = layers.convolution(
            features,
            features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            padding=tuple(size // 2 for size in kernel_size),  # type: ignore[arg-type]
            groups=features,
        )

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """(B, *S, C) -> (B, *S, C)."""
        for axis, linear in enumerate(self.linears):
            tokens = linear(shift_tokens(tokens, axis))
            if axis == 0:
                tokens = F.gelu(self.depthwise(tokens.movedim(-1, 1))).movedim(1, -1)
        return tokens


class ShiftedBlock(nn.Module):
    """A shifted perceptron with a shortcut around it and a layer normalisation before and after it.

    References:
        Valanarasu and Patel 2022, tokenised MLP block.
    """

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.normalization = nn.LayerNorm(features)
        self.perceptron = ShiftedPerceptron(layers, features, kernel_size)
        self.last_normalization = nn.LayerNorm(features)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        tokens = features.movedim(1, -1)
        tokens = tokens + self.perceptron(self.normalization(tokens))
        mixed: Tensor = self.last_normalization(tokens)
        return mixed.movedim(-1, 1)


class PatchEmbedding(nn.Module):
    """A strided convolution that makes tokens of overlapping patches, and a layer normalisation over their features.

    References:
        Valanarasu and Patel 2022, after Xie et al., "SegFormer", 2021.
    """

    def __init__(
        self,
        layers: LayerTypes,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        self.convolution = layers.convolution(
            in_features,
            out_features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=tuple(stride),  # type: ignore[arg-type]
            padding=tuple(size // 2 for size in kernel_size),  # type: ignore[arg-type]
        )
        self.normalization = nn.LayerNorm(out_features)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        tokens: Tensor = self.normalization(self.convolution(features).movedim(1, -1))
        return tokens.movedim(-1, 1)
