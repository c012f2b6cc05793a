"""Blocks of cheaper convolutions: per feature map and then per voxel, or along one axis at a time.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LEAKY_SLOPE, NORMALIZATION_EPSILON, ConvolutionBlock, LayerTypes
from autoseg.networks.parts.entry import enter_block

ROUNDS: Final = 2
"""How many times a factorized block goes through all axes."""


class SeparableBlock(nn.Module):
    """A convolution of each feature map by itself, then a 1 x 1 convolution over feature maps.

    References:
        Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017, with
        a norm and an activation after each of the two. Differs: norms and activation of this project.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones = (1,) * layers.dimensions
        self.depthwise = ConvolutionBlock(layers, in_features, in_features, kernel_size, stride, groups=in_features)
        self.pointwise = ConvolutionBlock(layers, in_features, out_features, ones, ones)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        mixed: Tensor = self.pointwise(self.depthwise(features))
        return mixed


def split_kernel(kernel_size: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Kernels along one axis each, for the axes that the kernel extends along; a kernel of one voxel stays as it is.

    Examples:
        >>> split_kernel((1, 3, 3))
        ((1, 3, 1), (1, 1, 3))
    """
    axes = [axis for axis, size in enumerate(kernel_size) if size > 1] or [0]
    return tuple(tuple(size if position == axis else 1 for position, size in enumerate(kernel_size)) for axis in axes)


class FactorizedBlock(nn.Module):
    """Convolutions along one axis after the other, twice, with a shortcut around all of them.

    References:
        Romera et al., "ERFNet: efficient residual factorized ConvNet for real-time semantic segmentation", 2018,
        non-bottleneck-1D. Differs: in three dimensions too; no dilation, no dropout; a convolution block leads in where
        size or width change.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.entry = enter_block(layers, in_features, out_features, kernel_size, stride)
        self.rounds = nn.ModuleList(
            nn.Sequential(*_one_round(layers, out_features, kernel_size, is_last=position == ROUNDS - 1))
            for position in range(ROUNDS)
        )
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        entered = answer = self.entry(features)
        for one_round in self.rounds:
            answer = one_round(answer)
        activated: Tensor = self.activation(entered + answer)
        return activated


def _one_round(layers: LayerTypes, features: int, kernel_size: Sequence[int], *, is_last: bool) -> Iterator[nn.Module]:
    """A convolution per axis with an activation between them; a norm after the last, and an activation unless last."""
    kernels = split_kernel(kernel_size)
    for position, kernel in enumerate(kernels):
        yield layers.convolution(
            features,
            features,
            kernel_size=kernel,  # type: ignore[arg-type]  # torch wants tuples of fixed length
            padding=tuple(size // 2 for size in kernel),  # type: ignore[arg-type]
        )
        if position < len(kernels) - 1:
            yield nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
    yield layers.normalization(features, eps=NORMALIZATION_EPSILON)
    if not is_last:
        yield nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
