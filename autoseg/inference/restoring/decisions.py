"""From the values of all heads to label indices: the largest head, or regions painted in order.

Tested in tests/inference/restoring/test_restore.py.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from autoseg.records.dataset import LabelEncoding, indices_after_painting

Thresholds = Mapping[str, float]
"""Probability, (0, 1), above which a voxel belongs to a region, by region; regions that are not named: one half."""

DEFAULT_THRESHOLDS: Thresholds = MappingProxyType({})
"""One half for every region."""


def activate(logits: Tensor, encoding: LabelEncoding) -> Tensor:
    """Probabilities (K, ...) from logits (K, ...)."""
    return logits.softmax(dim=0) if encoding.activation == "softmax" else logits.sigmoid()


def decide_logits(
    heads: Iterator[Tensor], encoding: LabelEncoding, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Tensor:
    """Label indices (int32) from logits, head by head; of equal heads the first wins.

    Args:
        heads: One tensor for each head, in the encoding's order.
        encoding: Label index and activation of each head.
        thresholds: Probability above which a voxel belongs to a region; ignored without regions.
    """
    if encoding.activation == "softmax":
        return _largest_head(heads, encoding)
    return _painted_regions(heads, encoding, map(_logit, _limits(encoding, thresholds)))


def decide_probabilities(
    probabilities: Tensor, encoding: LabelEncoding, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Tensor:
    """Label indices (int32) from probabilities (K, ...); see `decide_logits`."""
    heads = iter(probabilities)
    if encoding.activation == "softmax":
        return _largest_head(heads, encoding)
    return _painted_regions(heads, encoding, _limits(encoding, thresholds))


def mean_probabilities(members: Sequence[Tensor], weights: Sequence[float] = ()) -> Tensor:
    """Mean of equal shapes, a new tensor; summed in the given order.

    Args:
        members: Probabilities.
        weights: Part of each in the mean; empty: equal ones.
    """
    if weights:
        mean = members[0] * weights[0]
        for member, weight in zip(members[1:], weights[1:], strict=True):
            mean += member * weight
        return mean
    mean = members[0].clone()
    for member in members[1:]:
        mean += member
    return mean.div_(len(members))


def _limits(encoding: LabelEncoding, thresholds: Thresholds) -> Iterator[float]:
    return (thresholds.get(head.name, 0.5) for head in encoding.heads)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _largest_head(heads: Iterator[Tensor], encoding: LabelEncoding) -> Tensor:
    best = next(heads).clone()
    labels = torch.full(best.shape, encoding.heads[0].painted_index, dtype=torch.int32, device=best.device)
    for description, values in zip(encoding.heads[1:], heads, strict=True):
        labels.masked_fill_(values > best, description.painted_index)
        torch.maximum(best, values, out=best)
    return labels


def _painted_regions(heads: Iterator[Tensor], encoding: LabelEncoding, limits: Iterable[float]) -> Tensor:
    labels: Tensor | None = None
    painted = indices_after_painting(encoding)
    for description, becomes, values, limit in zip(encoding.heads, painted, heads, limits, strict=True):
        if labels is None:
            labels = torch.zeros(values.shape, dtype=torch.int32, device=values.device)
        if encoding.overlapping:
            table = torch.tensor(becomes, dtype=torch.int32).to(values.device)
            labels = torch.where(values > limit, table[labels], labels)
        else:
            labels.masked_fill_(values > limit, description.painted_index)
    if labels is None:
        raise ValueError("the label encoding has no heads")
    return labels
