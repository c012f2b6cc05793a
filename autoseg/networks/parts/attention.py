"""Attention inside a level: weights for feature maps, for voxels, or for both.

Tested in tests/networks/parts/test_levels.py.
"""

from typing import Final

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LayerTypes

REDUCTION: Final = 16
"""How many times as narrow the hidden layer of channel attention is."""

MIN_HIDDEN: Final = 4
"""Least width of that layer; narrow networks would have none otherwise."""


def hidden_features(features: int) -> int:
    """Width of the hidden layer of channel attention."""
    return max(MIN_HIDDEN, features // REDUCTION)


class ChannelAttention(nn.Module):
    """Every feature map is multiplied by a weight in (0, 1), made from the means of all.

    References:
        Hu et al., "Squeeze-and-excitation networks", 2018.
    """

    def __init__(self, layers: LayerTypes, features: int) -> None:
        super().__init__()
        hidden = hidden_features(features)
        self.axes = tuple(range(2, 2 + layers.dimensions))
        self.weighting = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, features), nn.Sigmoid()
        )

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        weights: Tensor = self.weighting(features.mean(self.axes))
        return features * weights.view(*weights.shape, *(1,) * len(self.axes))


class SpatialAttention(nn.Module):
    """Every voxel is multiplied by a weight in (0, 1), made from its own features.

    References:
        Roy et al., "Concurrent spatial and channel squeeze & excitation in fully convolutional networks", 2018, sSE.
    """

    def __init__(self, layers: LayerTypes, features: int) -> None:
        super().__init__()
        self.weighting = nn.Sequential(layers.convolution(features, 1, kernel_size=1), nn.Sigmoid())

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        weighted: Tensor = features * self.weighting(features)
        return weighted


class MixedAttention(nn.Module):
    """The sum of channel attention and spatial attention.

    References:
        Roy et al., "Concurrent spatial and channel squeeze & excitation in fully convolutional networks", 2018, scSE
        with addition.
    """

    def __init__(self, layers: LayerTypes, features: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(layers, features)
        self.spatial = SpatialAttention(layers, features)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, F, *S) -> (B, F, *S)."""
        both: Tensor = self.channel(features) + self.spatial(features)
        return both
