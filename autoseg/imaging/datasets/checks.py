"""Faults in the files of one case.

`check_case` opens every file of a case once; other checks (`imaging.datasets.case_comparison`) only use the facts that
it returns.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg.errors import ColorMaskError, ImageFileError
from autoseg.imaging.arrays.labels import value_list
from autoseg.imaging.arrays.soft_masks import (
    MIN_SUSPECTED_LEVELS,
    are_grey_levels,
    count_values,
    describe_grey_levels,
    find_thin_values,
    middle_value,
    suggest_grey_levels,
)
from autoseg.imaging.datasets.cases import choose_orientation
from autoseg.imaging.datasets.labels.label_parts import Combination, count_combinations
from autoseg.imaging.datasets.labels.mirror_pairs import LabelPlace, find_places
from autoseg.imaging.formats.label_values import MAX_LABEL_VALUE, describe_fractions, middle_fraction
from autoseg.imaging.formats.reading import image_exists, read_image, read_label_map
from autoseg.imaging.formats.volume import (
    PICTURE_ENDINGS,
    AnyArray,
    Volume,
    grid_difference,
    orient_array,
    orient_grid,
    split_ending,
)
from autoseg.records.case import Grid, Spacing
from autoseg.records.dataset import CaseFiles, Fault, LabelReading, OrientationName, Rgb

_AIR_HU, _MAX_HU = -900.0, 4100.0
"""Bounds of Hounsfield units: CT images show air (-1000 HU with noise) and end near the 12-bit limit."""

_SAMPLED_VOXELS = 1_000_000
"""Voxels inspected to decide whether intensities are whole numbers."""

_LOSSY_ENDINGS = (".jpg", ".jpeg")


@dataclass(frozen=True)
class CaseFacts:
    """Facts found by reading a case; small, because they are sent between processes."""

    files: CaseFiles
    faults: tuple[Fault, ...] = ()
    spacing: Spacing | None = None
    """Spacing in working orientation, mm; None when no image could be read."""
    hounsfield_channels: tuple[bool, ...] = ()
    """Whether the intensities of each channel look like Hounsfield units; False for one that the case lacks."""
    is_colour_picture: bool = False
    label_voxels: Mapping[int, int] | None = None
    """Number of voxels for each value in the file; None when there is no usable label map."""
    combinations: Mapping[Combination, int] | None = None
    """Number of voxels for each combination of labels, where the label map consists of parts."""
    mask_colors: Mapping[Rgb, int] = field(default_factory=dict)
    """Number of pixels by colour, where the label map is a colour mask and its colours are not declared."""
    suggested_threshold: float = 0
    """Value from which on the pixels of a soft or noisy mask may be its structure; 0 for other label maps."""
    places: Mapping[int, LabelPlace] = field(default_factory=dict)
    """Where each label lies, in working orientation; empty where the dataset declares its labels."""
    image_hash: str = ""
    """Hash of shape and voxels of all channels; empty when an image could not be read."""
    notes: tuple[str, ...] = ()


@dataclass
class _Notebook:
    """Faults of one case, collected while its files are read one after the other."""

    case: str
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mask_colors: dict[Rgb, int] = field(default_factory=dict)
    suggested_threshold: float = 0

    def error(self, file: str, what: str) -> None:
        self.faults.append(Fault(severity="error", case=self.case, file=file, what=what))

    def warning(self, file: str, what: str) -> None:
        self.faults.append(Fault(severity="warning", case=self.case, file=file, what=what))


@dataclass(frozen=True)
class _ImageFacts:
    """What the images of one case have in common; see `CaseFacts`."""

    grid: Grid | None
    """That of the first image that could be read."""
    hounsfield_channels: tuple[bool, ...]
    hash: str


def check_case(
    folder: Path,
    files: CaseFiles,
    orientation: OrientationName,
    *,
    has_declared_labels: bool = True,
    reading: LabelReading | None = None,
) -> CaseFacts:
    """Read all files of a case and record every fault; never raises for a faulty file.

    The faults are: files that are missing or cannot be read, grids that differ, NaN or infinite intensities, constant
    images, label values that are not whole numbers or out of range; without declared labels, also masks with grey
    levels.

    Args:
        folder: Dataset folder.
        files: Files of the case; an empty label is not a fault here (the layout reports it).
        orientation: Working orientation of the dataset, for the spacing.
        has_declared_labels: Whether the dataset says which values are labels; else every value becomes one.
        reading: How label files are read; None: their pixels are label values.
    """
    notebook = _Notebook(files.case)
    images = _check_images(folder, files, notebook)
    grid = images.grid
    oriented = choose_orientation(grid, orientation) if grid else None
    label_map = _read_label(folder, files, grid, notebook, reading) if files.parts is None else None
    label_voxels = None if label_map is None else _check_label(label_map, files.label, notebook)
    places: dict[int, LabelPlace] = {}
    if label_map is not None and label_voxels is not None and not has_declared_labels:
        if reading is None:
            label_voxels = _check_grey_levels(label_map, label_voxels, files.label, notebook)
        if oriented and label_voxels is not None:
            spacing = orient_grid(label_map.grid, oriented).spacing
            places = find_places(orient_array(label_map.array[0], oriented), spacing)
    combinations = None if files.parts is None else _check_parts(folder, files, grid, notebook)
    return CaseFacts(
        files=files,
        faults=tuple(notebook.faults),
        spacing=orient_grid(grid, oriented).spacing if grid and oriented else None,
        places=places,
        hounsfield_channels=images.hounsfield_channels,
        is_colour_picture=len(images.hounsfield_channels) == 3
        and all(split_ending(file)[1] in PICTURE_ENDINGS for file in files.images),
        label_voxels=label_voxels,
        combinations=combinations,
        mask_colors=notebook.mask_colors,
        suggested_threshold=notebook.suggested_threshold,
        image_hash=images.hash,
        notes=tuple(dict.fromkeys(notebook.notes)),
    )


def _check_images(folder: Path, files: CaseFiles, notebook: _Notebook) -> _ImageFacts:
    """Read the images of a case one after the other."""
    digest = hashlib.blake2b(digest_size=16)
    hounsfield: list[bool] = []
    constant: list[tuple[str, float]] = []
    grid: Grid | None = None
    num_read = 0
    for file in files.images:
        volume = _read_image(folder, file, notebook)
        if volume is None:
            continue
        num_read += 1
        if grid is not None:
            _check_grid(volume.grid, file, grid, files.images[0], notebook)
        grid = grid or volume.grid
        digest.update(repr(volume.array.shape).encode())
        digest.update(np.ascontiguousarray(volume.array).data)
        for channel in volume.array:
            lowest, highest = float(channel.min()), float(channel.max())
            if not (np.isfinite(lowest) and np.isfinite(highest)):
                _report_infinite(channel, file, notebook)
            elif lowest == highest:
                constant.append((file, lowest))
            hounsfield.append(_is_hounsfield(channel, lowest, highest))
    _report_constant(constant, len(hounsfield), notebook)
    for channel in files.absent_channels:
        hounsfield.insert(channel, False)
    are_complete = 0 < num_read == len(files.images)
    return _ImageFacts(grid, tuple(hounsfield), digest.hexdigest() if are_complete else "")


def _read_image(folder: Path, file: str, notebook: _Notebook) -> Volume | None:
    path = folder / file
    if not image_exists(path):
        notebook.error(file, "the image file does not exist")
        return None
    try:
        volume = read_image([path])
    except ImageFileError as error:
        notebook.error(file, _without_path(error, path))
        return None
    notebook.notes += volume.notes
    return volume


def _check_grid(grid: Grid, file: str, first: Grid, first_file: str, notebook: _Notebook) -> None:
    difference = grid_difference(grid, first)
    if difference is not None:
        notebook.error(file, f"not on the same grid as {first_file}: {difference}")


def _report_infinite(channel: AnyArray, file: str, notebook: _Notebook) -> None:
    num_wrong = int(channel.size - np.isfinite(channel).sum())
    notebook.error(file, f"{num_wrong} voxels are NaN or infinite; replace them, for example by 0")


def _is_hounsfield(channel: AnyArray, lowest: float, highest: float) -> bool:
    """Whether the range, with air, and whole numbers are those of CT; a constant or infinite channel is not."""
    if not (-_MAX_HU <= lowest <= _AIR_HU and lowest < highest <= _MAX_HU):
        return False
    sample = channel.reshape(-1)[:: max(1, channel.size // _SAMPLED_VOXELS)]
    return bool(np.array_equal(sample, np.rint(sample)))


def _report_constant(constant: list[tuple[str, float]], num_channels: int, notebook: _Notebook) -> None:
    """An image without any contrast is an error; one empty channel of several may be a sequence not acquired."""
    report = notebook.error if len(constant) == num_channels else notebook.warning
    for file, value in constant:
        report(file, f"the image is constant: every voxel is {value:g}")


def _read_label(
    folder: Path, files: CaseFiles, grid: Grid | None, notebook: _Notebook, reading: LabelReading | None
) -> Volume | None:
    """The label map; None when it is missing or cannot be read."""
    file, path = files.label, folder / files.label
    if not file:
        return None
    if not image_exists(path):
        notebook.error(file, "the label file does not exist")
        return None
    is_lossy = split_ending(file)[1] in _LOSSY_ENDINGS and reading is None
    if is_lossy:
        what = "JPEG changes label values; save label maps as PNG, or say what the pixels mean with --label-threshold"
        notebook.error(file, f"{what} (one structure) or --label-colors")
    try:
        label_map = read_label_map(path, reading)
    except ImageFileError as error:
        if isinstance(error, ColorMaskError):
            notebook.mask_colors |= error.colors
        if not is_lossy:
            notebook.error(file, _without_path(error, path))
        return None
    if is_lossy:
        notebook.suggested_threshold = middle_value(int(label_map.array.max()))
        return None
    notebook.notes += label_map.notes
    if grid is not None:
        label_map = label_map.with_size_of(grid)
        _check_grid(label_map.grid, file, grid, files.images[0], notebook)
    return label_map


def _check_parts(
    folder: Path, files: CaseFiles, grid: Grid | None, notebook: _Notebook
) -> dict[Combination, int] | None:
    """Number of voxels for each combination of labels; None when a part cannot be read."""
    try:
        return count_combinations(folder, files, grid)
    except ImageFileError as error:
        path, _, what = str(error).removeprefix(f"{folder}{os.sep}").partition(": ")
        notebook.error(path, what)
        return None


def _check_label(label_map: Volume, file: str, notebook: _Notebook) -> dict[int, int] | None:
    """Number of voxels for each label value; None when they cannot be labels."""
    values = label_map.array[0]
    if values.dtype.kind not in "ui":
        notebook.error(file, describe_fractions(label_map.array))
        notebook.suggested_threshold = middle_fraction(label_map.array)
        return None
    voxels = count_values(values)
    out_of_range = [value for value in voxels if not 0 <= value <= MAX_LABEL_VALUE]
    if out_of_range:
        notebook.error(file, f"label values must lie between 0 and {MAX_LABEL_VALUE}, found {value_list(out_of_range)}")
        return None
    return voxels


def _check_grey_levels(
    label_map: Volume, voxels: dict[int, int], file: str, notebook: _Notebook
) -> dict[int, int] | None:
    """Number of voxels for each label value; None when the values are grey levels."""
    if len(voxels) <= MIN_SUSPECTED_LEVELS:
        return voxels
    thin = find_thin_values(label_map.array[0])
    if are_grey_levels(voxels, thin):
        notebook.suggested_threshold = middle_value(max(voxels))
        notebook.error(file, describe_grey_levels(voxels, thin))
        return None
    if suggest_grey_levels(voxels, thin):
        notebook.warning(file, describe_grey_levels(voxels, thin))
    return voxels


def _without_path(error: ImageFileError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
