"""A DICOM series, or the segmentation of one, into an array with the geometry of its slices.

Label maps of a series are read in `segmentations`.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.dicom.frames import Frame, apply_intensities, describe
from autoseg.imaging.formats.dicom.lattice import Lattice, arrange
from autoseg.imaging.formats.dicom.library import dicom_errors, import_dicom, quiet
from autoseg.imaging.formats.dicom.series import DicomSeries, SourceSlice
from autoseg.imaging.formats.dicom.sources import DicomSource, open_source
from autoseg.imaging.formats.dicom.stacks import Stack, choose_stack, find_stacks
from autoseg.imaging.formats.units import refuse_absurd_spacing
from autoseg.imaging.formats.volume import AnyArray, Template, Volume

SERIES_ENDING = ".dcm"
"""Ending of files with label maps for DICOM series: segmentation objects."""

AIR_HU = -1024.0
"""Intensity of voxels outside of the image (Pixel Padding Value) in CT; elsewhere they get the lowest one inside."""

_ROUNDING = 1e-6


def read_series(path: Path) -> Volume:
    """Read the image of a folder, zip archive or file.

    Slices are put in order by their positions along the normal of their planes. Each has its own rescaling; padding
    becomes air; in MONOCHROME1 images without a unit, high values are made to mean bright ones. Slices of a tilted
    gantry are shifted within their planes onto an upright grid. Nothing about the patient is kept.

    Args:
        path: A folder (with its subfolders), a .zip archive or a file; with `#NUMBER` or `#UID` at its end the series
            that is meant, with `#resample-gaps` one with gaps (see `addresses`).

    Returns:
        Volume with array (C, Z, Y, X) float32: C is 1, or 3 for colours; z runs along the normal of the slices, y
        along their columns, x along their rows. `template.series` is the series, for label maps on its slices.

    Raises:
        ImageFileError: If there are several images and none was chosen, if slices are missing or double, lie nowhere
            in the patient, or a file is damaged; the message begins with the path.
        UsageError: If the extra `dicom` is not installed.
    """
    address = read_address(path)
    with open_source(address.path) as source:
        stacks = find_stacks(source)
        stack = choose_stack(stacks, address.series, address.path)
        lattice = arrange(stack, address.path, resample_gaps=address.resample_gaps)
        array = _read_voxels(source, stack, lattice)
    try:
        refuse_absurd_spacing(lattice.grid.spacing, lattice.grid.shape)
    except ValueError as error:
        raise ImageFileError(f"{address.path}: {error}") from error
    notes = [*lattice.notes]
    if len(stacks) > 1 and address.series is None:
        notes.append("of several series the one with by far the most slices is taken; --series takes another one")
    template = Template(ending=SERIES_ENDING, grid=lattice.grid, series=_describe_series(address.path, stack, lattice))
    return Volume(array=array, grid=lattice.grid, template=template, notes=tuple(notes), path=path)


def list_series(path: Path) -> tuple[Stack, ...]:
    """All images of a folder, zip archive or file, by the number of their series; no voxels are read.

    Raises:
        ImageFileError: If it holds no image, or a file is damaged.
        UsageError: If the extra `dicom` is not installed.
    """
    with open_source(read_address(path).path) as source:
        return find_stacks(source)


def _describe_series(path: Path, stack: Stack, lattice: Lattice) -> DicomSeries:
    first = lattice.frames[0]
    slices = tuple(
        SourceSlice(
            file=frame.file,
            frame=frame.index,
            class_uid=frame.class_uid,
            instance_uid=frame.instance_uid,
            position=frame.position or (0.0, 0.0, 0.0),
            layer=layer,
            shift=shift,
        )
        for frame, layer, shift in zip(lattice.frames, lattice.layers, lattice.shifts, strict=True)
    )
    return DicomSeries(path, stack.series_uid, first.shape, first.spacing, first.orientation, slices)


def _read_voxels(source: DicomSource, stack: Stack, lattice: Lattice) -> AnyArray:
    """Intensities (C, Z, Y, X) on the lattice, slice by slice."""
    first = lattice.frames[0]
    slices = np.empty((first.channels, len(lattice.frames), *first.shape), dtype=np.float32)
    outside: dict[int, AnyArray] = {}
    for index, stored in _read_stored(source, lattice.frames):
        frame = lattice.frames[index]
        values, padding = apply_intensities(stored, frame.intensities)
        slices[:, index] = values[np.newaxis] if values.ndim == 2 else np.moveaxis(values, -1, 0)
        if padding is not None and padding.any():
            outside[index] = padding
    filler = _fill_padding(slices, outside, stack.frames[0].modality)
    return _resample(slices, lattice, filler) if lattice.is_resampled else slices


def _read_stored(source: DicomSource, frames: tuple[Frame, ...]) -> Iterator[tuple[int, AnyArray]]:
    """Stored values (Y, X) or (Y, X, 3) with the number of their frame, file by file."""
    pixels = import_dicom("pydicom.pixels")
    in_files = sorted(range(len(frames)), key=lambda index: (frames[index].file, frames[index].index))
    for name, group in groupby(in_files, key=lambda index: frames[index].file):
        members = list(group)
        with source.open(name) as file, quiet():
            try:
                found = pixels.iter_pixels(file, indices=[frames[index].index for index in members])
                for index, stored in zip(members, found, strict=True):
                    _check_shape(stored, frames[index])
                    yield index, stored
            except dicom_errors() as error:
                if isinstance(error, ImageFileError):
                    raise
                raise ImageFileError(
                    f"{source.describe(name)}: the voxels cannot be read: {describe(error)}. Copy the file again, or "
                    "save it without compression"
                ) from error


def _check_shape(stored: AnyArray, frame: Frame) -> None:
    expected = (*frame.shape, 3) if frame.channels == 3 else frame.shape
    if stored.shape != expected:
        raise ValueError(f"found an array of shape {stored.shape}, expected {expected}")


def _fill_padding(slices: AnyArray, outside: dict[int, AnyArray], modality: str) -> float:
    """Overwrite padding (C, Z, Y, X) in place; gives the intensity of what lies outside of the image."""
    if modality == "CT":
        filler = AIR_HU
    else:
        filler = min(
            float(slices[:, index].min(where=~outside[index], initial=np.inf) if index in outside else plane.min())
            for index, plane in enumerate(np.moveaxis(slices, 1, 0))
        )
        filler = filler if np.isfinite(filler) else 0.0
    for index, padding in outside.items():
        slices[:, index][:, padding] = filler
    return filler


def _resample(slices: AnyArray, lattice: Lattice, filler: float) -> AnyArray:
    """Slices (C, S, Y, X) on the upright grid with equal distances, (C, Z, Y, X): shifted, then interpolated linearly.

    One layer after the other is made of the two slices beside it, so that nothing of the image's size is held twice
    but the result.
    """
    depth, height, width = lattice.grid.shape
    resampled = np.empty((len(slices), depth, height, width), dtype=np.float32)
    layers = np.array(lattice.layers)
    for layer in range(depth):
        above = min(int(np.searchsorted(layers, layer - 1e-6)), len(layers) - 1)
        below = max(above - 1, 0) if layers[above] > layer + 1e-6 else above
        distance = layers[above] - layers[below]
        fraction = 0.0 if distance <= 0 else float((layer - layers[below]) / distance)
        for channel, target in zip(slices, resampled[:, layer], strict=True):
            target[:] = _shifted(channel[below], lattice.shifts[below], (height, width), filler)
            if fraction > 0:
                target *= 1 - fraction
                target += fraction * _shifted(channel[above], lattice.shifts[above], (height, width), filler)
    return resampled


def _shifted(plane: AnyArray, shift: tuple[float, float], shape: tuple[int, int], filler: float) -> AnyArray:
    """A slice (Y, X) whose first voxel lies at `shift` of a larger plane, interpolated linearly."""
    rows, is_row = _interpolate(plane, shape[0], shift[0])
    columns, is_column = _interpolate(rows.T, shape[1], shift[1])
    moved: AnyArray = np.where(is_row[:, np.newaxis] & is_column, columns.T, filler)
    return moved


def _interpolate(values: AnyArray, length: int, shift: float) -> tuple[AnyArray, AnyArray]:
    """Values (N, M) along a longer first axis, on which they begin at `shift`; and which of it they cover.

    A voxel reaches half its size to each side.
    """
    places = np.arange(length) - shift
    is_covered = (places > -0.5 - _ROUNDING) & (places < len(values) - 0.5 + _ROUNDING)
    places = np.clip(places, 0, len(values) - 1)
    low = np.minimum(np.floor(places + _ROUNDING).astype(int), len(values) - 1)
    high = np.minimum(low + 1, len(values) - 1)
    fraction = np.clip(places - low, 0, 1).astype(np.float32)[:, np.newaxis]
    return values[low] * (1 - fraction) + values[high] * fraction, is_covered
