"""Blocks that look at several distances at once: atrous branches, and chained convolutions.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LEAKY_SLOPE, ConvolutionBlock, LayerTypes
from autoseg.networks.parts.entry import enter_block

BRANCHES: Final = ((1,), (3,), (1, 3), (1, 3, 5))
"""Dilations of the convolutions of each branch; with kernels of 3 they see 3, 7, 9 and 19 voxels."""


def branch_features(features: int) -> int:
    """Feature maps of each branch, rounded up."""
    return -(-features // len(BRANCHES))


class InceptionBlock(nn.Module):
    """Four branches of atrous convolutions, which see 3, 7, 9 and 19 voxels, joined by a 1 x 1 block.

    References:
        Gu et al., "CE-Net: context encoder network for 2D medical image segmentation", 2019, dense atrous convolution,
        for the receptive fields; Szegedy et al., "Going deeper with convolutions", 2015, for narrow branches that are
        concatenated. Differs from CE-Net: at every level, and every branch is a quarter as wide as the block.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones, width = (1,) * layers.dimensions, branch_features(out_features)
        self.entry = enter_block(layers, in_features, out_features, kernel_size, stride)
        self.branches = nn.ModuleList(
            nn.Sequential(
                ConvolutionBlock(layers, out_features, width, ones, ones),
                *(ConvolutionBlock(layers, width, width, kernel_size, ones, dilation=d) for d in dilations),
            )
            for dilations in BRANCHES
        )
        self.join = ConvolutionBlock(layers, len(BRANCHES) * width, out_features, ones, ones)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        entered = self.entry(features)
        joined: Tensor = self.join(torch.cat([branch(entered) for branch in self.branches], dim=1))
        return joined


def multires_features(features: int) -> tuple[int, int, int]:
    """Feature maps of the three convolutions: a sixth, a third, and what is left, about half.

    Examples:
        >>> multires_features(32)
        (5, 10, 17)
    """
    first, second = max(1, features // 6), max(1, features // 3)
    return first, second, features - first - second


class MultiResBlock(nn.Module):
    """Three convolutions in a chain, all three answers concatenated, and a 1 x 1 shortcut around them.

    References:
        Ibtehaz and Rahman, "MultiResUNet: rethinking the U-Net architecture for multimodal biomedical image
        segmentation", 2020, with the widths 1/6, 1/3, 1/2. Differs: the block is exactly as wide as its level, without
        the factor 1.67; a strided convolution block leads in.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones, widths = (1,) * layers.dimensions, multires_features(out_features)
        self.entry: nn.Module = nn.Identity()
        if tuple(stride) != ones:
            self.entry = ConvolutionBlock(layers, in_features, out_features, kernel_size, stride)
            in_features = out_features
        self.chain = nn.ModuleList(
            ConvolutionBlock(layers, inputs, width, kernel_size, ones)
            for inputs, width in zip((in_features, *widths), widths, strict=False)
        )
        self.shortcut = ConvolutionBlock(layers, in_features, out_features, ones, ones, activation=nn.Identity())
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        entered = answer = self.entry(features)
        answers = []
        for convolution in self.chain:
            answer = convolution(answer)
            answers.append(answer)
        activated: Tensor = self.activation(torch.cat(answers, dim=1) + self.shortcut(entered))
        return activated
