"""Labels of validation cases whose Dice is far below what the confidence of the prediction promises.

Where networks that did not see a case are sure of a prediction and the reference says otherwise, either they are sure
and wrong, or the reference is. The spread of the other cases tells how rare that is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from autoseg.records.evaluation import CaseScores, LabelScores

MIN_CASES = 5
"""Number of cases with a label below which nothing is known of its spread."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""
MIN_SPREAD = 0.25
"""Smallest standard deviation of a logit of the Dice, which is 0.03 at Dice 0.87: references are not more exact."""
LARGEST = 0.95
"""Largest Dice that is told apart, and one minus the smallest, so that logits are finite: two people who draw the same
structure agree no better, so that 0.94 where 0.98 is expected says nothing about a reference."""
TYPICAL_PART = 0.5
"""Part of a label's median size from which on a structure on one side alone counts in full; specks count less."""


@dataclass(frozen=True)
class Deviation:
    """One label of one case, compared with the same label of the other cases."""

    case: str
    label: str
    dice: float
    expected_dice: float
    """Dice that a case with this promised overlap usually has."""
    deviation: float
    """Robust standard deviations below that, at least 0."""


def measure_deviations(
    cases: Sequence[CaseScores], promised: Mapping[str, Mapping[str, float]] | None = None
) -> list[Deviation]:
    """Compare the Dice of every label and case with what the other cases and the case's own confidence let expect.

    Residuals are logits of the Dice less those of the promised overlap. Their median and median absolute deviation are
    those of intact labels as long as fewer than half are damaged.

    Args:
        cases: Scores of held-out cases, by networks that did not see them.
        promised: Overlap that the probabilities promise, by case and label, see
            `metrics.expected_dice.LabelSums.measurements`. None, and where a label is not predicted: that of the
            median case.

    Returns:
        Labels with a Dice, by case and label; none of a label that fewer than five cases have.

    References:
        Iglewicz and Hoaglin 1993, modified z-scores. Northcutt et al. 2021, "Confident learning": label errors are
        found where out-of-sample predictions are confident and disagree.
    """
    found: list[Deviation] = []
    for label in dict.fromkeys(name for case in cases for name in case.labels):
        of_label = {case.case: case.labels[label] for case in cases if label in case.labels}
        found += _measure_label(label, of_label, {name: own.get(label) for name, own in (promised or {}).items()})
    return found


def _measure_label(
    label: str, scores: Mapping[str, LabelScores], promised: Mapping[str, float | None]
) -> list[Deviation]:
    known = {case: own.dice for case, own in scores.items() if own.dice is not None}
    if len(known) < MIN_CASES:
        return []
    sure = [value for case in known if (value := promised.get(case)) is not None]
    usual = median(sure) if sure else 0.5
    overlaps = {case: usual if (own := promised.get(case)) is None else own for case in known}
    residuals = {case: _logit(dice) - _logit(overlaps[case]) for case, dice in known.items()}
    middle = median(residuals.values())
    spread = max(NORMAL_MAD * median(abs(value - middle) for value in residuals.values()), MIN_SPREAD)
    sizes = [own.reference_voxels for own in scores.values() if own.reference_voxels]
    typical = median(sizes) if sizes else 0
    return [
        Deviation(
            case=case,
            label=label,
            dice=dice,
            expected_dice=1 / (1 + math.exp(-middle - _logit(overlaps[case]))),
            deviation=max((middle - residuals[case]) / spread, 0.0) * _weigh(scores[case], typical),
        )
        for case, dice in known.items()
    ]


def _weigh(scores: LabelScores, typical: float) -> float:
    """Fraction of a deviation that counts: less than 1 for a small structure that only one side has."""
    if scores.predicted_voxels and scores.reference_voxels:
        return 1.0
    voxels = max(scores.predicted_voxels, scores.reference_voxels)
    return min(voxels / (TYPICAL_PART * typical), 1.0) if typical else 1.0


def _logit(value: float) -> float:
    clipped = min(max(value, 1 - LARGEST), LARGEST)
    return math.log(clipped / (1 - clipped))
