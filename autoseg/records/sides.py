"""Labels with a side, their pairs, and the axis of a patch that runs from left to right.

A mirrored left kidney lies and looks as a right one does. Where every label with a side has a partner, an image can
still be mirrored from left to right if the labels of each pair change places: in the reference while training, in the
logits (and in a cascade's label map) when the logits of a mirrored image are mirrored back.

References:
    Own rules. nnU-Net v2 (Isensee et al., Nature Methods 2021) mirrors all axes and swaps no labels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import NonNegativeInt

from autoseg.records.case import Triple
from autoseg.records.dataset import LabelEncoding, OrientationName
from autoseg.records.files import Record

AXIS_LETTERS = "zyx"
"""Letters of the axes of a patch; one of two axes has the last two."""

LEFT_RIGHT = 2
"""Working axis (z, y, x) that runs from right to left in canonical orientation."""

_WRITTEN_OUT = ("left", "right")
_LATIN = {"sin": "left", "sinister": "left", "sinistra": "left", "dex": "right", "dexter": "right", "dextra": "right"}
_SHORT = {"l": "left", "lt": "left", "lh": "left", "r": "right", "rt": "right", "rh": "right"} | _LATIN
"""Words for a side that count only as separate words: LV, RVC, L1 and sinus name structures."""

_OPPOSITE = {"left": "right", "right": "left"}

_HEART = frozenset({"heart", "cardiac", "atrium", "atrial", "auricle", "ventricle", "ventricular", "coronary"})
"""Words for structures whose left and right differ in more than their place: one is no mirror image of the other."""

_BRAIN = frozenset({"brain", "cerebral", "lateral", "lat", "horn"})
"""Words for ventricles of the brain, which are mirror images."""

_BETWEEN_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


Pairs = tuple[tuple[str, str], ...]
"""Names of labels or regions, left and right."""


class Sides(Record):
    """Labels that change places where a patch is mirrored along the axis from left to right."""

    axis: NonNegativeInt
    """Spatial axis of the patch that runs from left to right; 0 is the first of `patch_size`."""
    pairs: Pairs
    """Names of labels or regions, left and right; at least one pair."""


@dataclass(frozen=True)
class SideSwap:
    """`Sides` as positions in label maps and logits. Each sequence is its own inverse."""

    axis: int
    """Spatial axis; 0 is the first of a patch, or of the tensor that is mirrored."""
    labels: tuple[int, ...]
    """Label index after the swap by the one before; the index of ignored voxels is included."""
    heads: tuple[int, ...]
    """Head after the swap by the one before."""


@dataclass(frozen=True)
class NamedSides:
    """What names of labels say about sides."""

    pairs: Pairs
    """Left and right, in the order of the left ones."""
    unpaired: tuple[str, ...]
    """Names with a side and without a partner, or of parts of the heart."""


def find_sided_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names that contain a word for a side, in their order.

    Words are separated by blanks, punctuation or a capital after a small letter. Words for a side begin with `left` or
    `right`, or are `l`, `r`, `lt`, `rt`, `lh`, `rh`, `sin`, `dex`, `sinister`, `dexter`, `sinistra` or `dextra`, in
    capitals or not.

    Examples:
        >>> find_sided_names(["lung_left", "kidney-R", "L_hippocampus", "RightEye", "LV", "RVC", "MLV", "L1", "liver"])
        ('lung_left', 'kidney-R', 'L_hippocampus', 'RightEye')
    """
    return tuple(name for name in names if any(_side_of(word) for word in _words(name)))


def find_side_pairs(names: Iterable[str]) -> NamedSides:
    """Pair names that differ by their words for a side alone.

    Names of parts of the heart are not paired: a mirrored left ventricle still has the thick wall of a left one.

    Examples:
        >>> found = find_side_pairs(["kidney_left", "Kidney Right", "lung_middle_lobe_right", "liver"])
        >>> found.pairs, found.unpaired
        ((('kidney_left', 'Kidney Right'),), ('lung_middle_lobe_right',))
        >>> find_side_pairs(["left ventricle", "right ventricle"]).pairs
        ()
    """
    sided = find_sided_names(names)
    found: dict[tuple[str, ...], list[str]] = {}
    for name in sided:
        found.setdefault(_normalize(name), []).append(name)
    pairs = []
    for key, alike in found.items():
        partners = found.get(tuple(map(_opposite, key)), [])
        is_left = next(word for word in key if _side_of(word)).startswith("left")
        if is_left and len(alike) == len(partners) == 1 and not _is_of_heart(key):
            pairs.append((alike[0], partners[0]))
    paired = {name for pair in pairs for name in pair}
    return NamedSides(tuple(pairs), tuple(name for name in sided if name not in paired))


def _words(name: str) -> list[str]:
    return [word.lower() for word in _BETWEEN_WORDS.split(name) if word]


def _side_of(word: str) -> str:
    """`left` or `right`; empty for other words."""
    return _SHORT.get(word) or next((side for side in _WRITTEN_OUT if word.startswith(side)), "")


def _normalize(name: str) -> tuple[str, ...]:
    """Words of a name, with `left` or `right` for every word for a side."""
    return tuple(_SHORT.get(word, word) for word in _words(name))


def _opposite(word: str) -> str:
    side = _side_of(word)
    return _OPPOSITE[side] + word.removeprefix(side) if side else word


def _is_of_heart(words: Sequence[str]) -> bool:
    return any(word in _HEART for word in words) and not any(word in _BRAIN for word in words)


def find_side_swap(axis: int, pairs: Pairs, encoding: LabelEncoding) -> SideSwap | None:
    """Positions that change places; core and border of a label do so together.

    Args:
        axis: Spatial axis from left to right.
        pairs: Names of labels or regions of the encoding.
        encoding: Labels, regions, or labels divided into core and border.

    Returns:
        None where label indices cannot change places so that every head becomes its partner: a region without a
        partner has one label of a pair and not the other, for example.
    """
    heads_of: dict[str, list[int]] = {}
    for position, head in enumerate(encoding.heads):
        heads_of.setdefault(head.part_of or head.name, []).append(position)
    partners = {name: partner for pair in pairs for name, partner in (pair, pair[::-1])}
    swapped = {
        position: other
        for name, positions in heads_of.items()
        for position, other in zip(positions, heads_of[partners.get(name, name)], strict=True)
    }
    labels = _swap_indices(encoding, swapped)
    if labels is None:
        return None
    return SideSwap(axis, (*labels, len(labels)), tuple(swapped[position] for position in range(len(swapped))))


def _swap_indices(encoding: LabelEncoding, swapped: Mapping[int, int]) -> list[int] | None:
    """The label index whose heads are the partners of an index's heads, for each; None if they do not fit together."""
    owners = [
        frozenset(position for position, head in enumerate(encoding.heads) if index in head.indices)
        for index in range(len(encoding.values))
    ]
    alike: dict[frozenset[int], list[int]] = {}
    for index, heads in enumerate(owners):
        alike.setdefault(heads, []).append(index)
    labels = []
    for index, heads in enumerate(owners):
        others = alike.get(frozenset(swapped[head] for head in heads), [])
        if len(others) != len(alike[heads]):
            return None
        labels.append(others[alike[heads].index(index)])
    return labels


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


def read_axes(letters: str, dimensions: int) -> tuple[int, ...]:
    """Axes of a patch by their letters.

    Args:
        letters: `all`, `none`, or letters of `AXIS_LETTERS`, of which a patch takes those that it has.
        dimensions: Number of axes of the patch.

    Examples:
        >>> read_axes("zx", 3), read_axes("zx", 2), read_axes("none", 3)
        ((0, 2), (1,), ())
    """
    possible = AXIS_LETTERS[-dimensions:]
    chosen = {"all": possible, "none": ""}.get(letters, letters)
    return tuple(axis for axis, letter in enumerate(possible) if letter in chosen)
