"""The contracting half of the U-Net."""

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import stack_blocks
from autoseg.records.plan import NetworkSpec


class Encoder(nn.Module):
    """One stack of convolution blocks per level; strided convolutions lead from level to level.

    Parameter names: `levels.<level>.<block>.convolution|normalization.weight|bias`, level 0 at full resolution.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        in_features = (spec.input_channels, *spec.features[:-1])
        self.levels = nn.ModuleList(
            stack_blocks(
                spec.dimensions,
                in_features[level],
                spec.features[level],
                spec.kernel_sizes[level],
                first_stride=spec.strides[level],
                num_blocks=spec.encoder_convolutions[level],
            )
            for level in range(len(spec.features))
        )

    @override
    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the features of every level, full resolution first."""
        maps: list[Tensor] = []
        features = image
        for level in self.levels:
            features = level(features)
            maps.append(features)
        return maps
