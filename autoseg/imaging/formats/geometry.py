"""Orientation of arrays in space: permuting and flipping axes without resampling, and comparing grids.

Working arrays in canonical orientation run towards superior (z), posterior (y) and left (x); an oblique axis counts
as the nearest world axis.
"""

from itertools import permutations, product
from math import isclose
from types import EllipsisType

import numpy as np

from autoseg.imaging.formats.volume import FLAT_SLICE_FACTOR, AnyArray, make_grid
from autoseg.records.case import Grid, Orientation, Spacing, Triple

SPACING_TOLERANCE = 1e-3
"""Relative tolerance of spacings: headers store float32, and tools round."""

CORNER_TOLERANCE = 0.1
"""Tolerated distance between the same corner of two grids, as a fraction of the smallest spacing."""

_CANONICAL_AXES = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Directions of the working axes z, y, x in world coordinates (right, anterior, superior), one per row."""


def canonical_orientation(grid: Grid) -> Orientation:
    """The permutation and flips after which the axes of the stored array run towards superior, posterior, left.

    Every working axis takes the nearest stored axis: of all assignments the one with the largest sum of cosines, so
    that no stored axis is used twice, however oblique the image is.

    Args:
        grid: Grid of the stored array; its affine must not be singular.

    Returns:
        The orientation for `orient_array`.
    """
    directions = np.array(grid.affine)[:3, :3]
    cosines = _CANONICAL_AXES @ (directions / np.linalg.norm(directions, axis=0))
    candidates: list[Triple] = [(z, y, x) for z, y, x in permutations(range(3))]
    axes = max(candidates, key=lambda order: sum(abs(float(cosines[i, order[i]])) for i in range(3)))
    flip_z, flip_y, flip_x = (bool(cosines[i, axes[i]] < 0) for i in range(3))
    return Orientation(axes=axes, flips=(flip_z, flip_y, flip_x))


def orient_array(array: AnyArray, orientation: Orientation) -> AnyArray:
    """A view of a stored array with working axes.

    Args:
        array: Array in stored order, (..., Z, Y, X).
        orientation: Orientation of the case.

    Returns:
        The view, (..., Z, Y, X) in working order.
    """
    leading = array.ndim - 3
    order = (*range(leading), *(leading + axis for axis in orientation.axes))
    return array.transpose(order)[_flips(orientation)]


def restore_array(array: AnyArray, orientation: Orientation) -> AnyArray:
    """A view of a working array with stored axes; the inverse of `orient_array`."""
    leading = array.ndim - 3
    stored_from = sorted(range(3), key=orientation.axes.__getitem__)
    order = (*range(leading), *(leading + axis for axis in stored_from))
    return array[_flips(orientation)].transpose(order)


def orient_grid(grid: Grid, orientation: Orientation) -> Grid:
    """The grid of the working array: every voxel keeps its place in the world."""
    stored_from_working = np.zeros((4, 4))
    stored_from_working[3, 3] = 1.0
    for working, (stored, flipped) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        stored_from_working[stored, working] = -1.0 if flipped else 1.0
        stored_from_working[stored, 3] = grid.shape[stored] - 1 if flipped else 0
    return make_grid(
        [grid.shape[axis] for axis in orientation.axes],
        [grid.spacing[axis] for axis in orientation.axes],
        np.array(grid.affine) @ stored_from_working,
    )


def measurable_spacing(grid: Grid) -> Spacing:
    """The spacing whose product is the volume of a voxel, mm, in the order of the grid's axes.

    A file with two axes has an artificial slice spacing, 999 times its coarsest one. Here it is 1, so that the product
    is the area of a pixel: in mm², and 1 in 2D images without a spacing.
    """
    first, second, third = (
        1.0 if size == 1 and _is_artificial(spacing, grid.spacing) else spacing
        for size, spacing in zip(grid.shape, grid.spacing, strict=True)
    )
    return first, second, third


def _is_artificial(spacing: float, grid_spacing: Spacing) -> bool:
    return isclose(spacing, FLAT_SLICE_FACTOR * sorted(grid_spacing)[1], rel_tol=SPACING_TOLERANCE)


def grid_difference(a: Grid, b: Grid) -> str | None:
    """The difference between two grids in one sentence; None when they agree within tolerance.

    Shapes must be equal, spacings within 1e-3 relative, and each corner voxel's centre within a tenth of the
    smallest spacing.
    """
    if a.shape != b.shape:
        return f"the shapes differ: {_numbers(a.shape)} and {_numbers(b.shape)} voxels (z, y, x)"
    if not np.allclose(a.spacing, b.spacing, rtol=SPACING_TOLERANCE, atol=0):
        return f"the spacings differ: {_numbers(a.spacing)} and {_numbers(b.spacing)} mm (z, y, x)"
    distance_mm = corner_distance_mm(np.array(a.affine), np.array(b.affine), a.shape)
    tolerance_mm = CORNER_TOLERANCE * min(*a.spacing, *b.spacing)
    if distance_mm > tolerance_mm:
        return (
            f"they lie {distance_mm:.4g} mm apart in space (position or direction in the header), "
            f"more than the tolerated {tolerance_mm:.3g} mm"
        )
    return None


def corner_distance_mm(a: AnyArray, b: AnyArray, shape: Triple) -> float:
    """Largest distance in mm between the centres of the same corner voxel under two affines."""
    corners = np.array([(*corner, 1.0) for corner in product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).max())


def _flips(orientation: Orientation) -> tuple[EllipsisType | slice, ...]:
    return ..., *(slice(None, None, -1) if flipped else slice(None) for flipped in orientation.flips)


def _numbers(triple: tuple[float, ...]) -> str:
    return " x ".join(f"{number:.6g}" for number in triple)
