"""What leads into a block whose own layers keep size and width.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence

from torch import nn

from autoseg.networks.blocks import ConvolutionBlock, LayerTypes


def enter_block(
    layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
) -> nn.Module:
    """Nothing, or the convolution block that changes the size, or the 1 x 1 block that changes the width alone.

    Its module takes (B, C, *S) to (B, F, *S / stride).
    """
    ones = (1,) * layers.dimensions
    if tuple(stride) != ones:
        return ConvolutionBlock(layers, in_features, out_features, kernel_size, stride)
    if in_features != out_features:
        return ConvolutionBlock(layers, in_features, out_features, ones, ones)
    return nn.Identity()
