"""Labels with a side, and the axis of a patch that runs from left to right, along which mirroring would swap them.

Used by the planners' rule for mirroring, and where a user chooses other axes.
"""

import re
from collections.abc import Iterable

from autoseg.records.case import Triple
from autoseg.records.dataset import OrientationName

LEFT_RIGHT = 2
"""Working axis (z, y, x) that runs from right to left in canonical orientation."""

_WRITTEN_OUT = ("left", "right")
_SHORT = frozenset({"l", "r", "lt", "rt", "lh", "rh"})
"""Short words for a side, only as separate words: LV, RVC and L1 name structures."""

_BETWEEN_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def find_sided_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names that contain a word for a side, in their order.

    Words are separated by blanks, punctuation or a capital after a small letter. Words for a side begin with `left` or
    `right`, or are `l`, `r`, `lt`, `rt`, `lh` or `rh`, in capitals or not.

    Examples:
        >>> find_sided_names(["lung_left", "kidney-R", "L_hippocampus", "RightEye", "LV", "RVC", "MLV", "L1", "liver"])
        ('lung_left', 'kidney-R', 'L_hippocampus', 'RightEye')
    """
    return tuple(name for name in names if any(map(_is_side, _BETWEEN_WORDS.split(name))))


def _is_side(word: str) -> bool:
    return word.lower().startswith(_WRITTEN_OUT) or word.lower() in _SHORT


def left_right_axes(transpose: Triple, dimensions: int, orientation: OrientationName) -> tuple[int, ...]:
    """Spatial axes of the patch that run, or may run, from left to right; 0 is the first of `patch_size`.

    Args:
        transpose: Patch axis i is working axis transpose[i]; a 2D patch has the last two.
        dimensions: Number of axes of the patch.
        orientation: Working orientation; with `as_stored` the left-right axis is unknown, so every axis may be it.

    Returns:
        One axis, every axis, or none for a 2D patch across the left-right axis.

    Examples:
        >>> left_right_axes((0, 1, 2), 3, "canonical"), left_right_axes((2, 0, 1), 3, "canonical")
        ((2,), (0,))
        >>> left_right_axes((2, 0, 1), 2, "canonical"), left_right_axes((0, 1, 2), 2, "as_stored")
        ((), (0, 1))
    """
    working_axes = transpose[-dimensions:]
    if orientation == "as_stored":
        return tuple(range(dimensions))
    return tuple(axis for axis, working_axis in enumerate(working_axes) if working_axis == LEFT_RIGHT)
