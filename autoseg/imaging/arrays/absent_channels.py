"""Channels that an image lacks: zeros in the array, which is how reading, preprocessing and prediction know them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fill_absent_channels(image: NDArray[np.float32], absent: Sequence[int]) -> NDArray[np.float32]:
    """The image with a channel of zeros for each one that it lacks.

    Args:
        image: The channels that it has, (C - A, Z, Y, X).
        absent: Numbers of the A others.

    Returns:
        (C, Z, Y, X); the image itself if it lacks none.
    """
    if not absent:
        return image
    filled = np.zeros((len(image) + len(absent), *image.shape[1:]), dtype=image.dtype)
    present = (channel for channel in range(len(filled)) if channel not in absent)
    for channel, values in zip(present, image, strict=True):
        filled[channel] = values
    return filled


def find_absent_channels(image: NDArray[np.float32]) -> tuple[int, ...]:
    """Numbers of the channels of (C, Z, Y, X) whose voxels are all 0: those that an image lacks."""
    return tuple(number for number, channel in enumerate(image) if not channel.any())
