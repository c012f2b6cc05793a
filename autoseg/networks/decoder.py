"""The expanding half of the U-Net, with a segmentation head at every level."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LAYER_TYPES, stack_blocks
from autoseg.records.plan import NetworkSpec


class DecoderLevel(nn.Module):
    """Upsample the level below, join it with the encoder's features, convolve.

    The transposed convolution's kernel equals its stride, which is the encoder's stride of the level below, so the
    output has exactly the size of the encoder's features. The convolutions have the encoder's kernel of this level.
    """

    def __init__(self, spec: NetworkSpec, level: int) -> None:
        super().__init__()
        layers = LAYER_TYPES[spec.dimensions]
        features, features_below = spec.features[level], spec.features[level + 1]
        stride_below = spec.strides[level + 1]
        self.upsampling = layers.transposed_convolution(
            features_below,
            features,
            kernel_size=stride_below,  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=stride_below,  # type: ignore[arg-type]
        )
        self.blocks = stack_blocks(
            spec.dimensions,
            2 * features,
            features,
            spec.kernel_sizes[level],
            first_stride=(1,) * spec.dimensions,
            num_blocks=spec.decoder_convolutions[level],
        )

    @override
    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Features of the level below and of the encoder at this level, (B, F, *S) -> features of this level."""
        merged: Tensor = self.blocks(torch.cat((self.upsampling(below), skip), dim=1))
        return merged


class Decoder(nn.Module):
    """All decoder levels; every one has a head, used or not, so that weights fit with and without deep supervision.

    Parameter names: `levels.<level>.upsampling|blocks.<block>...` and `heads.<level>`, level 0 at full resolution.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.levels = nn.ModuleList(DecoderLevel(spec, level) for level in range(len(spec.features) - 1))
        convolution = LAYER_TYPES[spec.dimensions].convolution
        self.heads = nn.ModuleList(
            convolution(features, spec.output_channels, kernel_size=1) for features in spec.features[:-1]
        )

    @override
    def forward(self, maps: Sequence[Tensor], *, all_levels: bool) -> list[Tensor]:
        """The encoder's features, full resolution first -> logits, full resolution first, of all levels or of one."""
        logits: list[Tensor] = []
        features = maps[-1]
        for level in reversed(range(len(self.levels))):
            features = self.levels[level](features, maps[level])
            if all_levels or level == 0:
                logits.append(self.heads[level](features))
        return logits[::-1]
