"""Segmentations of 3D Slicer (.seg.nrrd) and DICOM (.dcm): segments by name, in one or several layers.

They may be cut to what is segmented.
"""

import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.segment_reading import read_dicom_layers, read_dicom_segments
from autoseg.imaging.formats.dicom.sources import DICOM_ENDINGS
from autoseg.imaging.formats.itk import read_itk
from autoseg.imaging.formats.volume import AnyArray, Volume, grid_difference
from autoseg.records.case import Grid

SEGMENTATION_ENDING = ".seg.nrrd"

_KEY_VALUE = re.compile(r"Segment(?P<number>\d+)_(?P<key>ID|Name|LabelValue|Layer)\s*:=\s*(?P<value>.*)")

_MAX_HEADER_LINES = 100_000

_LATTICE_TOLERANCE = 0.1
"""Distance from a voxel of the image, as a fraction of a voxel, up to which a voxel of a segmentation lies on it."""


@dataclass(frozen=True)
class Segment:
    """One segment: a value in a layer."""

    name: str
    layer: int
    value: int


def is_segmentation(file: str) -> bool:
    """Whether a file is a segmentation by its name; a label map of DICOM always is one."""
    return file.lower().endswith((SEGMENTATION_ENDING, *DICOM_ENDINGS))


def is_dicom_file(file: str) -> bool:
    """Whether a file is one of DICOM by its name."""
    return file.lower().endswith(DICOM_ENDINGS)


def read_segments(path: Path) -> tuple[Segment, ...]:
    """Read the segments that the header of a segmentation names; no voxels are read.

    Returns:
        Segments in the order of their numbers; empty for a file without any. A segment without a name has its ID.
        Files of Slicer before 4.11 give no layers: there each segment has a layer of its own, with the value 1.

    Raises:
        ImageFileError: If the file cannot be read, a number is wrong, or two segments have one name or one value.

    References:
        3D Slicer, vtkMRMLSegmentationStorageNode (Segment0_Name, Segment0_LabelValue, Segment0_Layer).
    """
    if is_dicom_file(path.name):
        return tuple(Segment(part.name, part.layer, part.value) for part in read_dicom_segments(path))
    fields: dict[int, dict[str, str]] = {}
    try:
        with path.open("rb") as file:
            for line in islice(file, _MAX_HEADER_LINES):
                text = line.decode("utf-8", errors="replace").strip()
                if not text:
                    break
                if match := _KEY_VALUE.fullmatch(text):
                    fields.setdefault(int(match["number"]), {})[match["key"]] = match["value"].strip()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error}") from error
    has_layers = any("Layer" in segment for segment in fields.values())
    try:
        segments = tuple(
            Segment(
                name=segment.get("Name") or segment.get("ID") or f"Segment_{number}",
                layer=int(segment.get("Layer", "0" if has_layers or "LabelValue" in segment else str(number))),
                value=int(segment.get("LabelValue", "1")),
            )
            for number, segment in sorted(fields.items())
        )
    except ValueError as error:
        raise ImageFileError(f"{path}: a segment has a wrong layer or value in the header: {error}") from error
    _refuse_doubles(segments, path)
    return segments


def read_layers(path: Path) -> Volume:
    """Read the layers of a segmentation.

    Returns:
        Volume with array (L, Z, Y, X) of integers in stored order, on the file's own grid.

    Raises:
        ImageFileError: If the file cannot be read, or its values are not whole numbers.
    """
    if is_dicom_file(path.name):
        return read_dicom_layers(path)
    volume = read_itk(path)
    if volume.array.dtype.kind not in "ui":
        raise ImageFileError(f"{path}: the layers of a segmentation must hold whole numbers")
    return volume


def place_on_grid(volume: Volume, grid: Grid) -> Volume:
    """Put the layers of a segmentation where they lie in the image; outside of them there is nothing.

    Slicer stores the box around all segments only.

    Args:
        volume: Layers, (L, Z, Y, X); the array is not copied if it lies on the image's grid already.
        grid: Grid of the image.

    Raises:
        ImageFileError: If the voxels do not lie on those of the image, or segments lie outside of it.
    """
    difference = grid_difference(volume.grid, grid)
    if difference is None:
        return volume
    own, image = np.array(volume.grid.affine), np.array(grid.affine)
    to_image = np.linalg.solve(image, own)
    start = np.rint(to_image[:3, 3]).astype(int)
    # At the last voxel of the image the two grids must still agree.
    shift = np.abs(to_image[:3, :3] - np.eye(3)) @ np.array(grid.shape) + np.abs(to_image[:3, 3] - start)
    if shift.max() > _LATTICE_TOLERANCE:
        raise ImageFileError(f"{volume.path}: not on the grid of the image: {difference}")
    stop = start + np.array(volume.grid.shape)
    first, last = np.maximum(start, 0), np.minimum(stop, grid.shape)
    last = np.maximum(first, last)
    inside = volume.array[:, *map(slice, first - start, last - start)]
    if np.count_nonzero(inside) < np.count_nonzero(volume.array):
        raise ImageFileError(
            f"{volume.path}: has segments outside of the image: it covers the voxels {start.tolist()} to "
            f"{stop.tolist()} (z, y, x) of an image of {list(grid.shape)} voxels. Is it that of another image?"
        )
    array: AnyArray = np.zeros((len(volume.array), *grid.shape), dtype=volume.array.dtype)
    array[:, *map(slice, first, last)] = inside
    return replace(volume, array=array, grid=grid)


def _refuse_doubles(segments: tuple[Segment, ...], path: Path) -> None:
    for described, keys in (
        ("name", [segment.name for segment in segments]),
        ("value in one layer", [(segment.layer, segment.value) for segment in segments]),
    ):
        if len(set(keys)) < len(keys):
            names = ", ".join(segment.name for segment in segments)
            raise ImageFileError(f"{path}: two segments have the same {described} (segments: {names})")
