"""Conversion between values in label files and the label indices that autoseg works with.

Label indices are 0..K without gaps, background first; `ignore` is K + 1.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import DatasetError
from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.dataset import BACKGROUND, IGNORE, Head, LabelEncoding, LabelValues

MAX_VALUE = 65535
"""Largest value in label files: the largest that 16-bit files hold, and small enough for a look-up table."""

_LISTED_VALUES = 10
"""Number of undeclared values that a message names; it counts the others."""


def make_encoding(labels: dict[str, LabelValues], regions_class_order: Sequence[int] | None = None) -> LabelEncoding:
    """Decide how the named labels become network outputs.

    Labels give one softmax head each, by ascending value, background first. As soon as one entry has several
    values, every entry but background and ignore is a region: one sigmoid head each, in the order of declaration.
    At prediction, regions are written in that order, region i with the value `regions_class_order[i]`, later ones
    over earlier ones.

    Args:
        labels: Name -> value, or values of a region, in the files. Values need not be consecutive. `background`
            is 0 when it is not named; `ignore` marks voxels without reference.
        regions_class_order: For regions only: the value written for each, in the order of declaration.

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
    )


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
    table = np.full(MAX_VALUE + 1, -1, dtype=np.int16)
    for index, value in reversed([*enumerate(encoding.values)]):
        table[value] = index
    if encoding.ignore_value is not None:
        table[encoding.ignore_value] = len(encoding.values)
    if whole.size and (whole.min() < 0 or whole.max() > MAX_VALUE):
        raise ValueError(_undeclared_message(whole[(whole < 0) | (whole > MAX_VALUE)], encoding))
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
    wrong = [value for value in values if not 0 <= value <= MAX_VALUE]
    if wrong or not values:
        raise DatasetError(f"labels: '{name}' has the value {wrong or 'none'}; expected 0 to {MAX_VALUE}")
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
    return np.clip(values, -1, MAX_VALUE + 1).astype(np.int32)


def _undeclared_message(wrong: AnyArray, encoding: LabelEncoding) -> str:
    found = np.unique(wrong).tolist()
    declared = value_list(sorted(encoding.values))
    return f"undeclared values: {value_list(found)} in {wrong.size} voxels; declared are {declared}"
