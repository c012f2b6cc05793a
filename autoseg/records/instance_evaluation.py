"""Predicted objects measured against those of references."""

from typing import Literal

from autoseg.records.files import Record


class InstanceScores(Record):
    """Objects of one label, in one case or in all; a pair matches when its IoU is more than one half."""

    true_positives: int
    """Matched pairs."""
    false_positives: int
    """Predicted objects without a match."""
    false_negatives: int
    """Objects of the reference without a match."""
    sum_iou: float
    """Of the matched pairs."""
    segmentation_quality: float | None
    """Mean IoU of the matched pairs, (0.5, 1]; None when nothing matches."""
    recognition_quality: float | None
    """F1, [0, 1]; None without any object."""
    panoptic_quality: float | None
    """Product of both, [0, 1]; 0 when nothing matches, None without any object."""


class CaseInstanceScores(Record):
    """One case."""

    case: str
    labels: dict[str, InstanceScores]


class InstanceEvaluation(Record):
    """All cases that could be compared."""

    schema_version: Literal[1] = 1
    connectivity: Literal["full", "face"]
    """Where objects are components of label maps."""
    labels: dict[str, InstanceScores]
    """Over the objects of all cases together, not the mean of cases."""
    cases: tuple[CaseInstanceScores, ...]
    missing_predictions: tuple[str, ...]
    """Cases with a reference alone; they do not count."""
