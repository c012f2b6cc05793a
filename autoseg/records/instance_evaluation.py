"""Scores of predicted objects against those of references.

Tested in tests/stages/test_evaluate_instances.py.
"""

from typing import Literal

from autoseg.records.files import Record


class InstanceScores(Record):
    """Scores of the objects of one label, in one case or in all; a pair matches when its IoU is more than one half."""

    true_positives: int
    """Number of matched pairs."""
    false_positives: int
    """Number of predicted objects without a match."""
    false_negatives: int
    """Number of objects of the reference without a match."""
    sum_iou: float
    """Sum of the IoU of the matched pairs."""
    segmentation_quality: float | None
    """Mean IoU of the matched pairs, (0.5, 1]; None when nothing matches."""
    recognition_quality: float | None
    """F1, [0, 1]; None without any object."""
    panoptic_quality: float | None
    """Product of both, [0, 1]; 0 when nothing matches, None without any object."""


class CaseInstanceScores(Record):
    """Scores of one case."""

    case: str
    labels: dict[str, InstanceScores]


class InstanceEvaluation(Record):
    """Scores of all cases that could be compared."""

    schema_version: Literal[1] = 1
    connectivity: Literal["full", "face"]
    """Connectivity of components, where objects are components of label maps."""
    labels: dict[str, InstanceScores]
    """Scores over the objects of all cases together, by label; not means of cases."""
    cases: tuple[CaseInstanceScores, ...]
    missing_predictions: tuple[str, ...]
    """Cases with a reference but no prediction; they do not count."""
