"""Average precision of instances with scores: how well the score ranks matches before false alarms.

Within a case, predicted instances choose in the order of their scores: each takes the free instance of the reference
with the largest IoU, if that reaches the threshold. The ranking is over all cases together.

References:
    Lin et al. 2014, "Microsoft COCO", and its evaluation: ten thresholds of IoU, precision at 101 recalls, each the
    largest precision at that recall or a larger one. Differs: all instances count, not the best hundred of an image;
    instances with equal scores enter the ranking together, so that its result does not depend on their order, while
    COCO takes them one by one as they come; and an IoU is compared as a fraction of whole numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.metrics.detection import Overlaps

IOU_TWENTIETHS = tuple(range(10, 20))
"""Thresholds of IoU, 0.5, 0.55 ... 0.95, in twentieths."""

NUM_RECALLS = 101
"""Recalls at which precision is read: 0, 0.01 ... 1."""


@dataclass(frozen=True)
class ScoredMatches:
    """Predicted instances of one label in one case, and which of them match."""

    scores: NDArray[np.float64]
    """(P,); larger is more certain."""
    is_match: NDArray[np.bool_]
    """(T, P), by threshold."""
    num_reference: int
    """Instances of the reference."""


def match_by_score(overlaps: Overlaps, scores: NDArray[np.float64]) -> ScoredMatches:
    """Match the instances of one case at every threshold.

    Args:
        overlaps: The instances and their overlaps.
        scores: (P,), in the order of `overlaps.predicted`; of equal ones the first chooses first.
    """
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    ious = overlaps.intersections / overlaps.unions
    order = np.lexsort((-ious, rank[overlaps.pairs[0]]))
    is_match = np.zeros((len(IOU_TWENTIETHS), len(scores)), dtype=np.bool_)
    for matched, twentieths in zip(is_match, IOU_TWENTIETHS, strict=True):
        taken = np.zeros(len(overlaps.reference), dtype=np.bool_)
        reaches = 20 * overlaps.intersections >= twentieths * overlaps.unions
        for predicted, reference in overlaps.pairs[:, order[reaches[order]]].T:
            if not matched[predicted] and not taken[reference]:
                matched[predicted] = taken[reference] = True
    return ScoredMatches(scores, is_match, len(overlaps.reference))


def average_precision(cases: Sequence[ScoredMatches]) -> NDArray[np.float64] | None:
    """Average precision of one label over all cases.

    Args:
        cases: Matches of every case.

    Returns:
        (T,), in [0, 1], by threshold; None if the reference has no instance at all.
    """
    num_reference = sum(case.num_reference for case in cases)
    if num_reference == 0:
        return None
    scores = np.concatenate([case.scores for case in cases])
    is_match = np.concatenate([case.is_match for case in cases], axis=1)
    order = np.argsort(-scores, kind="stable")
    scores, is_match = scores[order], is_match[:, order]
    is_last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # the last of equal scores
    ranks = np.flatnonzero(is_last) + 1
    matches = np.cumsum(is_match, axis=1)[:, is_last]
    return np.array([_interpolate(found, ranks, num_reference) for found in matches])


def _interpolate(matches: NDArray[np.int64], ranks: NDArray[np.int64], num_reference: int) -> float:
    """Mean of the interpolated precision at all recalls; 0 where a recall is not reached."""
    precision = np.append(np.maximum.accumulate((matches / ranks)[::-1])[::-1], 0.0)
    wanted = num_reference * np.arange(NUM_RECALLS)
    first = np.searchsorted((NUM_RECALLS - 1) * matches, wanted)  # whole numbers: recalls are met exactly
    return float(precision[first].mean())
