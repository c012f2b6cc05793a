"""Whether a low-resolution configuration is worth training, and at which spacing.

Called after `3d_fullres` was planned.

Example: median shape 482 x 512 x 512 at 1 x 0.7676 x 0.7676 mm, patch 128 x 128 x 128: the patch sees 1.7 % of an
image. The spacing grows by 3 % at a time; after 31 steps it is 2.5 x 1.919 x 1.919 mm, the image has
193 x 205 x 205 voxels, and the patch sees a quarter of them.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): U-Net cascade.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.records.case import Spacing
from planners.rules import Decided

COVERED_FRACTION = 0.25
"""A patch that sees less of the median image than this lacks context."""

SPACING_FACTOR = 1.03
"""Growth per step; smaller steps change nothing that can be seen."""

MAX_SPACING_RATIO = 2.0
"""Finer axes grow alone until none is finer than the coarsest by more than this factor."""

MIN_GAIN = 2.0
"""With fewer than this many times fewer voxels a second resolution shows nothing new."""

MAX_STEPS = 500
"""A spacing 2.6 million times as large: reached only if something is wrong with the data."""


@dataclass(frozen=True)
class LowResolution:
    """A coarser spacing and what images look like there."""

    spacing: Spacing
    median_shape: tuple[float, float, float]
    """Rounded, voxels; at least 1."""
    image_voxels: float
    """Voxels of the median image, before its shape is rounded."""


def coarser_resolutions(spacing: Spacing, median_shape: Sequence[float]) -> Iterator[LowResolution]:
    """Ever coarser spacings, by SPACING_FACTOR from one to the next; MAX_STEPS of them.

    Args:
        spacing: Full resolution, (z, y, x), mm.
        median_shape: Median image at full resolution, (z, y, x), voxels.
    """
    fine, shape = np.array(spacing), np.array(median_shape)
    coarse = fine.copy()
    for _ in range(MAX_STEPS):
        coarse = _coarser(coarse)
        yield _at(fine, shape, coarse)


def covered_fraction(patch_size: Sequence[int], image_voxels: float) -> float:
    """Voxels of a patch as a fraction of those of the median image; above 1 for a patch that is larger."""
    return math.prod(patch_size) / image_voxels


def choose_low_resolution(covered: float, low: LowResolution | None, low_covered: float, gain: float) -> Decided[bool]:
    """Whether the first spacing at which a patch covers enough is planned.

    Args:
        covered: Fraction of the median image that a patch covers at full resolution.
        low: The coarser spacing; None when a patch covers COVERED_FRACTION already at full resolution.
        low_covered: Fraction that a patch covers at the coarser spacing.
        gain: How many times fewer voxels the median image has at the coarser spacing.
    """
    seen = f"A full-resolution patch covers {min(covered, 1.0):.0%} of the median image"
    if low is None:
        return Decided(False, f"{seen}, no less than {COVERED_FRACTION:.0%}, so it sees enough context.")
    if gain < MIN_GAIN:
        return Decided(
            False,
            f"{seen}, but the spacing at which it would cover {COVERED_FRACTION:.0%} has hardly fewer voxels "
            f"(less than {MIN_GAIN:g} times).",
        )
    return Decided(
        True,
        f"{seen}, less than {COVERED_FRACTION:.0%}; at {_text(low.spacing)} mm it covers {min(low_covered, 1.0):.0%} "
        "and sees the context that the full resolution lacks.",
    )


def _coarser(spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    finer_axes = max(spacing) / spacing > MAX_SPACING_RATIO
    growing = finer_axes if finer_axes.any() else np.ones(3, dtype=bool)
    return np.where(growing, spacing * SPACING_FACTOR, spacing)


def _at(fine: NDArray[np.float64], shape: NDArray[np.float64], coarse: NDArray[np.float64]) -> LowResolution:
    exact = fine / coarse * shape
    z, y, x = (float(max(round(size), 1)) for size in exact)
    return LowResolution((float(coarse[0]), float(coarse[1]), float(coarse[2])), (z, y, x), float(np.prod(exact)))


def _text(spacing: Sequence[float]) -> str:
    return " x ".join(f"{value:.3g}" for value in spacing)
