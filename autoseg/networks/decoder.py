"""The expanding half of a network, with segmentation heads; its levels are those of a U-Net, others are in `unext`.

Tested in tests/networks/test_unet.py and tests/networks/test_residual.py.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import choose_layers, stack_blocks
from autoseg.records.network import NetworkSpec


class DecoderLevel(nn.Module):
    """Upsample the level below, join it with the encoder's features, convolve.

    The transposed convolution's kernel equals its stride, which is the encoder's stride of the level below, so the
    output has exactly the size of the encoder's features. The convolutions have the encoder's kernel of this level.
    """

    def __init__(self, spec: NetworkSpec, level: int) -> None:
        super().__init__()
        layers = choose_layers(spec.dimensions, spec.normalization)
        features, features_below = spec.features[level], spec.features[level + 1]
        stride_below = spec.strides[level + 1]
        self.upsampling = layers.transposed_convolution(
            features_below,
            features,
            kernel_size=stride_below,  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=stride_below,  # type: ignore[arg-type]
        )
        self.blocks = stack_blocks(
            layers,
            2 * features,
            features,
            spec.kernel_sizes[level],
            first_stride=(1,) * spec.dimensions,
            num_blocks=spec.decoder_blocks[level],
        )

    @override
    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Features of the level below and of the encoder at this level, (B, F, *S) -> features of this level."""
        merged: Tensor = self.blocks(torch.cat((self.upsampling(below), skip), dim=1))
        return merged


def decoder_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """A U-Net's decoder levels, full resolution first."""
    return (DecoderLevel(spec, level) for level in range(len(spec.features) - 1))


class Decoder(nn.Module):
    """All decoder levels and their heads.

    With deep supervision in the spec every level has a head, used or not, so that weights fit whether training sees
    all of them or not; otherwise only level 0 has one.

    Parameter names: `levels.<level>...` (of a U-Net `upsampling|blocks.<block>...`) and `heads.<level>`, level 0 at
    full resolution.
    """

    def __init__(self, spec: NetworkSpec, levels: Iterable[nn.Module]) -> None:
        """Make the heads.

        Args:
            spec: The network.
            levels: Full resolution first; each takes the features of the level below and the encoder's at its own.
        """
        super().__init__()
        self.levels = nn.ModuleList(levels)
        convolution = choose_layers(spec.dimensions).convolution
        supervised = spec.features[:-1] if spec.deep_supervision else spec.features[:1]
        self.heads = nn.ModuleList(
            convolution(features, spec.output_channels, kernel_size=1) for features in supervised
        )

    @override
    def forward(self, maps: Sequence[Tensor], *, all_levels: bool) -> list[Tensor]:
        """The encoder's features -> logits of all levels that have a head or of level 0; full resolution first."""
        logits: list[Tensor] = []
        num_outputs = len(self.heads) if all_levels else 1
        features = maps[-1]
        for level in reversed(range(len(self.levels))):
            features = self.levels[level](features, maps[level])
            if level < num_outputs:
                logits.append(self.heads[level](features))
        return logits[::-1]
