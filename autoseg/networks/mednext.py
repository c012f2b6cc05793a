"""The levels of MedNeXt as published: its block does everything, changes of resolution included."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import choose_layers
from autoseg.networks.parts.mednext import MedNeXtBlock, MedNeXtUpBlock
from autoseg.records.network import NetworkSpec


def mednext_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """The encoder: a 1 x 1 convolution or the downsampling block, then the blocks of each level.

    Parameter names: at level 0 block 0 is the stem, `0.weight|bias`; others are
    `<block>.depthwise|normalization|expansion|compression.weight|bias`, of a downsampling block `shortcut.weight|bias`
    too, with response normalisation `response.scale|shift`.

    References:
        Roy et al., "MedNeXt: transformer-driven scaling of ConvNets for medical image segmentation", MICCAI 2023.
        Differs: levels, strides and kernels from the spec.
    """
    layers = choose_layers(spec.dimensions, spec.normalization)
    yield nn.Sequential(
        layers.convolution(spec.input_channels, spec.features[0], kernel_size=1),
        *_blocks(spec, 0, spec.encoder_blocks[0]),
    )
    for level in range(1, len(spec.features)):
        downsampling = _block(
            MedNeXtBlock, spec, spec.features[level - 1], level, spec.kernel_sizes[level], spec.strides[level]
        )
        yield nn.Sequential(downsampling, *_blocks(spec, level, spec.encoder_blocks[level]))


def mednext_decoder_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """The decoder's levels, full resolution first."""
    return (MedNeXtDecoderLevel(spec, level) for level in range(len(spec.features) - 1))


class MedNeXtDecoderLevel(nn.Module):
    """The upsampling block, the encoder's features added, the blocks of the level.

    Parameter names: `upsampling...` and `blocks.<block>...`, as in the encoder.
    """

    def __init__(self, spec: NetworkSpec, level: int) -> None:
        """Make the layers.

        Args:
            spec: The network.
            level: Level of the output, 0 at full resolution.
        """
        super().__init__()
        below = level + 1
        self.upsampling = _block(
            MedNeXtUpBlock, spec, spec.features[below], level, spec.kernel_sizes[below], spec.strides[below]
        )
        self.blocks = nn.Sequential(*_blocks(spec, level, spec.decoder_blocks[level]))

    @override
    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Features of the level below and of the encoder at this level, (B, F, *S) -> features of this level."""
        merged: Tensor = self.blocks(self.upsampling(below) + skip)
        return merged


def _blocks(spec: NetworkSpec, level: int, num_blocks: int) -> Iterator[nn.Module]:
    """Blocks that keep size and width."""
    for _ in range(num_blocks):
        yield _block(MedNeXtBlock, spec, spec.features[level], level, spec.kernel_sizes[level], (1,) * spec.dimensions)


def _block(
    make_block: type[MedNeXtBlock],
    spec: NetworkSpec,
    in_features: int,
    level: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
) -> nn.Module:
    """A block whose output has the width of a level; its hidden layer is that of the level, too."""
    return make_block(
        choose_layers(spec.dimensions, spec.normalization),
        in_features,
        spec.features[level],
        kernel_size,
        stride,
        expansion=spec.expansions[level],
        response_normalization=spec.response_normalization,
    )
