"""An image as read from a file: voxels, their grid, and the facts needed to write on the same grid.

Arrays are in *stored* order: the file's axes reversed, slowest first, so (X, Y, Z) files become (Z, Y, X). Orientation
permutes and flips axes without resampling: working arrays in canonical orientation run towards superior (z), posterior
(y) and left (x); an oblique axis counts as the nearest world axis.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from math import isclose, prod
from pathlib import Path
from types import EllipsisType
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.formats.dicom.series import DicomSeries
from autoseg.imaging.formats.units import DEFAULT_UNIT
from autoseg.records.case import Affine, Grid, Orientation, Spacing, Triple

AnyArray = NDArray[Any]

NIFTI_ENDINGS = (".nii.gz", ".nii", ".hdr")
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".gipl")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IMAGE_ENDINGS: tuple[str, ...] = NIFTI_ENDINGS + ITK_ENDINGS + PICTURE_ENDINGS
"""Endings that can be read, lower case, with dot."""

FLAT_SLICE_FACTOR = 999.0
"""Slice spacing of a 2D file relative to its coarsest axis, so that plans put the slice axis first."""

SPACING_TOLERANCE = 1e-3
"""Relative tolerance of spacings: headers store float32, and tools round."""

CORNER_TOLERANCE = 0.1
"""Tolerated distance between the same corner of two grids, as a fraction of the smallest spacing."""

RIGHT_ANGLE_TOLERANCE = 1e-5
"""Axes whose voxels fill less of the box of their lengths than 1 minus this (0.26 degrees) are not at right angles;
below it is the rounding of float32 in headers."""

SHEAR_NOTE = (
    "the axes of the image are not at right angles (a gantry tilt, for example): volumes are exact, but distances and "
    "resampling take the axes as if they were"
)

_CANONICAL_AXES = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Directions of the working axes z, y, x in world coordinates (right, anterior, superior), one per row."""

_CHANNEL_NAME = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})", re.DOTALL)
"""Stem of the file of one channel: CASE_0000, CASE_0001, ..."""


@dataclass(frozen=True)
class ItkGeometry:
    """Geometry of an ITK image in ITK's convention: (x, y[, z]), left-posterior-superior, in the file's unit."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    """Direction matrix, row by row."""
    unit: str = DEFAULT_UNIT
    """Short name of the unit of spacing and origin."""


@dataclass(frozen=True)
class Template:
    """Facts needed to write a label map on an image's own grid."""

    ending: str
    """Ending of the image file, lower case, with dot; empty for images that do not come from a file."""
    grid: Grid
    """Grid in stored order."""
    file_dimensions: int = 3
    """Number of spatial axes in the file, 2 or 3."""
    nifti_header: nibabel.Nifti1Header | None = None
    itk_geometry: ItkGeometry | None = None
    series: DicomSeries | None = None
    """The DICOM series that the image was read from; None: another format."""


@dataclass(frozen=True)
class Volume:
    """An image or a label map in stored order."""

    array: AnyArray
    """Voxels, (C, Z, Y, X)."""
    grid: Grid
    template: Template
    notes: tuple[str, ...] = ()
    """What was assumed or ignored on reading, one sentence each, with the same words for every file."""
    path: Path | None = None
    has_voxel_size: bool = True
    """Whether the file says how large its voxels are, or how large they are does not matter (2D images)."""

    def with_size_of(self, grid: Grid) -> "Volume":
        """The volume on another grid of the same shape, if its file has no voxel size of its own; else as it is."""
        if self.has_voxel_size or grid.shape != self.grid.shape:
            return self
        return replace(self, grid=grid)


def length_unit(ending: str) -> str:
    """Unit of the lengths of files with this ending: `pixels` for 2D images, which have no spacing, else `mm`."""
    return "pixels" if ending.lower() in PICTURE_ENDINGS else "mm"


def split_ending(name: str) -> tuple[str, str]:
    """Split a file name into stem and ending; `.nii.gz` is one ending.

    Returns:
        Stem as written, and ending in lower case with its dot (empty without an ending).
    """
    lowered = name.lower()
    ending = next((known for known in IMAGE_ENDINGS if lowered.endswith(known)), Path(lowered).suffix)
    return (name[: -len(ending)], ending) if ending else (name, "")


def make_grid(shape: Sequence[int], spacing: Sequence[float], affine: AnyArray) -> Grid:
    """A grid record from arrays.

    Args:
        shape: Number of voxels, (z, y, x).
        spacing: Voxel size in mm, (z, y, x).
        affine: Matrix from voxel index (z, y, x, 1) to world mm (right, anterior, superior, 1), (4, 4).
    """
    depth, height, width = (int(size) for size in shape)
    slice_mm, row_mm, column_mm = (float(size) for size in spacing)
    return Grid(shape=(depth, height, width), spacing=(slice_mm, row_mm, column_mm), affine=_affine_rows(affine))


def canonical_affine(spacing: Sequence[float]) -> AnyArray:
    """The affine of an array in canonical orientation (z, y, x = superior, posterior, left) with origin 0."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = spacing[0], -spacing[1], -spacing[2], 1.0
    return affine


def reverse_voxel_axes(affine: AnyArray) -> AnyArray:
    """Change an affine between the index orders (x, y, z, 1) and (z, y, x, 1); its own inverse."""
    return affine[:, [2, 1, 0, 3]]


def _affine_rows(affine: AnyArray) -> Affine:
    first, second, third, last = (
        (float(row[0]), float(row[1]), float(row[2]), float(row[3])) for row in np.asarray(affine, dtype=np.float64)
    )
    return first, second, third, last


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


def voxel_mm3(grid: Grid) -> float:
    """Volume of a voxel: the absolute determinant of the affine, on sheared grids too.

    A file with two axes has an artificial slice spacing, which counts here; see `measurable_spacing`.
    """
    determinant = abs(float(np.linalg.det(np.array(grid.affine)[:3, :3])))
    product = prod(grid.spacing)  # without rounding where axes are at right angles, which nearly all are
    return product if isclose(determinant, product, rel_tol=RIGHT_ANGLE_TOLERANCE) else determinant


def is_sheared(grid: Grid) -> bool:
    """Whether the axes are not at right angles to each other, as in CT with a tilted gantry."""
    return _filled_fraction(grid) < 1.0


def _filled_fraction(grid: Grid) -> float:
    """Volume of a voxel relative to a box of the same edge lengths: exactly 1 for axes at right angles."""
    edges = np.array(grid.affine)[:3, :3]
    fraction = abs(float(np.linalg.det(edges / np.linalg.norm(edges, axis=0))))
    return fraction if fraction < 1 - RIGHT_ANGLE_TOLERANCE else 1.0


def measurable_spacing(grid: Grid) -> Spacing:
    """Lengths in mm whose product is the volume of a voxel, in the order of the grid's axes.

    A file with two axes has an artificial slice spacing, 999 times its coarsest one. Here it is 1, so that the product
    is the area of a pixel: in mm², and 1 in 2D images without a spacing. On a sheared grid the first length is the
    distance that makes the product right: of slices that are shifted against each other, how far apart they are.
    """
    first, second, third = (
        1.0 if size == 1 and _is_artificial(spacing, grid.spacing) else spacing
        for size, spacing in zip(grid.shape, grid.spacing, strict=True)
    )
    return first * _filled_fraction(grid), second, third


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


def split_channel(stem: str) -> tuple[str, int] | None:
    """`CASE_0001` -> (`CASE`, 1); None for a name without a four-digit channel number."""
    match = _CHANNEL_NAME.fullmatch(stem)
    return (match["case"], int(match["channel"])) if match else None
