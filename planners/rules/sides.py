"""Which labels change places where an image is mirrored from left to right.

A mirrored image has its left kidney where the right one was. Mirroring along that axis is right for labels with a side
if the labels of each pair change places, in training and in test-time augmentation. Pairs are found by name, or given.

Three things forbid it unless the user decides otherwise: a label with a side that has no partner (the middle lobe of
the right lung), parts of the heart (whose sides are no mirror images), and images that do not say which axis runs from
left to right: images as stored, and images of a single slice, such as photographs and X-rays. Of the latter, pairs that
the user gives are taken to lie beside each other, along x.

References:
    Own rule. nnU-Net v2 (Isensee et al., Nature Methods 2021) mirrors along all axes and swaps no labels.
"""

from autoseg.records.budget import Budget
from autoseg.records.case import Triple
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.sides import Pairs, Sides, find_side_pairs, find_side_swap, find_sided_names, left_right_axes
from planners.rules import Decided

MAX_NAMED = 3
"""Labels that a reason names; more are counted."""


def choose_side_pairs(fingerprint: Fingerprint, budget: Budget) -> Decided[Pairs] | None:
    """Labels that change places where an image is mirrored from left to right.

    Args:
        fingerprint: Names of its labels, its encoding and orientation.
        budget: The pairs that the user gave, if any.

    Returns:
        Names, left and right; None if no label has a side and the user gave no pairs.
    """
    asked = budget.overrides.side_pairs
    if asked is not None:
        return Decided(asked, "Requested.")
    if not find_sided_names(fingerprint.labels):
        return None
    if fingerprint.orientation == "as_stored":
        return Decided((), "None: in images as stored no axis is known to run from left to right.")
    if has_single_slices(fingerprint):
        return Decided((), "None: images of a single slice do not say which axis runs from left to right.")
    named = find_side_pairs(fingerprint.labels)
    if find_side_swap(0, named.pairs, fingerprint.encoding) is None:
        return Decided((), "None: other regions hold one label of a pair and not the other.")
    reason = "Names that differ by the side alone: these labels change places where an image is mirrored left-right."
    if named.unpaired:
        reason += f" Without a partner: {describe_names(named.unpaired)}; so that axis is not mirrored unasked."
    return Decided(named.pairs, f"{reason} --side-pairs overrides.")


def find_unpaired(fingerprint: Fingerprint, pairs: Pairs) -> tuple[str, ...]:
    """Labels that have a side and no partner in these pairs."""
    paired = {name for pair in pairs for name in pair}
    return tuple(name for name in find_sided_names(fingerprint.labels) if name not in paired)


def find_sides(dimensions: int, fingerprint: Fingerprint, budget: Budget, transpose: Triple) -> Sides | None:
    """The pairs with their axis of the patch; None without pairs, or where the patch has no such axis.

    Args:
        dimensions: 2 or 3.
        fingerprint: See `choose_side_pairs`.
        budget: See `choose_side_pairs`.
        transpose: Patch axis i is working axis transpose[i]; a 2D patch has the last two.
    """
    pairs = choose_side_pairs(fingerprint, budget)
    axes = left_right_axes(transpose, dimensions, fingerprint.orientation)
    if pairs is None or not pairs.value or len(axes) != 1:
        return None
    return Sides(axis=axes[0], pairs=pairs.value)


def has_single_slices(fingerprint: Fingerprint) -> bool:
    """Whether every image is a single slice."""
    return all(min(case.shape) == 1 for case in fingerprint.cases)


def describe_names(names: tuple[str, ...]) -> str:
    """The first names, and how many more there are."""
    others = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + others
