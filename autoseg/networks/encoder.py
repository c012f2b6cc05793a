"""The contracting half of a network; its levels are plain convolutions here, others are in `residual` and `unext`.

Tested in tests/networks/test_unet.py and tests/networks/test_residual.py.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import choose_layers, stack_blocks
from autoseg.records.network import NetworkSpec


class Encoder(nn.Module):
    """Levels one after the other, each of which works on the features of the one above it.

    Parameter names: `levels.<level>...`, level 0 at full resolution.
    """

    def __init__(self, levels: Iterable[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    @override
    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the features of every level, full resolution first."""
        maps: list[Tensor] = []
        features = image
        for level in self.levels:
            features = level(features)
            maps.append(features)
        return maps


def convolution_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """One stack of convolution blocks per level; strided convolutions lead from level to level.

    Parameter names: `<block>.convolution|normalization.weight|bias`.
    """
    layers = choose_layers(spec.dimensions, spec.normalization)
    in_features = spec.input_channels
    for level, features in enumerate(spec.features):
        yield stack_blocks(
            layers,
            in_features,
            features,
            spec.kernel_sizes[level],
            first_stride=spec.strides[level],
            num_blocks=spec.encoder_blocks[level],
        )
        in_features = features
