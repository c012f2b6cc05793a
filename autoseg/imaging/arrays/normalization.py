"""Intensity normalisation, channel by channel, at native resolution. The plan says which scheme; this applies it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.statistics import compute_moments
from autoseg.records.network import NormalizationSpec

MIN_DIVISOR = 1e-8
"""Smallest divisor, so that a constant image stays finite."""


def normalize_image(
    image: NDArray[np.float32], inside: NDArray[np.bool_] | None, specs: Sequence[NormalizationSpec]
) -> None:
    """Normalise every channel; overwrites `image`.

    Args:
        image: (C, Z, Y, X).
        inside: The nonzero mask on the same grid, (Z, Y, X); None is enough when no spec uses it.
        specs: One normalisation per channel.

    Raises:
        DatasetError: If there is not one spec per channel, or a channel called RGB has values outside 0..255.

    References:
        nnU-Net v2 (Isensee et al. 2021, Nature Methods), intensity normalisation: z-score per case, CT by the
        dataset's foreground statistics. Differs: a case without any voxel inside the mask becomes zeros, not NaN.
    """
    if len(specs) != image.shape[0]:
        raise DatasetError(
            f"the image has {image.shape[0]} channel(s), but the plan normalises {len(specs)}. "
            "Give the channels that the plan was made for, in its order"
        )
    for index, (channel, spec) in enumerate(zip(image, specs, strict=True)):
        match spec.scheme:
            case "zscore":
                _standardize(channel, inside if spec.use_mask else None)
            case "ct":
                np.clip(channel, spec.lower, spec.upper, out=channel)
                channel -= spec.mean
                channel /= max(spec.std, MIN_DIVISOR)
            case "rescale_0_1":
                channel -= channel.min()
                channel /= max(float(channel.max()), MIN_DIVISOR)
            case "rgb_0_1":
                _check_picture_range(channel, index)
                channel /= 255
            case "none":
                pass


def _standardize(channel: NDArray[np.float32], inside: NDArray[np.bool_] | None) -> None:
    """Subtract the mean and divide by the population standard deviation; voxels outside the mask become 0."""
    if inside is None:
        moments = compute_moments(channel)
    else:
        moments = compute_moments(plane[kept] for plane, kept in zip(channel, inside, strict=True))
    channel -= moments.mean
    channel /= max(float(np.sqrt(moments.variance)), MIN_DIVISOR)
    if inside is not None:
        channel[~inside] = 0


def _check_picture_range(channel: NDArray[np.float32], index: int) -> None:
    lowest, highest = float(channel.min()), float(channel.max())
    if lowest < 0 or highest > 255:
        raise DatasetError(
            f"channel {index}: values from {lowest:g} to {highest:g} found, but RGB must stay within 0..255; "
            "rename the channel (any other name gives z-score) and plan again"
        )
