"""Curves of intensity that bring an image's distribution to another one: histogram matching.

quantiles of the image -> quantiles of the training images, linear between them and beyond
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class IntensityMap:
    """A curve through some points; a straight line through the outermost points continues it on both sides."""

    source: NDArray[np.float64]
    """Intensities of the image, (P,), strictly ascending, P > 1."""
    target: NDArray[np.float64]
    """Intensities that they become, (P,), all ascending or all descending."""
    limits: tuple[float, float] = (-np.inf, np.inf)
    """Smallest and largest intensity that may come out."""


def match_quantiles(
    found: NDArray[np.float64], wanted: NDArray[np.float64], *, inverted: bool = False
) -> IntensityMap | None:
    """The curve that gives an image other quantiles; None for an image of one intensity.

    Args:
        found: Quantiles of the image at some levels, (Q,), ascending.
        wanted: Quantiles at the same levels, which lie symmetrically about one half, (Q,), ascending.
        inverted: Whether the brightest voxels become the darkest ones.

    References:
        Gonzalez and Woods, "Digital image processing", histogram specification; between quantiles as piecewise linear
        landmarks of Nyul and Udupa 1999, "On standardizing the MR image intensity scale".
    """
    source, places = np.unique(found, return_inverse=True)
    if len(source) < 2:
        return None
    ordered = wanted[::-1] if inverted else wanted
    target = np.bincount(places, weights=ordered) / np.bincount(places)  # several levels of one intensity: their mean
    return IntensityMap(source, target)


def apply_map(channel: NDArray[np.float32], curve: IntensityMap) -> None:
    """Overwrite a channel, (Z, Y, X), by what the curve makes of it; one plane at a time."""
    source, target = curve.source, curve.target
    slope = (target[-1] - target[0]) / (source[-1] - source[0])
    for plane in channel:
        beyond = plane - np.clip(plane, source[0], source[-1])
        plane[...] = np.clip(np.interp(plane, source, target) + slope * beyond, *curve.limits)
