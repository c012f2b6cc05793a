"""DICOM segmentations as label maps: segments with their names, in layers on the grid of the frames.

Tested in tests/imaging/formats/dicom/test_segment_reading.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.dicom.frames import SEGMENTATION_CLASSES, Frame, Header, describe, make_frame, read_header
from autoseg.imaging.formats.dicom.lattice import Lattice, arrange_frames
from autoseg.imaging.formats.dicom.library import dicom_errors, import_dicom, quiet
from autoseg.imaging.formats.dicom.reading import SERIES_ENDING
from autoseg.imaging.formats.dicom.series import cut_plane
from autoseg.imaging.formats.dicom.sources import DicomSource, open_source
from autoseg.imaging.formats.volume import AnyArray, Template, Volume

THRESHOLD = 0.5
"""Probability from which on a voxel of a fractional segmentation belongs to a segment."""

FRACTION_NOTE = "the segmentation holds probabilities; voxels from 0.5 on count"


@dataclass(frozen=True)
class DicomSegment:
    """One segment of a segmentation: a value in a layer."""

    name: str
    layer: int
    value: int


@dataclass(frozen=True)
class _SegmentFrame:
    """One frame; segment 0 holds the numbers of all segments."""

    frame: Frame
    segment: int


def read_dicom_segments(path: Path) -> tuple[DicomSegment, ...]:
    """Read the segments that the header of a segmentation names; no voxels are read.

    Segments that do not overlap share a layer, in which their values are their numbers; else each has its own.

    Args:
        path: A file, or a folder or zip archive with one segmentation.

    Raises:
        ImageFileError: If it is no segmentation, or is damaged.
        UsageError: If the extra `dicom` is not installed.
    """
    with _open_segmentation(path) as (source, name, header):
        return _segments(header, source.describe(name))


def read_dicom_layers(path: Path) -> Volume:
    """Read the layers of a segmentation.

    Args:
        path: A file, or a folder or zip archive with one segmentation.

    Returns:
        Volume with array (L, Z, Y, X) of whole numbers, on the grid of the frames: the image's own where every slice
        has a frame, else the smallest one that holds all frames.

    Raises:
        ImageFileError: If it is no segmentation, its frames lie nowhere or at irregular distances, or it is damaged.
        UsageError: If the extra `dicom` is not installed.
    """
    with _open_segmentation(path) as (source, name, header):
        segments = dict(_numbered(header, source.describe(name)))
        frames = _frames(header, source, name)
        lattice = arrange_frames(_one_for_each_position(frames), path)
        voxels, is_fractional = _read_voxels(source, header, frames, lattice, segments), _is_fractional(header)
    array = _place(voxels, lattice) if lattice.is_resampled else voxels
    notes = (*lattice.notes, FRACTION_NOTE) if is_fractional else lattice.notes
    template = Template(ending=SERIES_ENDING, grid=lattice.grid)
    return Volume(array=array, grid=lattice.grid, template=template, notes=notes, path=path)


def read_dicom_label_map(path: Path) -> Volume:
    """Read a segmentation as one label map, whose values are the numbers of the segments.

    Returns:
        Volume with array (1, Z, Y, X), see `read_dicom_layers`.

    Raises:
        ImageFileError: If segments overlap, or as `read_dicom_layers`.
        UsageError: If the extra `dicom` is not installed.
    """
    volume = read_dicom_layers(path)
    numbered = [segment.value for segment in read_dicom_segments(path)]
    if len(volume.array) == 1:
        return volume
    found = np.zeros((1, *volume.grid.shape), dtype=np.min_scalar_type(len(numbered)))
    for number, layer in enumerate(volume.array, start=1):
        if (found[0][layer > 0] > 0).any():
            raise ImageFileError(
                f"{path}: segments overlap, so they are no label map. Give the model or the dataset, by whose names of "
                "labels they are read"
            )
        found[0][layer > 0] = number
    return Volume(array=found, grid=volume.grid, template=volume.template, notes=volume.notes, path=path)


@contextmanager
def _open_segmentation(path: Path) -> Iterator[tuple[DicomSource, str, Header]]:
    with open_source(read_address(path).path) as source:
        found = [
            (name, header)
            for name in source.names
            if (header := read_header(source, name)) is not None and str(header.SOPClassUID) in SEGMENTATION_CLASSES
        ]
        if len(found) != 1:
            raise ImageFileError(
                f"{path}: found {len(found) or 'no'} DICOM segmentations, expected one. Give the segmentation's file"
            )
        yield source, *found[0]


def _numbered(header: Header, where: str) -> list[tuple[int, DicomSegment]]:
    """Numbers of segments in the file, with their places in layers."""
    with quiet():
        try:
            items = [(int(item.SegmentNumber), str(item.SegmentLabel)) for item in header.SegmentSequence]
            is_shared = str(header.SegmentationType) == "LABELMAP" or str(header.get("SegmentsOverlap", "")) == "NO"
        except dicom_errors() as error:
            raise ImageFileError(f"{where}: cannot be read as a segmentation: {describe(error)}") from error
    items = [(number, name) for number, name in items if number > 0]
    return [
        (number, DicomSegment(name, 0, number) if is_shared else DicomSegment(name, layer, 1))
        for layer, (number, name) in enumerate(items)
    ]


def _segments(header: Header, where: str) -> tuple[DicomSegment, ...]:
    segments = tuple(segment for _, segment in _numbered(header, where))
    names = [segment.name for segment in segments]
    if len(set(names)) < len(names):
        raise ImageFileError(f"{where}: two segments have the same name (segments: {', '.join(names)})")
    return segments


def _frames(header: Header, source: DicomSource, name: str) -> list[_SegmentFrame]:
    with quiet():
        try:
            frames = []
            for index, groups in enumerate(header.PerFrameFunctionalGroupsSequence):
                number = 0
                if str(header.SegmentationType) != "LABELMAP":
                    shared = header.get("SharedFunctionalGroupsSequence") or [groups]
                    owner = groups if "SegmentIdentificationSequence" in groups else shared[0]
                    number = int(owner.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
                frames.append(_SegmentFrame(make_frame(header, name, index), number))
        except dicom_errors() as error:
            raise ImageFileError(
                f"{source.describe(name)}: cannot be read as a segmentation: {describe(error)}"
            ) from error
    if not frames or any(each.frame.position is None for each in frames):
        raise ImageFileError(f"{source.describe(name)}: the frames of the segmentation have no place in the patient")
    return frames


def _one_for_each_position(frames: list[_SegmentFrame]) -> list[Frame]:
    return list({each.frame.position: each.frame for each in reversed(frames)}.values())


def _is_fractional(header: Header) -> bool:
    return str(header.SegmentationType) == "FRACTIONAL"


def _read_voxels(
    source: DicomSource,
    header: Header,
    frames: list[_SegmentFrame],
    lattice: Lattice,
    segments: dict[int, DicomSegment],
) -> AnyArray:
    """Layers (L, S, rows, columns) on the slices of the lattice."""
    slice_of = {frame.position: index for index, frame in enumerate(lattice.frames)}
    layers = max((segment.layer for segment in segments.values()), default=0) + 1
    largest = max((segment.value for segment in segments.values()), default=1)
    voxels = np.zeros((layers, len(lattice.frames), *lattice.frames[0].shape), dtype=np.min_scalar_type(largest))
    smallest = THRESHOLD * int(header.get("MaximumFractionalValue") or 1) if _is_fractional(header) else 1
    for each, stored in zip(frames, _iterate_frames(source, header, frames), strict=True):
        plane = slice_of[each.frame.position]
        if each.segment == 0:
            voxels[0, plane] = np.where(np.isin(stored, list(segments)), stored, 0)
        elif each.segment in segments:
            segment = segments[each.segment]
            voxels[segment.layer, plane][stored >= smallest] = segment.value
    return voxels


def _place(voxels: AnyArray, lattice: Lattice) -> AnyArray:
    """Layers (L, S, rows, columns) on the grid of the lattice; nothing lies between slices."""
    placed: AnyArray = np.zeros((len(voxels), *lattice.grid.shape), dtype=voxels.dtype)
    for index, (layer, (y, x)) in enumerate(zip(lattice.layers, lattice.shifts, strict=True)):
        for source, target in zip(voxels, placed, strict=True):
            target[round(layer)] = cut_plane(source[index], (-y, -x), lattice.grid.shape[1:])
    return placed


def _iterate_frames(
    source: DicomSource, header: Header, frames: list[_SegmentFrame]
) -> Iterator[NDArray[np.unsignedinteger]]:
    """Stored values (rows, columns) of every frame."""
    first = frames[0].frame
    name = first.file
    with source.open(name) as file, quiet():
        try:
            if int(header.BitsAllocated) == 1 and not header.file_meta.TransferSyntaxUID.is_compressed:
                yield from _unpack(file, len(frames), first.shape)
            else:
                yield from import_dicom("pydicom.pixels").iter_pixels(file)
        except dicom_errors() as error:
            raise ImageFileError(
                f"{source.describe(name)}: the voxels cannot be read: {describe(error)}. Copy the file again"
            ) from error


def _unpack(file: BinaryIO, count: int, shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Frames of one bit for each voxel, which follow each other without a gap, in the middle of bytes too."""
    stored = np.frombuffer(import_dicom("pydicom").dcmread(file).PixelData, dtype=np.uint8)
    size = shape[0] * shape[1]
    for start in range(0, count * size, size):
        bits = np.unpackbits(stored[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(shape)
