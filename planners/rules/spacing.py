"""Which spacings images are resampled to, and which axis comes first.

The target spacing is chosen first by every planner; everything else follows from it. Once `3d_fullres` has a patch,
a low resolution is looked for: whether a second, coarser configuration is worth training, and at which spacing.

Example of a target: spacings 10 x 1.56 x 1.56 mm in most cases and 5 x 1.56 x 1.56 mm in a tenth of them, 10 slices of
256 x 216 voxels. The slices are more than 3 times as far apart as pixels, and 10 * 3 < 216, so the through-plane
target is the 10th percentile, 5 mm: thick slices are interpolated, thin ones are not thrown away.

Example of a low resolution: median shape 482 x 512 x 512 at 1 x 0.7676 x 0.7676 mm, patch 128 x 128 x 128: the patch
sees 1.7 % of an image. The spacing grows by 3 % at a time; after 31 steps it is 2.5 x 1.919 x 1.919 mm, the image has
193 x 205 x 205 voxels, and the patch sees a quarter of them.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): target spacing, anisotropic data, axis order, U-Net cascade.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.costs.windows import resampled_shape
from autoseg.records.case import Spacing, Triple
from planners.rules import Decided

ANISOTROPY_THRESHOLD = 3.0
"""Slices count as far apart when their spacing exceeds this many in-plane spacings, and when the in-plane axes have
this many times more voxels: only then is the through-plane axis treated on its own."""

ANISOTROPIC_PERCENTILE = 10
"""Through-plane target of such data: the median would blur thin slices away, the minimum would follow outliers."""

SPACING_MARGIN_MM = 1e-5
"""Keeps the through-plane axis the largest after its spacing was lowered, so that it still comes first."""

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


def choose_target_spacing(spacings: Sequence[Spacing], shapes: Sequence[Triple]) -> Decided[Spacing]:
    """Median spacing per axis; the 10th percentile along a far coarser axis.

    Args:
        spacings: Per case, (z, y, x), mm.
        shapes: Per case after cropping, (z, y, x), voxels.

    Returns:
        The target (z, y, x) in mm.
    """
    table = np.array(spacings, dtype=np.float64)
    target = np.percentile(table, 50, axis=0)
    shape = np.percentile(np.array(shapes), 50, axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    largest_other = float(max(target[others]))
    far_apart = target[coarse] > ANISOTROPY_THRESHOLD * largest_other
    few_slices = shape[coarse] * ANISOTROPY_THRESHOLD < min(shape[others])
    reason = "Median spacing of the cases: half of them are made coarser, half finer, none by much."
    if far_apart and few_slices:
        lowered = float(np.percentile(table[:, coarse], ANISOTROPIC_PERCENTILE))
        if lowered < largest_other:
            lowered = largest_other + SPACING_MARGIN_MM
        if lowered != target[coarse]:
            reason = (
                f"Median spacing in plane; {lowered:.4g} mm (10th percentile) through plane instead of the median "
                f"{target[coarse]:.4g} mm, because slices are more than {ANISOTROPY_THRESHOLD:g} times as far apart as "
                "pixels and the thinner slices would lose detail."
            )
        target[coarse] = lowered
    return Decided(_triple(target), reason)


def choose_transpose(spacing: Spacing, median_shape: tuple[float, float, float]) -> Decided[Triple]:
    """Axis order: the axis of largest spacing first, the two others as they were; the first of equals wins.

    Data with one slice has that axis first, whatever its spacing. nnU-Net looks at the spacing alone and then plans
    such data as 3D, or 2D networks across the slice.

    Args:
        spacing: Target, (z, y, x), mm.
        median_shape: At the target spacing, (z, y, x), voxels.

    Returns:
        Axis order: transposed axis i is axis order[i].
    """
    single = [axis for axis in range(3) if median_shape[axis] <= 1]
    first = single[0] if len(single) == 1 else int(np.argmax(spacing))
    order = (first, *(axis for axis in range(3) if axis != first))
    if len(single) == 1:
        reason = "The images have a single slice along this axis, so it comes first and 2D networks work across it."
    elif first == 0:
        reason = "The first axis already has the largest spacing, so 2D networks see the best resolved plane."
    else:
        reason = f"Axis {first} has the largest spacing ({spacing[first]:.4g} mm); it comes first, so that 2D networks "
        reason += "see the best resolved plane."
    return Decided((order[0], order[1], order[2]), reason)


def median_resampled_shape(
    spacings: Sequence[Spacing], shapes: Sequence[Triple], target: Spacing
) -> tuple[float, float, float]:
    """Median over cases of the shape at the target spacing, voxels; may end in a half. At least one voxel.

    Halves are rounded to even per case, as Python and nnU-Net do. Along an axis on which most cases have a single
    slice the result is 1, whatever its spacing: there is nothing to interpolate.
    """
    single = np.median(np.array(shapes), axis=0) <= 1
    resampled = [resampled_shape(shape, spacing, target) for spacing, shape in zip(spacings, shapes, strict=True)]
    return _triple(np.where(single, 1.0, np.median(np.array(resampled), axis=0)))


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


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
