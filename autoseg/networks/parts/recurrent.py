"""Recurrent residual blocks, which see their own answer again.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import ConvolutionBlock, LayerTypes
from autoseg.networks.parts.entry import enter_block

REPETITIONS: Final = 2
"""How many times a layer sees the sum of its input and its answer."""


class RecurrentLayer(nn.Module):
    """One convolution block, applied to its input, and then to the sum of its input and its last answer."""

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        ones = (1,) * layers.dimensions
        self.block = ConvolutionBlock(layers, features, features, kernel_size, ones)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        answer: Tensor = self.block(features)
        for _ in range(REPETITIONS):
            answer = self.block(features + answer)
        return answer


class RecurrentBlock(nn.Module):
    """Two recurrent layers and a shortcut around both.

    References:
        Alom et al., "Recurrent residual convolutional neural network based on U-Net (R2U-Net) for medical image
        segmentation", 2018, with two repetitions. Differs: norms and activation of this project; a convolution block
        leads in where size or width change.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.entry = enter_block(layers, in_features, out_features, kernel_size, stride)
        self.layers = nn.Sequential(*(RecurrentLayer(layers, out_features, kernel_size) for _ in range(2)))

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        entered = self.entry(features)
        added: Tensor = entered + self.layers(entered)
        return added
