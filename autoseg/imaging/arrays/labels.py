"""Label maps: values in files and the label indices that autoseg works with, and where the labels are.

Label indices are 0..K without gaps, background first; `ignore` is K + 1. Of every label or region a bounded sample of
voxels is drawn, from which training draws patch centres.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import DatasetError
from autoseg.imaging.formats.label_values import MAX_LABEL_VALUE
from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.dataset import BACKGROUND, IGNORE, Head, LabelEncoding, LabelValues

Locations = NDArray[np.int32]
"""Voxels (z, y, x), (N, 3)."""

ClassLocations = tuple[dict[int, Locations], Locations | None]
"""Voxels by index in `LabelEncoding.heads`, foreground heads only; and voxels with a label other than `ignore`, None
when the dataset has no ignore label."""

_LISTED_VALUES = 10
"""Number of undeclared values that a message names; it counts the others."""

MAX_LOCATIONS = 10_000
"""Voxels kept per head and case; patches around more centres than this hardly differ."""


def make_encoding(
    labels: dict[str, LabelValues], regions_class_order: Sequence[int] | None = None, *, overlapping: bool = False
) -> LabelEncoding:
    """Decide how the named labels become network outputs.

    Labels give one softmax head each, by ascending value, background first. As soon as one entry has several
    values, every entry but background and ignore is a region: one sigmoid head each, in the order of declaration.
    At prediction, regions are written in that order, region i with the value `regions_class_order[i]`, later ones
    over earlier ones.

    Args:
        labels: Name -> value, or values of a region, in the files. Values need not be consecutive. `background`
            is 0 when it is not named; `ignore` marks voxels without reference.
        regions_class_order: For regions only: the value written for each, in the order of declaration.
        overlapping: Whether regions are labels that overlap, some of whose values belong to several of them.

    Raises:
        DatasetError: If values are used twice or out of range, or regions lack a matching `regions_class_order`.

    References:
        nnU-Net v2 (Isensee et al. 2021), region-based training and ignore label. Differs: values may have gaps.
    """
    values_by_name = {name: _values(name, entry) for name, entry in labels.items()}
    values_by_name.setdefault(BACKGROUND, (0,))
    ignore_value = _single(IGNORE, values_by_name.pop(IGNORE)) if IGNORE in values_by_name else None
    background = _single(BACKGROUND, values_by_name.pop(BACKGROUND))
    if not values_by_name:
        raise DatasetError("labels: there is no label besides the background. Declare at least one structure.")
    if ignore_value is not None and ignore_value in {background, *_all_values(values_by_name)}:
        raise DatasetError(f"labels: the value {ignore_value} of 'ignore' is also used by another label")
    has_regions = any(len(values) > 1 for values in values_by_name.values())
    foreground = sorted(_all_values(values_by_name) - ({background} if has_regions else set()))
    if not has_regions:
        _refuse_shared_values({BACKGROUND: (background,), **values_by_name})
    values = (background, *foreground)
    index_of = {value: index for index, value in enumerate(values)}
    return LabelEncoding(
        values=values,
        ignore_value=ignore_value,
        activation="sigmoid" if has_regions else "softmax",
        heads=_region_heads(values_by_name, index_of, background, regions_class_order)
        if has_regions
        else _label_heads(values_by_name, index_of),
        overlapping=overlapping,
    )


def choose_region_order(labels: Mapping[str, LabelValues]) -> tuple[int, ...] | None:
    """The `regions_class_order` of regions that come without one; None when no label is a region.

    Each region is written with a value of its own that no later region has; among these the one that the fewest other
    regions have, then the smallest. Nested regions are therefore declared from the largest to the smallest.

    Args:
        labels: Values by name, in the order of declaration.

    Raises:
        DatasetError: If later regions have all the values of a region, so that it would never be seen.
    """
    if not any(isinstance(values, tuple) for values in labels.values()):
        return None
    regions = {name: set(_values(name, entry)) for name, entry in labels.items() if name not in (BACKGROUND, IGNORE)}
    order = []
    for position, (name, values) in enumerate(regions.items()):
        later = set().union(*[*regions.values()][position + 1 :])
        if not values - later:
            raise DatasetError(
                f"labels: every value of the region '{name}' is in regions after it, which are written over it. Name "
                "regions from the largest to the smallest, such as whole=1+2,core=2"
            )
        shared = {value: sum(value in others for others in regions.values()) for value in values - later}
        order.append(min(shared, key=lambda value: (shared[value], value)))
    return tuple(order)


def encode_label_map(values: AnyArray, encoding: LabelEncoding) -> NDArray[np.int16]:
    """Convert values in the files to label indices.

    Args:
        values: Whole numbers of any type and shape.
        encoding: Encoding of the dataset.

    Returns:
        Label indices 0..K, K + 1 for the ignore value; same shape. A label that is divided gets the index of its core.

    Raises:
        ValueError: If a value is not whole or not declared; the message names the values.
    """
    whole = _whole_numbers(values)
    table = np.full(MAX_LABEL_VALUE + 1, -1, dtype=np.int16)
    for index, value in reversed([*enumerate(encoding.values)]):
        table[value] = index
    if encoding.ignore_value is not None:
        table[encoding.ignore_value] = len(encoding.values)
    if whole.size and (whole.min() < 0 or whole.max() > MAX_LABEL_VALUE):
        raise ValueError(_undeclared_message(whole[(whole < 0) | (whole > MAX_LABEL_VALUE)], encoding))
    indices: NDArray[np.int16] = table[whole]
    if whole.size and indices.min() < 0:
        raise ValueError(_undeclared_message(whole[indices < 0], encoding))
    return indices


def decode_label_map(indices: AnyArray, encoding: LabelEncoding) -> NDArray[np.unsignedinteger]:
    """Convert label indices (Z, Y, X) to values in the files, in the smallest unsigned type that holds all of them.

    Works plane by plane, because an array that serves as index is first copied with 8 bytes per voxel.
    """
    values = [*encoding.values, *([] if encoding.ignore_value is None else [encoding.ignore_value])]
    table = np.array(values, dtype=np.min_scalar_type(max(values)))
    decoded: NDArray[np.unsignedinteger] = np.empty(indices.shape, dtype=table.dtype)
    for number, plane in enumerate(indices):
        decoded[number] = table[plane]
    return decoded


def value_list(values: Sequence[float]) -> str:
    """The first few values, separated by commas, and the number of the others."""
    shown = ", ".join(f"{value:.6g}" for value in values[:_LISTED_VALUES])
    return f"{shown} and {len(values) - _LISTED_VALUES} more" if len(values) > _LISTED_VALUES else shown


def foreground_heads(encoding: LabelEncoding) -> Iterator[tuple[int, Head]]:
    """Heads with their index, without the background head of a softmax."""
    return ((index, head) for index, head in enumerate(encoding.heads) if head.indices != (0,))


def _values(name: str, entry: LabelValues) -> tuple[int, ...]:
    values = entry if isinstance(entry, tuple) else (entry,)
    wrong = [value for value in values if not 0 <= value <= MAX_LABEL_VALUE]
    if wrong or not values:
        raise DatasetError(f"labels: '{name}' has the value {wrong or 'none'}; expected 0 to {MAX_LABEL_VALUE}")
    return values


def _single(name: str, values: tuple[int, ...]) -> int:
    if len(values) != 1:
        raise DatasetError(f"labels: '{name}' must be a single value, found {list(values)}")
    return values[0]


def _all_values(values_by_name: dict[str, tuple[int, ...]]) -> set[int]:
    return {value for values in values_by_name.values() for value in values}


def _refuse_shared_values(values_by_name: dict[str, tuple[int, ...]]) -> None:
    owner: dict[int, str] = {}
    for name, (value,) in values_by_name.items():
        if value in owner:
            hint = "; name the background 'background'" if BACKGROUND in (name, owner[value]) else ""
            raise DatasetError(f"labels: '{owner[value]}' and '{name}' both have the value {value}{hint}")
        owner[value] = name


def _label_heads(values_by_name: dict[str, tuple[int, ...]], index_of: dict[int, int]) -> tuple[Head, ...]:
    background = Head(name=BACKGROUND, indices=(0,), painted_index=0)
    by_index = sorted((index_of[value], name) for name, (value,) in values_by_name.items())
    return background, *(Head(name=name, indices=(index,), painted_index=index) for index, name in by_index)


def _region_heads(
    values_by_name: dict[str, tuple[int, ...]],
    index_of: dict[int, int],
    background: int,
    regions_class_order: Sequence[int] | None,
) -> tuple[Head, ...]:
    regions = {name: values for name, values in values_by_name.items() if values != (background,)}
    if regions_class_order is None:
        raise DatasetError(
            "labels: regions (labels with several values) need 'regions_class_order' in dataset.json: "
            f"one value to write for each of {list(regions)}, later ones over earlier ones"
        )
    if len(regions_class_order) != len(regions):
        raise DatasetError(
            f"labels: 'regions_class_order' has {len(regions_class_order)} values for {len(regions)} regions "
            f"({', '.join(regions)}); expected one for each"
        )
    unknown = sorted(set(regions_class_order) - set(index_of))
    if unknown:
        raise DatasetError(f"labels: 'regions_class_order' has the values {unknown}, which no label has")
    return tuple(
        Head(
            name=name, indices=tuple(sorted(index_of[value] for value in set(values))), painted_index=index_of[painted]
        )
        for (name, values), painted in zip(regions.items(), regions_class_order, strict=True)
    )


def _whole_numbers(values: AnyArray) -> AnyArray:
    if values.dtype.kind in "ui":
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    fractions = np.unique(values[~(values == np.rint(values))])
    if fractions.size:
        raise ValueError(f"values that are not whole numbers: {value_list(fractions.tolist())}")
    return np.clip(values, -1, MAX_LABEL_VALUE + 1).astype(np.int32)


def _undeclared_message(wrong: AnyArray, encoding: LabelEncoding) -> str:
    found = np.unique(wrong).tolist()
    declared = value_list(sorted(encoding.values))
    return f"undeclared values: {value_list(found)} in {wrong.size} voxels; declared are {declared}"


def draw_class_locations(labels: NDArray[np.int16], encoding: LabelEncoding, case_id: str) -> ClassLocations:
    """Draw voxels of every foreground head, evenly and without replacement; the same ones whenever it is called.

    Args:
        labels: Label indices, (Z, Y, X); -1 outside the nonzero mask.
        encoding: Encoding of the dataset.
        case_id: Case id; seeds the draw, so the order of cases and heads does not matter.

    Returns:
        Up to MAX_LOCATIONS voxels by index in `encoding.heads`, (0, 3) for an absent one; and as many voxels
        that have a label other than `ignore`, None when the dataset has no ignore label.
    """
    boxes = label_boxes(labels, encoding)
    locations = {
        index: _draw_voxels(*head_mask(labels, head, boxes), np.random.default_rng([index, *case_id.encode()]))
        for index, head in foreground_heads(encoding)
    }
    if encoding.ignore_value is None:
        return locations, None
    annotated = labels != len(encoding.values)
    generator = np.random.default_rng([len(encoding.heads), *case_id.encode()])
    return locations, _draw_voxels(annotated, (0, 0, 0), generator)


def label_boxes(labels: NDArray[np.int16], encoding: LabelEncoding) -> list[tuple[slice, slice, slice] | None]:
    """Bounding boxes of the label indices from 1 on; None for an absent label."""
    found: list[tuple[slice, ...] | None] = [*ndimage.find_objects(labels, max_label=len(encoding.values) - 1)]
    return [None if box is None else (box[0], box[1], box[2]) for box in found]


def head_mask(
    labels: NDArray[np.int16], head: Head, boxes: list[tuple[slice, slice, slice] | None]
) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    """Mask of a head within its bounding box, and the first voxel of the box; shape (0, 0, 0) for an absent head.

    Args:
        labels: Label indices, (Z, Y, X).
        head: A foreground head.
        boxes: Result of `label_boxes`.
    """
    if 0 in head.indices:
        return np.isin(labels, head.indices), (0, 0, 0)
    present = [box for box in (boxes[index - 1] for index in head.indices) if box is not None]
    if not present:
        return np.zeros((0, 0, 0), dtype=np.bool_), (0, 0, 0)
    z, y, x = (
        slice(min(box[axis].start for box in present), max(box[axis].stop for box in present)) for axis in range(3)
    )
    inside = labels[z, y, x]
    mask = inside == head.indices[0] if len(head.indices) == 1 else np.isin(inside, head.indices)
    return mask, (z.start, y.start, x.start)


def _draw_voxels(mask: NDArray[np.bool_], offset: tuple[int, int, int], generator: np.random.Generator) -> Locations:
    """Up to MAX_LOCATIONS voxels of a mask, shifted by `offset`, in ascending order.

    Ranks among the True voxels are drawn first and looked up plane by plane, so that no list of all True voxels of
    a large volume is made.
    """
    shift = np.array(offset, dtype=np.int32)
    ends = np.cumsum(np.count_nonzero(mask, axis=(1, 2)))
    if not ends.size or ends[-1] <= MAX_LOCATIONS:
        return np.argwhere(mask).astype(np.int32) + shift
    ranks = np.sort(generator.choice(int(ends[-1]), MAX_LOCATIONS, replace=False))
    planes = np.searchsorted(ends, ranks, side="right")
    voxels = np.empty((ranks.size, 3), dtype=np.int32)
    voxels[:, 0] = planes
    for z in np.unique(planes):
        chosen = planes == z
        first_rank = ends[z - 1] if z else 0
        flat = np.flatnonzero(mask[z])[ranks[chosen] - first_rank]
        voxels[chosen, 1], voxels[chosen, 2] = np.divmod(flat, mask.shape[2])
    return voxels + shift
