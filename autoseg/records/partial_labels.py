"""Cases in which only some labels were looked for: what their label maps say, and what they leave open.

In such a case a voxel without a label may belong to any label that was not looked for. While a fold trains, the target
says so by itself: each set of labels that were looked for has a number, and label index i in a case of set s becomes

    i + s * (number of label indices, that of the ignore label included)

Set 0 has every label, so label indices of other cases stay as they are. Crops, rotations and mirroring carry the number
with the labels, and no other part of a batch has to.

Tested in tests/records/test_partial_labels.py.
"""

from collections.abc import Iterable, Mapping, Sequence

from autoseg.records.dataset import BACKGROUND, LabelEncoding, foreground_names
from autoseg.records.sides import SideSwap

Names = tuple[str, ...]


def is_looked_for(name: str, annotated: Sequence[str] | None) -> bool:
    """Whether a label was looked for in a case with these names (`CaseFiles.annotated`)."""
    return annotated is None or name in annotated


def find_never_sought(
    encoding: LabelEncoding, annotated: Iterable[Names | None], swap: SideSwap | None = None
) -> Names:
    """Labels that were looked for in none of these cases, nor in their mirror images where a swap makes any."""
    every = tuple(foreground_names(encoding))
    sets = [tuple(name for name in every if is_looked_for(name, names)) for names in annotated]
    if swap is not None:
        sets += [_mirrored(names, encoding, swap) for names in sets]
    return tuple(name for name in every if not any(name in names for names in sets))


def with_annotated_sets(
    encoding: LabelEncoding, annotated: Iterable[Names | None], swap: SideSwap | None = None
) -> LabelEncoding:
    """The encoding with the sets of labels that were looked for in the cases of a training.

    Args:
        encoding: Labels or regions of the plan.
        annotated: `CaseFiles.annotated` of each case.
        swap: Labels that change places where images are mirrored; a set and its mirror image both get a number then.

    Returns:
        Sets with all labels first; the encoding itself where every label was looked for in every case.
    """
    every = tuple(foreground_names(encoding))
    found = {tuple(name for name in every if is_looked_for(name, names)) for names in annotated}
    if swap is not None:
        found |= {_mirrored(names, encoding, swap) for names in found}
    if found <= {every}:
        return encoding
    return encoding.model_copy(update={"annotated_sets": (every, *sorted(found - {every}))})


def find_set(encoding: LabelEncoding, annotated: Names | None) -> int:
    """Number of the set of a case.

    Raises:
        ValueError: If the encoding has no such set.
    """
    if not encoding.annotated_sets:
        return 0
    wanted = tuple(name for name in encoding.annotated_sets[0] if is_looked_for(name, annotated))
    return encoding.annotated_sets.index(wanted)


def count_indices(encoding: LabelEncoding) -> int:
    """Number of label indices, that of the ignore label included."""
    return len(encoding.values) + 1


def looked_for_heads(encoding: LabelEncoding) -> tuple[tuple[bool, ...], ...]:
    """Whether each head was looked for, by set and head; the background of a softmax always was."""
    return tuple(
        tuple((head.part_of or head.name) in (*names, BACKGROUND) for head in encoding.heads)
        for names in encoding.annotated_sets
    )


def heads_of_set(encoding: LabelEncoding, number: int) -> set[int]:
    """Positions of the heads that were looked for in cases of a set; all where the encoding has no sets."""
    if not encoding.annotated_sets:
        return set(range(len(encoding.heads)))
    return {position for position, is_in in enumerate(looked_for_heads(encoding)[number]) if is_in}


def code_labels(encoding: LabelEncoding, number: int) -> tuple[int, ...]:
    """Target of a case of a set by label index, and last that of -1, which is outside the image.

    A label of a softmax that was not looked for becomes background, wherever the label map has it all the same: what it
    says there is as open as elsewhere. Regions have a mask each, which needs no such rule.
    """
    heads, count = looked_for_heads(encoding)[number], count_indices(encoding)
    is_softmax = encoding.activation == "softmax"
    hidden = {
        index
        for head, is_counted in zip(encoding.heads, heads, strict=True)
        if is_softmax and not is_counted
        for index in head.indices
    }
    return (*(number * count + (0 if index in hidden else index) for index in range(count)), -1)


def swap_codes(encoding: LabelEncoding, swap: SideSwap) -> SideSwap:
    """The swap for targets with numbers of sets; the swap itself where the encoding has none."""
    if not encoding.annotated_sets:
        return swap
    count = count_indices(encoding)
    mirrored = [encoding.annotated_sets.index(_mirrored(names, encoding, swap)) for names in encoding.annotated_sets]
    labels = tuple(other * count + label for other in mirrored for label in swap.labels)
    return SideSwap(swap.axis, labels, swap.heads)


def _mirrored(names: Names, encoding: LabelEncoding, swap: SideSwap) -> Names:
    """The set of an image that is mirrored from left to right, in the order of the labels."""
    partner: Mapping[str, str] = {
        head.part_of or head.name: encoding.heads[other].part_of or encoding.heads[other].name
        for head, other in zip(encoding.heads, swap.heads, strict=True)
    }
    swapped = {partner[name] for name in names}
    return tuple(name for name in foreground_names(encoding) if name in swapped)
