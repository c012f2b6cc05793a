"""Targets of cases in which only some labels were looked for, as losses and pseudo-Dice see them."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.records.partial_labels import count_indices, looked_for_heads


def split_target(target: Tensor, encoding: LabelEncoding) -> tuple[Tensor, Tensor | None]:
    """Label indices, and which heads were looked for in each sample.

    Args:
        target: Target of the loader, see `records.partial_labels`, (B, *S), integer, not negative.
        encoding: Labels of the training, with the sets of labels that were looked for.

    Returns:
        Label indices, (B, *S); and whether each head counts, (B, K) bool, None where all do in every sample.
    """
    if not encoding.annotated_sets:
        return target, None
    count = count_indices(encoding)
    # outside the image the target is 0, whatever the set, so the largest value has its number
    numbers = torch.div(target.flatten(1).amax(dim=1), count, rounding_mode="floor")  # (B,)
    members = [numbers == number for number in range(len(encoding.annotated_sets))]
    return target % count, torch.stack(_heads_of(members, looked_for_heads(encoding)), dim=1)


def _heads_of(members: Sequence[Tensor], looked_for: Sequence[Sequence[bool]]) -> list[Tensor]:
    """Samples in which each head was looked for; comparisons, for a table would make the host wait for a GPU."""
    known: dict[tuple[bool, ...], Tensor] = {}
    found = []
    for of_head in zip(*looked_for, strict=True):
        if of_head not in known:
            known[of_head] = reduce(or_, (member for member, is_in in zip(members, of_head, strict=True) if is_in))
        found.append(known[of_head])
    return found
