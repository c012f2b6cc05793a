"""What happens to features of the encoder on their way to the decoder.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LEAKY_SLOPE, ConvolutionBlock, LayerTypes

MAX_STEPS: Final = 4
"""Steps of the residual path at full resolution; one fewer at each level below, at least one."""


class PlainSkip(nn.Module):
    """Hands the encoder's features on as they are."""

    @override
    def forward(self, skip: Tensor, _upsampled: Tensor) -> Tensor:
        """Features of the encoder and of the level below, upsampled, (B, F, *S) each -> (B, F, *S)."""
        return skip


def gate_features(features: int) -> int:
    """Feature maps in which a gate compares, half of its level's."""
    return max(1, features // 2)


class AttentionGate(nn.Module):
    """Weights every voxel of the encoder's features by how well they suit those of the level below.

    References:
        Oktay et al., "Attention U-Net: learning where to look for the pancreas", 2018, additive gate. Differs: the
        gating signal is the level below after its upsampling, so that nothing has to be resized.
    """

    def __init__(self, layers: LayerTypes, features: int) -> None:
        super().__init__()
        ones, width = (1,) * layers.dimensions, gate_features(features)
        self.of_skip = ConvolutionBlock(layers, features, width, ones, ones, activation=nn.Identity())
        self.of_gate = ConvolutionBlock(layers, features, width, ones, ones, activation=nn.Identity())
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
        self.weighting = ConvolutionBlock(layers, width, 1, ones, ones, activation=nn.Sigmoid())

    @override
    def forward(self, skip: Tensor, upsampled: Tensor) -> Tensor:
        """Features of the encoder and of the level below, upsampled, (B, F, *S) each -> (B, F, *S)."""
        compared = self.activation(self.of_skip(skip) + self.of_gate(upsampled))
        weighted: Tensor = skip * self.weighting(compared)
        return weighted


def path_length(level: int) -> int:
    """Number of steps of the residual path of a level, 0 being full resolution."""
    return max(1, MAX_STEPS - level)


class PathStep(nn.Module):
    """A convolution and a 1 x 1 convolution side by side, added."""

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        ones, nothing = (1,) * layers.dimensions, nn.Identity()
        self.convolution = ConvolutionBlock(layers, features, features, kernel_size, ones, activation=nothing)
        self.shortcut = ConvolutionBlock(layers, features, features, ones, ones, activation=nothing)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        activated: Tensor = self.activation(self.convolution(features) + self.shortcut(features))
        return activated


class ResidualPath(nn.Module):
    """A chain of convolutions with shortcuts, longer where the encoder is far from the decoder.

    References:
        Ibtehaz and Rahman, "MultiResUNet", 2020, Res path of 4, 3, 2 and 1 steps.
    """

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int], level: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(*(PathStep(layers, features, kernel_size) for _ in range(path_length(level))))

    @override
    def forward(self, skip: Tensor, _upsampled: Tensor) -> Tensor:
        """Features of the encoder and of the level below, upsampled, (B, F, *S) each -> (B, F, *S)."""
        converted: Tensor = self.steps(skip)
        return converted
