"""Which spacing images are resampled to, and which axis comes first.

Called first by every planner; everything else follows from the spacing.

Example: spacings 10 x 1.56 x 1.56 mm in most cases and 5 x 1.56 x 1.56 mm in a tenth of them, 10 slices of
256 x 216 voxels. The slices are more than 3 times as far apart as pixels, and 10 * 3 < 216, so the through-plane
target is the 10th percentile, 5 mm: thick slices are interpolated, thin ones are not thrown away.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): target spacing, anisotropic data, axis order.
"""

from collections.abc import Sequence

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
