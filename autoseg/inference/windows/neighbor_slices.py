"""The channels of an image with those of neighbouring slices, for 2D networks that see some slices on each side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def append_neighbors(channels: Sequence[NDArray[np.float32]], neighbor_slices: int) -> tuple[NDArray[np.float32], ...]:
    """Channels whose slice z holds what the network gets of the slices z - N to z + N, in the order of the slices.

    Args:
        channels: C arrays (Z, Y, X).
        neighbor_slices: N.

    Returns:
        C * (2 N + 1) arrays (Z, Y, X): all channels of the slice before, and so on. Beyond the image its first or last
        slice is repeated. They are views of one padded copy of each channel; the channels themselves if N is 0.
    """
    if neighbor_slices == 0:
        return tuple(channels)
    reach = (neighbor_slices, neighbor_slices)
    padded = [np.pad(channel, (reach, (0, 0), (0, 0)), mode="edge") for channel in channels]
    return tuple(
        channel[start : start + channel.shape[0] - 2 * neighbor_slices]
        for start in range(2 * neighbor_slices + 1)
        for channel in padded
    )
