"""Grid and orientation of a case, and what preprocessing did to it.

Tested in tests/records/test_files.py.
"""

from typing import Literal

from pydantic import Field

from autoseg.records.files import Record

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Bounds = tuple[Triple, Triple]
"""Half-open box of voxels: first index and index after the last, per axis."""
Slices3 = tuple[slice, slice, slice]
"""Index of a box of voxels in an array (Z, Y, X)."""
Slices = tuple[slice, ...]
"""Index of a box in an array of any number of axes."""
Affine = tuple[
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
]
"""Matrix from voxel index (z, y, x, 1) to world mm (right, anterior, superior, 1), 4 x 4."""


class Grid(Record):
    """Position of the voxels in space."""

    shape: Triple
    """Number of voxels, (z, y, x)."""
    spacing: Spacing
    """Voxel size in mm, (z, y, x)."""
    affine: Affine


class Orientation(Record):
    """Permutation and flips that turn a stored array into a working array.

    `working = flip(transpose(stored, axes), flips)`, both arrays (Z, Y, X); stored means the file's axes in
    reversed order, slowest first. Never resamples.
    """

    axes: Triple = (0, 1, 2)
    """Working axis i is stored axis axes[i]."""
    flips: tuple[bool, bool, bool] = (False, False, False)
    """Whether working axis i runs against its stored axis."""


class PreprocessedCase(Record):
    """What was done to one case, in order: transpose, crop, normalise, resample. All triples follow the transpose."""

    schema_version: Literal[1] = 1
    case: str
    configuration: str
    spacing: Spacing
    """Spacing of the preprocessed array in mm; a 2D configuration keeps the case's own first spacing."""
    shape: Triple
    """Shape of the preprocessed array, voxels."""
    original_spacing: Spacing
    """Spacing of the image in working orientation after the transpose, mm."""
    original_shape: Triple
    """Shape of that image before cropping, voxels."""
    crop_start: Triple
    """First voxel of the box that was kept."""
    crop_stop: Triple
    """First voxel beyond the box that was kept."""
    transpose: Triple
    """The plan's axis order: transposed axis i is working axis transpose[i]."""
    absent_channels: tuple[int, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Numbers of the channels that the image lacks, ascending: they are 0 in the preprocessed array. Known where the
    configuration's `channel_presence` says that images may lack some."""
    content_hash: str = ""
    """Hash of the source files and of the settings that made the array; empty at prediction."""
    checksum: str = Field(default="", exclude_if=lambda value: value == "")
    """SHA-256 of the array's file, to notice damage; empty at prediction and in older files."""
    resampled_on: str = Field(default="", exclude_if=lambda value: value == "")
    """Name of the GPU that resampled the image, whose rounding differs from a CPU's; empty: the CPU did, or nothing was
    resampled. It is no part of `content_hash`: the array serves the same plan."""
