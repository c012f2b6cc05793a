"""Predictions measured against references: by label and case, one against another, and by instance.

Tested in tests/metrics/test_summary.py, tests/metrics/test_paired.py and tests/stages/test_evaluate_instances.py.
"""

from typing import Literal

from pydantic import Field

from autoseg.records.files import Record
from autoseg.records.names import FileName
from autoseg.records.provenance import Provenance
from autoseg.records.selection import Interval


class LabelScores(Record):
    """Scores of one label in one case; voxels with the ignore value are left out of every count."""

    dice: float | None
    """2 TP / (2 TP + FP + FN), [0, 1]; None when prediction and reference are both empty."""
    iou: float | None
    """TP / (TP + FP + FN), [0, 1]; None when both are empty."""
    true_positives: int
    false_positives: int
    false_negatives: int
    predicted_voxels: int
    reference_voxels: int
    pixel_accuracy: float | None = None
    """(TP + TN) / all counted voxels of the image, [0, 1]; None when both are empty."""
    precision: float | None = None
    """TP / (TP + FP), [0, 1]; None when nothing is predicted."""
    recall: float | None = None
    """TP / (TP + FN), [0, 1]; None when the reference is empty."""
    volume_overlap_error: float | None = None
    """1 - IoU, [0, 1]; None when both are empty."""
    relative_volume_difference: float | None = None
    """(predicted - reference) / reference, positive when too much is predicted; None when the reference is empty."""
    volume_error_ml: float | None = None
    """Predicted minus reference volume, positive when too much is predicted; None when both are empty, and in a single
    slice, whose thickness files do not reliably give."""
    average_surface_distance_mm: float | None = None
    """Symmetric (ASD = ASSD), both surfaces weighted by area; None when either map is empty. Pixels for 2D images, as
    all distances."""
    hausdorff_mm: float | None = None
    """Largest distance between the surfaces (MSD); None when either map is empty."""
    hausdorff_95_mm: float | None = None
    """The larger of both directions' 95th percentiles, weighted by area; None when either map is empty."""
    surface_dice: float | None = None
    """Fraction of both surfaces within the tolerance, [0, 1]: 0 when one map is empty, None when both are."""
    lesion_f1: float | None = None
    """F1 of components matched at IoU > 0.5 (recognition quality), [0, 1]; None when both are empty."""
    panoptic_quality: float | None = None
    """F1 times the mean IoU of matched components, [0, 1]; None when both are empty."""
    predicted_lesions: int | None = None
    """Number of connected components; None: not counted."""
    reference_lesions: int | None = None
    matched_lesions: int | None = None
    """Pairs of components with IoU > 0.5."""


class CaseScores(Record):
    """Scores of one case."""

    case: FileName
    labels: dict[str, LabelScores]
    annotated: tuple[str, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Labels that were looked for in this case; None: all. The others have no score and counts of 0; they enter no
    mean, and are neither missed nor false alarms."""
    surface_tolerance_mm: float | None = None
    """Tolerance of the surface Dice; None when surfaces were not measured."""
    largest_distance_mm: float | None = None
    """Diagonal of the image: the distance of a missed structure or a false alarm in `mean_with_misses`. None when
    surfaces were not measured."""


class MetricSummary(Record):
    """One metric of one label over all cases."""

    mean: float | None
    """Mean over the cases in which the metric is defined; None when there is no such case."""
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval of the mean over cases; None below two cases."""
    num_cases: int
    """Cases that entered the mean."""
    mean_with_misses: float | None = None
    """The mean when a missed structure or a false alarm counts with the worst possible value; None where it
    has a value of its own (such as Dice 0)."""


class LabelSummary(Record):
    """One label over all cases; means leave out the cases in which both maps are empty, and count them."""

    dice: float | None
    """Mean over the cases with a value; None when there is no such case."""
    iou: float | None
    dice_std: float | None
    num_cases: int
    """Cases that entered the mean."""
    metrics: dict[str, MetricSummary] = Field(default_factory=dict)
    """Every metric that was computed, Dice and IoU too, by its name in LabelScores."""


class EmptyCounts(Record):
    """How often a structure was empty, by kind."""

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
    mean_foreground_dice_interval: tuple[float, float] | None = None
    """95 % bootstrap interval over cases; None below two cases."""
    surface_tolerance_mm: float | None = None
    """Tolerance of the surface Dice; None when surfaces were not measured, or with different tolerances."""
    labels: dict[str, LabelSummary]
    cases: tuple[CaseScores, ...]
    counts: dict[str, EmptyCounts]
    """Numbers of empty structures by label."""
    missing_predictions: tuple[str, ...] = ()
    """References without a prediction: not scored, and named."""
    weights_hash: str = Field(default="", exclude_if=lambda value: value == "")
    """SHA-256 of the tensors that predicted a fold's validation cases; empty: not known, or predictions of anybody."""
    provenance: Provenance | None = Field(default=None, exclude_if=lambda value: value is None)
    """What `autoseg evaluate` was given; None in a workspace, whose files have provenance of their own."""


class MetricComparison(Record):
    """One metric, case by case; a case counts where both evaluations have a value."""

    mean_difference: float
    """Mean of first minus second."""
    interval: Interval | None
    """95 % bootstrap interval over cases, both evaluations drawn together; None below two cases."""
    p_value: float | None
    """p-value of the two-sided Wilcoxon signed-rank test, [0, 1]; None when no case differs. Not corrected for the
    number of labels and metrics that are compared."""
    num_cases: int
    num_different: int
    """Cases with unequal values: only they enter the test; with fewer than six, p cannot fall below 0.05."""


class EvaluationComparison(Record):
    """First minus second, over the cases of both."""

    schema_version: Literal[1] = 1
    first: str
    """Folder or file of the first evaluation."""
    second: str
    cases: tuple[str, ...]
    mean_foreground_dice: MetricComparison | None
    """Comparison of Dice: interval of the mean over labels of their means, test on the mean over labels of each case.
    None: no Dice."""
    labels: dict[str, dict[str, MetricComparison]]
    """Comparisons by label and metric, as in LabelScores. Missed structures and false alarms have the worst value."""
    remarks: tuple[str, ...] = ()
    """Sentences about what was left out."""


class InstanceScores(Record):
    """Scores of the instances of one label, in one case or in all; a pair matches when its IoU is above one half."""

    true_positives: int
    """Number of matched pairs."""
    false_positives: int
    """Number of predicted instances without a match."""
    false_negatives: int
    """Number of instances of the reference without a match."""
    sum_iou: float
    """Sum of the IoU of the matched pairs."""
    segmentation_quality: float | None
    """Mean IoU of the matched pairs, (0.5, 1]; None when nothing matches."""
    recognition_quality: float | None
    """F1, [0, 1]; None without any instance."""
    panoptic_quality: float | None
    """Product of both, [0, 1]; 0 when nothing matches, None without any instance."""


class CaseInstanceScores(Record):
    """Scores of one case."""

    case: str
    labels: dict[str, InstanceScores]


ScoreSource = Literal["score", "mean_probability", "none"]
"""Column of `instances.csv` that ranks predicted instances; none: all have score one."""


class AveragePrecision(Record):
    """Average precision over all cases, [0, 1]; interpolated at 101 recalls, as COCO's."""

    mean: float
    """Mean over the thresholds of IoU."""
    by_iou: dict[str, float]
    """Values by threshold, "0.50", "0.55" ... "0.95"."""


class InstanceEvaluation(Record):
    """Scores of all cases that could be compared."""

    schema_version: Literal[1] = 1
    connectivity: Literal["full", "face"]
    """Connectivity of components, where instances are components of label maps."""
    labels: dict[str, InstanceScores]
    """Scores over the instances of all cases together, by label; not means of cases."""
    cases: tuple[CaseInstanceScores, ...]
    missing_predictions: tuple[str, ...]
    """Cases with a reference but no prediction; they do not count."""
    score_source: ScoreSource = "none"
    """What ranks the predicted instances."""
    average_precision: dict[str, AveragePrecision | None] = Field(default_factory=dict)
    """Average precision by label; None for a label without an instance in any reference."""
    mean_average_precision: AveragePrecision | None = None
    """Mean over the labels that have a value; None if none has, or in older files."""
    provenance: Provenance | None = Field(default=None, exclude_if=lambda value: value is None)
    """What `autoseg evaluate` was given."""
