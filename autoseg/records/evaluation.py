"""Predictions measured against references."""

from typing import Literal

from autoseg.records.files import Record


class OverlapScores(Record):
    """One label in one case; voxels with the ignore value are left out of every count."""

    dice: float | None
    """2 TP / (2 TP + FP + FN), [0, 1]; None when prediction and reference are both empty."""
    iou: float | None
    """TP / (TP + FP + FN), [0, 1]; None when both are empty."""
    true_positives: int
    false_positives: int
    false_negatives: int
    predicted_voxels: int
    reference_voxels: int


class CaseScores(Record):
    """One case."""

    case: str
    labels: dict[str, OverlapScores]


class LabelSummary(Record):
    """One label over all cases; means leave out the cases in which both maps are empty, and count them."""

    dice: float | None
    """Mean over cases with a value; None when there is none."""
    iou: float | None
    dice_std: float | None
    num_cases: int
    """Cases that entered the mean."""


class EmptyCounts(Record):
    """How often a structure was empty, by kind; nothing is dropped silently."""

    both_empty: int
    """Neither reference nor prediction has the label: no Dice, counted here."""
    missed: int
    """The reference has the label, the prediction does not: Dice 0, in the mean."""
    false_alarm: int
    """The prediction has the label, the reference does not: Dice 0, in the mean."""


class Evaluation(Record):
    """All cases, and their summary."""

    schema_version: Literal[1] = 1
    mean_foreground_dice: float | None
    """Mean over labels of their mean over cases; labels without any value are left out. [0, 1]."""
    labels: dict[str, LabelSummary]
    cases: tuple[CaseScores, ...]
    counts: dict[str, EmptyCounts]
    """By label."""
    missing_predictions: tuple[str, ...] = ()
    """References without a prediction: not scored, and named."""
