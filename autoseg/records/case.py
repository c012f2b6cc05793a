"""Where the voxels of a case are, and what preprocessing did to them."""

from typing import Literal

from autoseg.records.files import Record

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Affine = tuple[
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
]
"""4 x 4, voxel index (z, y, x, 1) -> world mm (right, anterior, superior, 1)."""


class Grid(Record):
    """Where voxels are."""

    shape: Triple
    """Voxels, (z, y, x)."""
    spacing: Spacing
    """mm, (z, y, x)."""
    affine: Affine


class Orientation(Record):
    """How a working array lies in its stored array: permute with `axes`, then flip.

    `working = flip(transpose(stored, axes), flips)`, both arrays (Z, Y, X); stored means the file's axes in
    reversed order, slowest first. Never resamples.
    """

    axes: Triple = (0, 1, 2)
    """Working axis i is stored axis axes[i]."""
    flips: tuple[bool, bool, bool] = (False, False, False)
    """Working axis i runs against its stored axis."""


class PreprocessedCase(Record):
    """What was done to one case, in order: transpose, crop, normalise, resample. All triples follow the transpose."""

    schema_version: Literal[1] = 1
    case: str
    configuration: str
    spacing: Spacing
    """Of the preprocessed array, mm; a 2D configuration keeps the case's own first spacing."""
    shape: Triple
    """Of the preprocessed array, voxels."""
    original_spacing: Spacing
    """Of the image in working orientation after the transpose, mm."""
    original_shape: Triple
    """Before cropping, voxels."""
    crop_start: Triple
    crop_stop: Triple
    """Half-open box that was kept."""
    transpose: Triple
    """The plan's axis order: transposed axis i is working axis transpose[i]."""
    content_hash: str = ""
    """Hash of the source files and of the settings that made the array; empty at prediction."""
