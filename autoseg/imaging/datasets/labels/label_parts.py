"""Label maps that are put together from parts: one mask file for each label, or the segments of segmentations.

    check of every case   which labels share voxels                         (`count_combinations`)
    the whole dataset     a value for each label and each such combination  (`name_values`)
    whenever a case is read   the parts as one label map with these values  (`read_reference`)

Nothing is copied on disk. One file and one label map are in memory at a time.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.label_values import describe_fractions
from autoseg.imaging.formats.reading import read_image, read_label_map
from autoseg.imaging.formats.segmentations import is_segmentation, place_on_grid, read_layers
from autoseg.imaging.formats.volume import AnyArray, Volume, grid_difference
from autoseg.records.case import Grid
from autoseg.records.dataset import BACKGROUND, IGNORE, CaseFiles, LabelEncoding, LabelPart, LabelValues, names_by_value

_LISTED_OVERLAPS = 5
"""Number of combinations of labels that a sentence names; it counts the others."""

Combination = frozenset[str]
"""Names of labels that share a voxel; empty for the background."""


@dataclass(frozen=True)
class NamedValues:
    """Values for the labels of a dataset whose label maps consist of parts."""

    labels: dict[str, LabelValues]
    """Value of each label; several values for one that shares voxels with others."""
    regions_class_order: tuple[int, ...] | None
    """Own value of each label where some overlap; None: none do."""
    values: dict[Combination, int]
    """Value of every combination that occurs, the background's included."""
    notes: tuple[str, ...] = ()


def read_reference(folder: Path, files: CaseFiles, encoding: LabelEncoding) -> Volume:
    """Read the label map of a case, put together from its parts if it has any.

    Args:
        folder: Dataset folder.
        files: Files of the case.
        encoding: Encoding of the dataset, which tells the values of labels and of those that overlap.

    Returns:
        Volume with array (1, Z, Y, X) in stored order, see `formats.reading.read_label_map`.

    Raises:
        ImageFileError: If a file cannot be read, is no mask, lies on another grid, or labels overlap that did not when
            the dataset was planned.
    """
    if files.parts is None:
        whole = read_label_map(folder / files.label, encoding.reading)
        return whole if whole.has_voxel_size else whole.with_size_of(read_image([folder / files.images[0]]).grid)
    value_of = {names: value for value, names in names_by_value(encoding).items()}
    codes = _Codes()
    found = _read_codes(folder, files, None, codes)
    if found is None:
        image = read_image([folder / path for path in files.images])
        return replace(image, array=np.full((1, *image.grid.shape), encoding.values[0], dtype=np.uint8))
    if encoding.ignore_value is not None:
        value_of[frozenset({IGNORE})] = encoding.ignore_value
    unknown = [names for names in codes.names if names not in value_of]
    if unknown:
        raise ImageFileError(
            f"{folder / files.label}: the labels {' and '.join(sorted(unknown[0]))} have voxels in common, which they "
            "had not when the dataset was planned. Correct the masks, or run autoseg-plan again"
        )
    return _with_values(found, [value_of[names] for names in codes.names])


def read_named_reference(
    files: CaseFiles, labels: Mapping[str, LabelValues], grid: Grid
) -> tuple[Volume, dict[str, LabelValues]]:
    """Read parts by the names of their labels, for a comparison with label maps of a model.

    Args:
        files: Files of the case, with absolute paths; parts whose names are no labels count as background.
        labels: Labels and regions of the model, with their values.
        grid: Grid of the label map that is compared.

    Returns:
        Volume with array (1, Z, Y, X) in stored order; and the labels, some of them with further values for labels
        that have voxels in common in this case, and in no case that the model knows.

    Raises:
        ImageFileError: If a file cannot be read, is no mask, or lies on another grid.
    """
    values = {name: entry if isinstance(entry, tuple) else (entry,) for name, entry in labels.items()}
    known = files.model_copy(update={"parts": tuple(part for part in files.parts or () if part.label in labels)})
    codes = _Codes()
    found = _read_codes(Path(), known, grid, codes)
    if found is None:
        raise ImageFileError(f"{files.label}: has no mask of the labels {', '.join(labels)}")
    every = sorted({value for entry in values.values() for value in entry})
    names_of = {
        value: frozenset(name for name in values.keys() - {BACKGROUND} if value in values[name]) for value in every
    }
    value_of = {names: value for value, names in names_of.items()} | {frozenset(): values.get(BACKGROUND, (0,))[0]}
    for names in codes.names:
        if names not in value_of:
            value_of[names] = every[-1] + len(value_of)
            values |= {name: (*values[name], value_of[names]) for name in names}
    extended = {name: entry if len(entry) > 1 else entry[0] for name, entry in values.items()}
    return _with_values(found, [value_of[names] for names in codes.names]), extended


def count_combinations(folder: Path, files: CaseFiles, grid: Grid | None) -> dict[Combination, int]:
    """Number of voxels of each combination of labels in a case, read from its parts.

    Args:
        folder: Dataset folder.
        files: Files of the case.
        grid: Grid of the image; None: the image cannot be read.

    Raises:
        ImageFileError: If a file cannot be read, is no mask, or lies on another grid than the image.
    """
    codes = _Codes()
    found = _read_codes(folder, files, grid, codes)
    if found is None:
        return {}
    voxels = np.zeros(len(codes.names), dtype=np.int64)
    for plane in found.array[0]:  # plane by plane: counting copies with 8 bytes a voxel
        voxels += np.bincount(plane.ravel(), minlength=len(voxels))
    return {names: int(count) for names, count in zip(codes.names, voxels, strict=True) if count}


def name_values(
    names: Sequence[str], combinations: Sequence[Collection[Combination]], own_values: Mapping[str, int]
) -> NamedValues:
    """Give every label a value, and one to every combination of labels that share voxels.

    Args:
        names: Names of the labels.
        combinations: Combinations that occur in each case.
        own_values: Values of the labels, such as those in segmentations; 1, 2, ... for labels that have none there.
    """
    free = (value for value in range(1, len(names) + len(own_values) + 2) if value not in own_values.values())
    own = {name: own_values[name] if name in own_values else next(free) for name in names}
    found = {combination for of_case in combinations for combination in of_case}
    values: dict[Combination, int] = {frozenset(): 0, **{frozenset({name}): value for name, value in own.items()}}
    position = {name: number for number, name in enumerate(names)}
    overlapping = [tuple(sorted(each, key=position.__getitem__)) for each in found if len(each) > 1]
    overlapping.sort(key=lambda each: (len(each), [position[name] for name in each]))
    for each in overlapping:
        # Every beginning of a combination has a value too: prediction writes one label after the other.
        for length in range(2, len(each) + 1):
            values.setdefault(frozenset(each[:length]), max(values.values()) + 1)
    if not overlapping:
        return NamedValues({**own}, None, values)
    labels: dict[str, LabelValues] = {}
    for name in names:
        shared = tuple(value for each, value in values.items() if name in each)
        labels[name] = shared if len(shared) > 1 else own[name]
    order = tuple(own[name] for name in names if name != IGNORE)
    return NamedValues(labels, order, values, (_describe_overlaps(overlapping, combinations, values),))


class _Codes:
    """Numbers of the combinations of labels found so far; 0 is the background."""

    def __init__(self) -> None:
        self.names: list[Combination] = [frozenset()]

    def write(self, codes: AnyArray, mask: NDArray[np.bool_], label: str) -> None:
        """Add a label to the voxels of a mask; both arrays (Z, Y, X). Ignored voxels belong to nothing else."""
        for code in np.unique(codes[mask]).tolist():
            is_ignored = label == IGNORE or IGNORE in self.names[code]
            names = frozenset({IGNORE}) if is_ignored else self.names[code] | {label}
            if names not in self.names:
                self.names.append(names)
            # Codes above those found before are this label's own: they are not changed twice.
            codes[mask & (codes == code)] = -1 - self.names.index(names)
        np.invert(codes, out=codes, where=codes < 0)


def _read_codes(folder: Path, files: CaseFiles, grid: Grid | None, codes: _Codes) -> Volume | None:
    """Numbers of combinations, (1, Z, Y, X), which are added to `codes`; None for a case without any part."""
    found: Volume | None = None
    for part, mask, volume in _read_masks(folder, files, grid):
        found = found or replace(volume, array=np.zeros((1, *mask.shape), dtype=np.int32))
        codes.write(found.array[0], mask, part.label)
    return found


def _with_values(volume: Volume, values: Sequence[int]) -> Volume:
    """The volume with values instead of numbers of combinations; its array is overwritten."""
    table = np.array(values, dtype=np.int32)
    for plane in volume.array[0]:
        plane[:] = table[plane]
    return volume


def _read_masks(
    folder: Path, files: CaseFiles, grid: Grid | None
) -> Iterator[tuple[LabelPart, NDArray[np.bool_], Volume]]:
    """Masks (Z, Y, X) of the parts of a case with the volumes that hold them, file by file, on the image's grid."""
    on_grid = "" if grid is None else next(iter(files.images), "the label map that is compared")
    for file, parts in groupby(files.parts or (), key=lambda part: part.file):
        path = folder / file
        if is_segmentation(file):
            grid = grid or read_image([folder / files.images[0]]).grid
            volume = place_on_grid(read_layers(path), grid)
        else:
            volume = read_label_map(path)
        grid, on_grid = grid or volume.grid, on_grid or file
        difference = grid_difference(volume.grid, grid)
        if difference is not None:
            raise ImageFileError(f"{path}: not on the same grid as {on_grid}: {difference}")
        yield from ((part, _find_voxels(volume, part), volume) for part in parts)


def _find_voxels(volume: Volume, part: LabelPart) -> NDArray[np.bool_]:
    if part.layer >= len(volume.array):
        raise ImageFileError(f"{volume.path}: the segment {part.label} is in layer {part.layer}, which the file lacks")
    layer = volume.array[part.layer]
    if part.value is not None:
        is_part: NDArray[np.bool_] = layer == part.value
        return is_part
    if layer.dtype.kind not in "ui":
        raise ImageFileError(f"{volume.path}: {describe_fractions(layer[np.newaxis])}")
    mask: NDArray[np.bool_] = layer != 0
    inside = layer[mask]
    if inside.size and inside.min() < inside.max():
        found = np.unique(inside)
        raise ImageFileError(
            f"{volume.path}: taken as the mask of the label '{part.label}', but besides 0 it has {len(found)} values "
            f"from {found[0]} to {found[-1]}; expected one. Is it a label map or an image?"
        )
    return mask


def _describe_overlaps(
    overlapping: Iterable[tuple[str, ...]],
    combinations: Sequence[Collection[Combination]],
    values: dict[Combination, int],
) -> str:
    listed = [
        f"{' and '.join(each)} in {sum(frozenset(each) in of_case for of_case in combinations)} cases "
        f"(value {values[frozenset(each)]})"
        for each in overlapping
    ]
    more = f" and {len(listed) - _LISTED_OVERLAPS} more" if len(listed) > _LISTED_OVERLAPS else ""
    return (
        f"labels overlap, so each is trained as an output of its own: {', '.join(listed[:_LISTED_OVERLAPS])}{more}; in "
        "label maps such a value means all of these labels"
    )
