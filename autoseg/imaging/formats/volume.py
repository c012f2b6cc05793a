"""An image as read from a file: voxels, their grid, and the facts needed to write on the same grid.

Arrays are in *stored* order: the file's axes reversed, slowest first, so (X, Y, Z) files become (Z, Y, X).

Tested in tests/imaging/formats/test_reading.py and tests/imaging/formats/test_geometry.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from autoseg.records.case import Affine, Grid

AnyArray = NDArray[Any]

NIFTI_ENDINGS = (".nii.gz", ".nii", ".hdr")
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd", ".gipl")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IMAGE_ENDINGS: tuple[str, ...] = NIFTI_ENDINGS + ITK_ENDINGS + PICTURE_ENDINGS
"""Endings that can be read, lower case, with dot."""

FLAT_SLICE_FACTOR = 999.0
"""Slice spacing of a 2D file relative to its coarsest axis, so that plans put the slice axis first."""


@dataclass(frozen=True)
class ItkGeometry:
    """Geometry of an ITK image in ITK's convention: (x, y[, z]), left-posterior-superior, mm."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    """Direction matrix, row by row."""


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
