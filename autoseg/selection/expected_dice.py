"""Learn the expected Dice of a label from held-out cases, and test it on folds that it was not learnt from.

Tested in tests/selection/test_confidence.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.metrics.expected_dice import MIN_CASES, expect_dice, fit_dice_model, leave_out
from autoseg.records.confidence import DiceAgreement, DiceModel, HeldOutDice


@dataclass(frozen=True)
class ScoredCase:
    """One label of a held-out case."""

    case: str
    fold: str
    measurements: NDArray[np.float64]
    """(3,); see `LabelSums.measurements`."""
    dice: float | None
    """Dice of the recipe; None where it is not defined."""


@dataclass(frozen=True)
class LearntDice:
    """What was learnt of one label."""

    label: str
    model: DiceModel | None
    """None: too few cases."""
    agreement: DiceAgreement | None
    cases: tuple[HeldOutDice, ...]
    """Cases with the Dice that a model without their fold expects."""
    reason: str
    """One sentence; empty without a model."""


def learn_expected_dice(label: str, cases: Sequence[ScoredCase]) -> LearntDice:
    """Learn from all cases in which the label was predicted and has a Dice; test with each fold left out in turn.

    A label is learnt only if it can be tested: at least MIN_CASES remain whichever fold is left out.
    """
    known = [case for case in cases if case.dice is not None and np.isfinite(case.measurements).all()]
    measurements = np.array([case.measurements for case in known]).reshape(-1, 3)
    dice = np.array([case.dice for case in known], dtype=np.float64)
    model = fit_dice_model(measurements, dice)
    expected: dict[int, HeldOutDice] = {}
    of_mean = np.zeros(len(known))
    for learnt, tested in leave_out([case.fold for case in known]):
        of_others = fit_dice_model(measurements[learnt], dice[learnt])
        if of_others is None or model is None:
            break
        of_mean[tested] = np.abs(dice[tested] - dice[learnt].mean())
        for place in np.flatnonzero(tested).tolist():
            expected[place] = HeldOutDice(
                case=known[place].case,
                fold=known[place].fold,
                label=label,
                dice=dice[place],
                expected=expect_dice(of_others, measurements[place]),
            )
    if model is None or len(expected) < len(known):
        return LearntDice(label, None, None, (), "")
    found = tuple(expected[place] for place in range(len(known)))
    agreement = _measure_agreement(found, float(of_mean.mean()))
    return LearntDice(label, model, agreement, found, _describe(label, agreement))


def describe_unlearnt(labels: Sequence[LearntDice]) -> tuple[str, ...]:
    """One sentence about all labels without a model, if there are any."""
    names = [label.label for label in labels if label.model is None]
    if not names:
        return ()
    return (
        f"Expected Dice of {', '.join(names)}: not learnt; {MIN_CASES} held-out cases in which the label is predicted "
        "are needed besides those of any one fold.",
    )


def _measure_agreement(cases: Sequence[HeldOutDice], error_of_mean: float) -> DiceAgreement:
    dice = np.array([case.dice for case in cases])
    expected = np.array([case.expected.value for case in cases])
    varies = min(dice.std(), expected.std()) > 0
    return DiceAgreement(
        num_cases=len(cases),
        correlation=float(np.corrcoef(expected, dice)[0, 1]) if varies else None,
        mean_absolute_error=float(np.abs(expected - dice).mean()),
        mean_absolute_error_of_mean=error_of_mean,
        coverage=float(np.mean([case.expected.low <= case.dice <= case.expected.high for case in cases])),
    )


def _describe(label: str, agreement: DiceAgreement) -> str:
    correlation = "unknown" if agreement.correlation is None else f"{agreement.correlation:.2f}"
    return (
        f"Expected Dice of {label}: off by {agreement.mean_absolute_error:.4f} on average over {agreement.num_cases} "
        f"held-out cases (the mean of the others: {agreement.mean_absolute_error_of_mean:.4f}), correlation "
        f"{correlation}; {agreement.coverage:.0%} lie in the interval."
    )
