"""The levels of a U-Net, made of the parts that its spec names.

Tested in tests/networks/test_unet.py and tests/networks/parts/test_levels.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import ConvolutionBlock, LayerTypes, choose_layers
from autoseg.networks.parts.attention import ChannelAttention, MixedAttention, SpatialAttention
from autoseg.networks.parts.bottlenecks import AtrousPyramid, NonLocal, PoolingPyramid
from autoseg.networks.parts.dense import DenseBlock
from autoseg.networks.parts.inception import InceptionBlock, MultiResBlock
from autoseg.networks.parts.mednext import MedNeXtBlock
from autoseg.networks.parts.recurrent import RecurrentBlock
from autoseg.networks.parts.separable import FactorizedBlock, SeparableBlock
from autoseg.networks.parts.skips import AttentionGate, PlainSkip, ResidualPath
from autoseg.networks.residual import ResidualBlock
from autoseg.records.network import Attention, Block, NetworkSpec


class BlockType(Protocol):
    """A kind of block: a module (B, C, *S) -> (B, F, *S / stride)."""

    def __call__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> nn.Module:
        """Make a block with fresh weights."""


BLOCKS: Final[Mapping[Block, BlockType]] = MappingProxyType(
    {
        "plain": ConvolutionBlock,
        "residual": ResidualBlock,
        "recurrent": RecurrentBlock,
        "dense": DenseBlock,
        "inception": InceptionBlock,
        "multires": MultiResBlock,
        "separable": SeparableBlock,
        "factorized": FactorizedBlock,
        "mednext": MedNeXtBlock,
    }
)

ATTENTIONS: Final[Mapping[Attention, type[ChannelAttention | SpatialAttention | MixedAttention]]] = MappingProxyType(
    {"channel": ChannelAttention, "spatial": SpatialAttention, "mixed": MixedAttention}
)


def convolution_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """One stack of blocks per level, the first with the level's stride; the bottleneck ends the lowest level.

    Parameter names: `<block>...`, of a plain block `<block>.convolution|normalization.weight|bias`; attention and
    bottleneck follow the blocks.
    """
    in_features = spec.input_channels
    for level, features in enumerate(spec.features):
        modules = list(_stack(spec, in_features, level, spec.strides[level], spec.encoder_blocks[level]))
        if level == len(spec.features) - 1:
            modules += _list_bottleneck(spec, features, level)
        yield nn.Sequential(*modules)
        in_features = features


def _stack(
    spec: NetworkSpec, in_features: int, level: int, first_stride: Sequence[int], num_blocks: int
) -> Iterator[nn.Module]:
    """Blocks of one level, and what weights their features."""
    layers, features = choose_layers(spec.dimensions, spec.normalization), spec.features[level]
    make_block, no_stride = BLOCKS[spec.block], (1,) * spec.dimensions
    for position in range(num_blocks):
        inputs, stride = (in_features, first_stride) if position == 0 else (features, no_stride)
        yield make_block(layers, inputs, features, spec.kernel_sizes[level], stride)
    if spec.attention != "none":
        yield ATTENTIONS[spec.attention](layers, features)


def _list_bottleneck(spec: NetworkSpec, features: int, level: int) -> list[nn.Module]:
    layers, kernel_size = choose_layers(spec.dimensions, spec.normalization), spec.kernel_sizes[level]
    match spec.bottleneck:
        case "plain":
            return []
        case "nonlocal":
            return [NonLocal(layers, features)]
        case "pyramid":
            return [PoolingPyramid(layers, features, kernel_size)]
        case "atrous":
            return [AtrousPyramid(layers, features, kernel_size)]
        case "atrous_nonlocal":
            return [AtrousPyramid(layers, features, kernel_size), NonLocal(layers, features)]


def make_upsampling(spec: NetworkSpec, level: int) -> nn.Module:
    """Transposed convolution to a level from the one below it.

    Its kernel equals its stride, which is the encoder's stride of the level below, so the output has exactly the size
    of the encoder's features.
    """
    stride_below = spec.strides[level + 1]
    return choose_layers(spec.dimensions).transposed_convolution(
        spec.features[level + 1],
        spec.features[level],
        kernel_size=stride_below,  # type: ignore[arg-type]  # torch wants tuples of fixed length
        stride=stride_below,  # type: ignore[arg-type]
    )


def join_blocks(spec: NetworkSpec, level: int, inputs: int) -> nn.Sequential:
    """Blocks of a decoder level over so many concatenated feature maps; kernels are the encoder's."""
    return nn.Sequential(*_stack(spec, inputs, level, (1,) * spec.dimensions, spec.decoder_blocks[level]))


class DecoderLevel(nn.Module):
    """Upsample the level below, join it with the encoder's features, convolve.

    Parameter names: `upsampling`, `blocks.<block>...`, and `skip...` where the skip has some.
    """

    def __init__(self, spec: NetworkSpec, level: int, skip_features: int | None = None) -> None:
        """Make the layers.

        Args:
            spec: The network.
            level: Level of the output, 0 at full resolution.
            skip_features: Feature maps that the encoder gives at this level; None: as many as the level has.
        """
        super().__init__()
        features = spec.features[level]
        self.upsampling = make_upsampling(spec, level)
        self.blocks = join_blocks(spec, level, features + (features if skip_features is None else skip_features))
        self.skip = _make_skip(spec, level)

    @override
    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Features of the level below and of the encoder at this level, (B, F, *S) -> features of this level."""
        upsampled = self.upsampling(below)
        merged: Tensor = self.blocks(torch.cat((upsampled, self.skip(skip, upsampled)), dim=1))
        return merged


def _make_skip(spec: NetworkSpec, level: int) -> nn.Module:
    layers = choose_layers(spec.dimensions, spec.normalization)
    match spec.skip:
        case "gate":
            return AttentionGate(layers, spec.features[level])
        case "respath":
            return ResidualPath(layers, spec.features[level], spec.kernel_sizes[level], level)
        case _:
            return PlainSkip()


def decoder_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """A U-Net's decoder levels, full resolution first."""
    return (DecoderLevel(spec, level) for level in range(len(spec.features) - 1))
