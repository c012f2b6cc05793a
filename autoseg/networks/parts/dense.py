"""Dense blocks: every layer sees the answers of all layers before it.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import ConvolutionBlock, LayerTypes

NUM_LAYERS: Final = 4
"""Layers of a block; each adds a quarter of the block's feature maps."""


def dense_growth(features: int) -> int:
    """Feature maps that each layer of a block adds, rounded up."""
    return -(-features // NUM_LAYERS)


class DenseBlock(nn.Module):
    """Four layers, each on the concatenation of the input and of all earlier layers, then a 1 x 1 block.

    References:
        Huang et al., "Densely connected convolutional networks", 2017; in a U-Net as in Li et al., "H-DenseUNet", 2018.
        Differs: convolution, norm, activation in this project's order; a strided convolution block leads in.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        ones, growth, width = (1,) * layers.dimensions, dense_growth(out_features), in_features
        self.entry: nn.Module = nn.Identity()
        if tuple(stride) != ones:
            self.entry = ConvolutionBlock(layers, in_features, out_features, kernel_size, stride)
            width = out_features
        self.layers = nn.ModuleList(
            ConvolutionBlock(layers, width + position * growth, growth, kernel_size, ones)
            for position in range(NUM_LAYERS)
        )
        self.transition = ConvolutionBlock(layers, width + NUM_LAYERS * growth, out_features, ones, ones)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        joined: Tensor = self.entry(features)
        for layer in self.layers:
            joined = torch.cat((joined, layer(joined)), dim=1)
        compressed: Tensor = self.transition(joined)
        return compressed
