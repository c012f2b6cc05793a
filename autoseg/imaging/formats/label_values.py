"""What the numbers of a label file mean: whole numbers, whole numbers but for rounding, or no label map at all.

Tested in tests/imaging/formats/test_reading.py.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.volume import AnyArray

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

VALUE_NOTES = frozenset({ROUNDED_NOTE, WHITE_IS_ZERO_NOTE})
"""Notes about what the numbers of a label map mean, as opposed to those about its header."""

_LISTED = 10
"""Number of values or colours that a message names; it counts the others."""


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
        f"{array.size} voxels. Is it a label map? Threshold probabilities, and resample label maps to their nearest "
        "neighbours; then save whole numbers"
    )


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
    what = f"a label map needs one value per voxel, found {len(array)} channels"
    if len(array) != 3 or array.dtype != np.uint8:
        raise ImageFileError(f"{path}: {what}")
    if not (array == array[:1]).all():
        raise ImageFileError(f"{path}: {what}: {_describe_colours(array)}")
    return np.ascontiguousarray(array[:1])


def _is_whole(values: AnyArray, nearest: AnyArray) -> NDArray[np.bool_]:
    limits = np.iinfo(np.int32)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        is_near = np.abs(values - nearest) <= np.maximum(ROUNDING_TOLERANCE, RELATIVE_TOLERANCE * np.abs(nearest))
    is_whole: NDArray[np.bool_] = is_near & (nearest >= limits.min) & (nearest <= limits.max)
    return is_whole


def _describe_colours(array: AnyArray) -> str:
    """The sentence about a mask (3, Z, Y, X) of red, green and blue, 8 bits each."""
    red, green, blue = array.astype(np.int32)
    colours, voxels = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    order = np.argsort(-voxels, kind="stable")
    found = [
        f"({colour >> 16}, {colour >> 8 & 255}, {colour & 255}) in {number}"
        for colour, number in zip(colours[order].tolist(), voxels[order].tolist(), strict=True)
    ]
    return (
        f"the label map has colours, so it is a colour mask. Its {len(found)} colours (red, green, blue), with their "
        f"numbers of voxels: {_shorten(found)}. Save a grey image (PNG) with one whole number instead of each colour: "
        "0 for the background, then 1, 2, ..."
    )


def _shorten(items: Iterable[str]) -> str:
    """The first few items, separated by commas, and the number of the others."""
    listed = list(items)
    shown = ", ".join(listed[:_LISTED])
    return f"{shown} and {len(listed) - _LISTED} more" if len(listed) > _LISTED else shown
