"""What widens the view at the lowest level.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import NORMALIZATION_EPSILON, ConvolutionBlock, LayerTypes

POOLED_GRIDS: Final = (1, 2, 3, 6)
"""Voxels along each axis of the pooled maps of a pyramid."""

ATROUS_RATES: Final = (1, 2, 4)
"""Dilations of the atrous branches. The published 6, 12 and 18 are for maps of 60 voxels and more; the lowest level
here has about 4 to 10 along each axis."""


class NonLocal(nn.Module):
    """Every voxel receives a weighted sum of all others; starts as nothing, because its norm starts with zero.

    The table of all pairs is never held as a whole: torch's attention goes through it by parts, for which it wants
    contiguous tensors.

    References:
        Wang et al., "Non-local neural networks", 2018, embedded Gaussian, half as many feature maps inside; a norm that
        starts with zero, as there. Differs: scores are divided by the root of the width, as in Vaswani et al. 2017.
    """

    def __init__(self, layers: LayerTypes, features: int) -> None:
        super().__init__()
        width = max(1, features // 2)
        self.query = layers.convolution(features, width, kernel_size=1)
        self.key = layers.convolution(features, width, kernel_size=1)
        self.value = layers.convolution(features, width, kernel_size=1)
        self.output = layers.convolution(width, features, kernel_size=1)
        self.normalization = layers.normalization(features, eps=NORMALIZATION_EPSILON)
        nn.init.zeros_(self.normalization.weight)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        query, key, value = (
            convolution(features).flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
            for convolution in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value).squeeze(1).transpose(1, 2)
        output = self.output(attended.reshape(*attended.shape[:2], *features.shape[2:]))
        added: Tensor = features + self.normalization(output)
        return added


def branch_width(features: int) -> int:
    """Feature maps of each branch of a pyramid or of atrous convolutions: a quarter, rounded up."""
    return -(-features // 4)


class PoolingPyramid(nn.Module):
    """Means over a coarse grid of 1, 2, 3 and 6 voxels along each axis, brought back to full size and joined.

    References:
        Zhao et al., "Pyramid scene parsing network", 2017.
    """

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        ones, width = (1,) * layers.dimensions, branch_width(features)
        self.interpolation = layers.interpolation
        self.branches = nn.ModuleList(layers.convolution(features, width, kernel_size=1) for _ in POOLED_GRIDS)
        self.activation = nn.ReLU(inplace=True)
        inputs = features + len(POOLED_GRIDS) * width
        self.join = ConvolutionBlock(layers, inputs, features, kernel_size, ones)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        size = features.shape[2:]
        pooled = (F.interpolate(features, size=(grid,) * len(size), mode="area") for grid in POOLED_GRIDS)
        means = [self.activation(branch(grid)) for branch, grid in zip(self.branches, pooled, strict=True)]
        resized = [F.interpolate(mean, size=size, mode=self.interpolation, align_corners=False) for mean in means]
        joined: Tensor = self.join(torch.cat((features, *resized), dim=1))
        return joined


class AtrousPyramid(nn.Module):
    """A 1 x 1 convolution, atrous convolutions of several rates and the mean of the whole map, joined.

    References:
        Chen et al., "Rethinking atrous convolution for semantic image segmentation", 2017. Differs: the rates, see
        ATROUS_RATES; branches of a quarter of the width; the mean has no norm, which one voxel cannot have.
    """

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        ones, width = (1,) * layers.dimensions, branch_width(features)
        self.branches = nn.ModuleList(
            [
                ConvolutionBlock(layers, features, width, ones, ones),
                *(ConvolutionBlock(layers, features, width, kernel_size, ones, dilation=rate) for rate in ATROUS_RATES),
            ]
        )
        self.mean = layers.convolution(features, width, kernel_size=1)
        self.activation = nn.ReLU(inplace=True)
        self.join = ConvolutionBlock(layers, (len(self.branches) + 1) * width, features, ones, ones)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        axes = tuple(range(2, features.ndim))
        mean = self.activation(self.mean(features.mean(axes, keepdim=True)))
        branches = [branch(features) for branch in self.branches]
        joined: Tensor = self.join(torch.cat((*branches, mean.expand_as(branches[0])), dim=1))
        return joined
