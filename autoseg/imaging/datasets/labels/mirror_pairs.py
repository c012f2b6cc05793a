"""Labels without names that lie like the left and the right side of one structure.

Names steer mirroring: labels whose names have a side are not mirrored from left to right. Values alone say nothing, so
pairs of them that lie mirrored in every case are asked about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.case import Spacing
from autoseg.records.dataset import BACKGROUND, IGNORE, LabelValues
from autoseg.records.sides import LEFT_RIGHT

MIN_CASES = 2
"""Cases that must have both labels of a pair."""

MAX_RATIO = 1.5
"""Ratio up to which the extents of two sides are alike."""

MIN_ASIDE = 2.0
"""Distance of the sides from left to right, as a factor of their distance along the other axes."""

_MAX_VALUES = 64
"""Number of labels up to which pairs are looked for."""

_SAMPLED_VOXELS = 500_000
"""Voxels that centres are computed from; a larger label map is thinned out evenly."""


@dataclass(frozen=True)
class LabelPlace:
    """Where a label lies in a case."""

    center_mm: Spacing
    """Mean position along (z, y, x), mm."""
    extent_mm: Spacing
    """Standard deviation of the positions along (z, y, x), mm."""


def find_places(values: AnyArray, spacing: Spacing) -> dict[int, LabelPlace]:
    """Places of all foreground labels of a volume; none for 2D images and for label maps with too many values.

    Args:
        values: Label values, (Z, Y, X) in working orientation.
        spacing: Voxel size in mm, (z, y, x).
    """
    if min(values.shape) == 1:
        return {}
    step = int(np.ceil((values.size / _SAMPLED_VOXELS) ** (1 / 3)))
    thinned = values[::step, ::step, ::step]
    found = [value for value in np.unique(thinned).tolist() if value]
    if len(found) > _MAX_VALUES:
        return {}
    places = {}
    for value in found:
        positions = np.argwhere(thinned == value) * (step * np.array(spacing))
        center, extent = positions.mean(axis=0).tolist(), positions.std(axis=0).tolist()
        places[value] = LabelPlace((center[0], center[1], center[2]), (extent[0], extent[1], extent[2]))
    return places


def find_mirror_pairs(places_by_case: Sequence[Mapping[int, LabelPlace]]) -> list[tuple[int, int]]:
    """Pairs of labels that lie side by side and are alike in every case that has one of them.

    Args:
        places_by_case: Result of `find_places` for each case; the last axis runs from right to left.

    Returns:
        Pairs (left, right); no label is in two of them.
    """
    values = sorted({value for places in places_by_case for value in places})
    pairs: list[tuple[int, int]] = []
    for first, second in combinations(values, 2):
        if any(value in pair for pair in pairs for value in (first, second)):
            continue
        cases = [places for places in places_by_case if first in places or second in places]
        with_both = [places for places in cases if first in places and second in places]
        if len(with_both) < max(MIN_CASES, len(cases)):
            continue
        sides = {_side(places[first], places[second]) for places in with_both}
        if len(sides) == 1 and 0 not in sides:
            pairs.append((first, second) if sides == {1} else (second, first))
    return pairs


def _side(first: LabelPlace, second: LabelPlace) -> int:
    """1 where the first label is the left side of the second, -1 where it is the right one, 0 where it is neither."""
    apart = np.subtract(first.center_mm, second.center_mm)
    others = np.delete(np.abs(apart), LEFT_RIGHT)
    ratios = np.maximum(first.extent_mm, 1e-3) / np.maximum(second.extent_mm, 1e-3)
    is_alike = bool((np.maximum(ratios, 1 / ratios) <= MAX_RATIO).all())
    is_aside = bool(abs(apart[LEFT_RIGHT]) > MIN_ASIDE * max(others.max(), first.extent_mm[LEFT_RIGHT]))
    return int(np.sign(apart[LEFT_RIGHT])) if is_alike and is_aside else 0


def ask_about_sides(pairs: Sequence[tuple[int, int]], labels: Mapping[str, LabelValues]) -> str:
    """The question about pairs (left, right), with names that answer it.

    Args:
        pairs: Result of `find_mirror_pairs`, at least one.
        labels: Labels of the dataset.
    """
    sides = {value: name for pair in pairs for value, name in zip(pair, _side_names(pairs.index(pair)), strict=True)}
    named = ",".join(
        f"{sides.get(value, name) if isinstance(value, int) else name}={value}"
        for name, value in labels.items()
        if name not in (BACKGROUND, IGNORE)
    )
    listed = "; ".join(f"{left} and {right}" for left, right in pairs)
    return (
        f"the values {listed} lie like the left and right side of one structure in every case. If they are, name them, "
        f"so that mirroring does not swap them: --label-names '{named}' (or train with --mirror-axes without x)"
    )


def _side_names(number: int) -> tuple[str, str]:
    suffix = "" if number == 0 else f"_{number + 1}"
    return f"left{suffix}", f"right{suffix}"
