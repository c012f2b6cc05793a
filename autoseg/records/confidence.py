"""How far probabilities can be trusted: temperatures, and what a case's Dice is expected to be.

`Confidence` is what prediction uses, in selection.json; `ConfidenceReport` is the evidence, in confidence.json.

Tested in tests/metrics/test_expected_dice.py, tests/selection/test_confidence.py and tests/stages/test_select.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from autoseg.records.files import Record

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Correction(Record):
    """What one measurement adds to the expected Dice."""

    mean: float
    """Mean over the held-out cases."""
    deviation: PositiveFloat
    """Standard deviation over the held-out cases."""
    slope: float
    """Logit of the Dice per standard deviation from the mean."""


class DiceModel(Record):
    """Expected Dice of one label or region, learnt from held-out cases; see `metrics.expected_dice`."""

    num_cases: PositiveInt
    """Held-out cases in which the label was predicted and could be scored."""
    offset: float
    """Mean logit of the Dice less that of the overlap which the probabilities promise."""
    overlap: Correction
    """Logit of the promised overlap."""
    volume: Correction
    """Logarithm of the predicted volume in mm³."""
    entropy: Correction
    """Entropy per predicted voxel, nats."""
    interval_factor: NonNegativeFloat
    """Half the width of the interval, in units of `metrics.expected_dice.spread`."""


class ExpectedDice(Record):
    """Dice that a label of a case is expected to have, without its reference."""

    value: Fraction
    low: Fraction
    high: Fraction
    """Bounds between which the Dice of nine in ten cases like the held-out ones lies."""


class Confidence(Record):
    """What held-out cases say of a model's probabilities."""

    temperatures: dict[str, PositiveFloat]
    """Divisor of the logits, by head; equal for all heads of a softmax. Above 1: the networks are overconfident."""
    expected_dice: dict[str, DiceModel]
    """Labels or regions that had enough held-out cases."""


class LabelCalibration(Record):
    """Errors of the probabilities of one label or region, before and after the temperature.

    Voxels whose probability is below 1 / NUM_BINS before it are left out, as in `records.calibration`. The temperature
    of a fold's cases is fitted on those of the other folds, where there are any.
    """

    voxels: NonNegativeInt
    """Number of voxels that the drawn ones stand for."""
    error_before: float
    """Expected calibration error; see `selection.temperature`."""
    error_after: float
    brier_before: float
    """Mean squared difference between the probability and 0 or 1 of the reference."""
    brier_after: float


class HeldOutDice(Record):
    """One label of one held-out case, and what a model that had not seen its fold expected of it."""

    case: str
    fold: str
    label: str
    dice: Fraction
    expected: ExpectedDice


class DiceAgreement(Record):
    """How well expected Dice agrees with measured Dice, over held-out cases of one label."""

    num_cases: PositiveInt
    correlation: float | None
    """Pearson's r; None: one of them does not vary."""
    mean_absolute_error: float
    mean_absolute_error_of_mean: float
    """The same error if every case were expected to be the mean of the others: what has to be beaten."""
    coverage: Fraction
    """Fraction of cases whose Dice lies in its interval; nine in ten are wanted."""


class ConfidenceReport(Record):
    """Evidence for a `Confidence`, from held-out cases."""

    schema_version: Literal[1] = 1
    calibration: dict[str, LabelCalibration]
    agreement: dict[str, DiceAgreement]
    cases: tuple[HeldOutDice, ...]
