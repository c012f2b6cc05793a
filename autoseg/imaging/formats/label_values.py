"""What the numbers of a label file mean: whole numbers, whole numbers but for rounding, or no label map at all.

Tested in tests/imaging/formats/test_reading.py.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.color_masks import (
    SOFT_EDGES_NOTE,
    grey_colors_to_values,
    refuse_colors,
    values_of_colors,
)
from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.dataset import LabelReading

MAX_LABEL_VALUE = 65535
"""Largest value of a label: the largest that 16-bit files hold, and small enough for a look-up table."""

ROUNDING_TOLERANCE = 1e-3
"""Distance from a whole number up to which a value is that number: what a scale factor in the header or a
floating-point type leaves of whole numbers (0.9999999998, 1.9999)."""

RELATIVE_TOLERANCE = 1e-6
"""The same as a fraction of the value; float32 holds seven digits."""

ROUNDED_NOTE = (
    f"the label values are whole numbers but for rounding (at most {ROUNDING_TOLERANCE:g}), as files with a scale "
    "factor have them; they are read as the nearest whole numbers"
)

WHITE_IS_ZERO_NOTE = "the TIFF file is marked WhiteIsZero (0 is shown white); its pixels are the numbers that it stores"

VALUE_NOTES = frozenset({ROUNDED_NOTE, WHITE_IS_ZERO_NOTE, SOFT_EDGES_NOTE})
"""Notes about what the numbers of a label map mean, as opposed to those about its header."""

_COLOR_CHANNELS = (3, 4)
"""Numbers of channels of colours: red, green, blue, and opacity, which is ignored."""

_LISTED = 10
"""Number of values that a message names; it counts the others."""


def round_to_integers(array: AnyArray) -> tuple[AnyArray, tuple[str, ...]]:
    """The values of a label map as integers, where all of them are whole numbers but for rounding.

    Args:
        array: Values as stored, (1, Z, Y, X), of any real type.

    Returns:
        Values of integer type in the byte order of the machine, (1, Z, Y, X); as they are if one of them is further
        than ROUNDING_TOLERANCE (or RELATIVE_TOLERANCE of itself) from a whole number, not finite, or beyond 32 bits.
        And notes, one when values were rounded.
    """
    if array.dtype.kind in "ui":
        return array.astype(array.dtype.newbyteorder("="), copy=False), ()
    if array.dtype.kind == "b":
        return array.astype(np.uint8), ()
    integers = np.empty(array.shape, dtype=np.int32)
    is_rounded = False
    for plane, whole in zip(array[0], integers[0], strict=True):  # plane by plane: a volume needs much memory
        nearest = np.rint(plane)
        if not _is_whole(plane, nearest).all():
            return array, ()
        whole[:] = nearest
        is_rounded = is_rounded or not np.array_equal(plane, nearest)
    return integers, (ROUNDED_NOTE,) if is_rounded else ()


def check_whole_numbers(array: AnyArray, path: Path | None) -> None:
    """Refuse values that are no labels.

    Args:
        array: Values as `read_label_map` gives them, (1, Z, Y, X).
        path: File of the values, for the message.

    Raises:
        ImageFileError: If values are not whole numbers; the message names the first ones.
    """
    if array.dtype.kind not in "ui":
        raise ImageFileError(f"{path}: {describe_fractions(array)}")


def describe_fractions(array: AnyArray) -> str:
    """The sentence about a label map (1, Z, Y, X) with values that are not whole numbers."""
    wrong = array[~_is_whole(array, np.rint(array))]
    found = _shorten(str(value) for value in np.unique(wrong))
    return (
        f"label values must be whole numbers from 0 to {MAX_LABEL_VALUE}, found {found} in {wrong.size} of "
        f"{array.size} voxels. Is it a label map? Threshold a soft mask of one structure, or its "
        f"probabilities, with --label-threshold {middle_fraction(array):g}; resample label maps to their nearest "
        "neighbours"
    )


def read_values(array: AnyArray, reading: LabelReading | None, path: Path) -> tuple[AnyArray, tuple[str, ...]]:
    """The label values of a file, by the one rule for all files of a dataset.

    Args:
        array: Values as stored, (C, Z, Y, X); a palette gives its colours where `reading` has colours.
        reading: How the dataset's label files are read; None: as label values.
        path: File of the values, for the message.

    Returns:
        Label values, (1, Z, Y, X), integers where they are whole numbers but for rounding, and notes about what was
        done.

    Raises:
        ImageFileError: If there are several values per voxel, and no colours that are declared.
    """
    if reading is not None and reading.colors and len(array) in _COLOR_CHANNELS and array.dtype == np.uint8:
        return values_of_colors(array[:3], reading.colors, path)
    values, notes = round_to_integers(take_one_channel(array, path))
    if reading is None or (values.dtype.kind not in "ui" and reading.threshold is None):
        return values, notes
    if reading.threshold is not None:
        return apply_threshold(values, reading.threshold, reading.threshold_value), ()
    return grey_colors_to_values(values, reading.colors, path), notes


def apply_threshold(values: AnyArray, threshold: float, label: int) -> NDArray[np.uint16]:
    """A mask of one structure as a label map.

    Files that hold nothing but 0 and 1, or 0 and the label's value, are label maps already, and stay as they are: a
    folder may mix masks of 0 and 1 with masks of 0 and 255.

    Args:
        values: Values as stored, (1, Z, Y, X).
        threshold: Smallest value of the structure.
        label: Label value of the structure.
    """
    found = set(np.unique(values).tolist()) if values.dtype.kind in "ui" else set()
    is_label_map = bool(found) and (found <= {0, 1} or found <= {0, label})
    is_inside = values != 0 if is_label_map else values >= threshold
    return np.where(is_inside, np.uint16(label), np.uint16(0))


def take_one_channel(array: AnyArray, path: Path) -> AnyArray:
    """The numbers of a label map that may be stored as colours, whose red, green and blue are then equal.

    Args:
        array: Values as stored, (C, Z, Y, X).
        path: File of the values, for the message.

    Returns:
        Values, (1, Z, Y, X).

    Raises:
        ImageFileError: If there are several values per voxel; the message lists the colours of a colour mask.
    """
    if len(array) == 1:
        return array
    if len(array) not in _COLOR_CHANNELS or array.dtype != np.uint8:
        raise ImageFileError(f"{path}: a label map needs one value per voxel, found {len(array)} channels")
    if not (array[:3] == array[:1]).all():
        refuse_colors(array[:3], path)
    return np.ascontiguousarray(array[:1])


def _is_whole(values: AnyArray, nearest: AnyArray) -> NDArray[np.bool_]:
    limits = np.iinfo(np.int32)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        is_near = np.abs(values - nearest) <= np.maximum(ROUNDING_TOLERANCE, RELATIVE_TOLERANCE * np.abs(nearest))
    is_whole: NDArray[np.bool_] = is_near & (nearest >= limits.min) & (nearest <= limits.max)
    return is_whole


def middle_fraction(array: AnyArray) -> float:
    """The threshold to suggest for a soft mask with fractions: half of its largest value."""
    finite = array[np.isfinite(array)]
    return float(finite.max()) / 2 if finite.size and finite.max() > 0 else 0.5


def _shorten(items: Iterable[str]) -> str:
    """The first few items, separated by commas, and the number of the others."""
    listed = list(items)
    shown = ", ".join(listed[:_LISTED])
    return f"{shown} and {len(listed) - _LISTED} more" if len(listed) > _LISTED else shown
