"""Means over cases, with one stated policy for empty structures.

Policy, the same for every metric:

- Empty in reference and prediction: no value. The case is left out of the label's means, and counted.
- Missed (only the reference has it), or a false alarm (only the prediction has it): Dice, IoU, surface Dice,
  lesion F1 and panoptic quality are 0, volume overlap error is 1, and all stay in the means. Distances, precision and
  recall have no value there, so `MetricSummary.mean` is without these cases; `mean_with_misses` gives them the worst
  possible value: the diagonal of the image for a distance, 0 for precision and recall. So a missed structure never
  improves a score.

The cases of all three kinds are counted and reported.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from autoseg.metrics.bootstrap import bootstrap_interval, bootstrap_intervals
from autoseg.metrics.descriptions import BY_NAME, NAMES
from autoseg.records.evaluation import (
    CaseScores,
    EmptyCounts,
    Evaluation,
    LabelScores,
    LabelSummary,
    MetricSummary,
)
from autoseg.records.partial_labels import is_looked_for
from autoseg.records.selection import Interval


def summarize(cases: Sequence[CaseScores], label_names: Sequence[str], missing: Sequence[str] = ()) -> Evaluation:
    """Summarise scored cases by label.

    Args:
        cases: Scored cases; a case may occur twice when two folds validated it.
        label_names: Foreground labels and regions, in the order of the summary.
        missing: References without a prediction: named, not scored.

    Returns:
        The summary. `mean_foreground_dice` is the mean over labels of their mean over cases, so every label counts
        the same; labels without any score are left out. None when no label has one. Surface Dice of cases that were
        measured with different tolerances has no mean.

    Raises:
        ValueError: If a case was not scored for one of the labels.

    References:
        Mean over labels of means over cases: nnU-Net v2 (Isensee et al. 2021). Differs: a label that occurs nowhere
        does not make the mean undefined.
    """
    scores = {name: [_scores_of(case, name) for case in cases] for name in label_names}
    tolerances = {case.surface_tolerance_mm for case in cases if case.surface_tolerance_mm is not None}
    metrics = [metric for metric in NAMES if len(tolerances) < 2 or not BY_NAME[metric].uses_tolerance]
    columns = [[getattr(case, metric) for case in scores[name]] for name in label_names for metric in metrics]
    intervals = iter(bootstrap_intervals(as_array(columns, len(cases))))
    labels = {}
    for name in label_names:
        of_metrics = {metric: _summarize_metric(cases, scores[name], metric, next(intervals)) for metric in metrics}
        labels[name] = _summarize_label(scores[name], of_metrics)
    dice = as_array([[case.dice for case in scores[name]] for name in label_names], len(cases))
    return Evaluation(
        mean_foreground_dice=mean_of_known(summary.dice for summary in labels.values()),
        mean_foreground_dice_interval=bootstrap_interval(dice),
        surface_tolerance_mm=tolerances.pop() if len(tolerances) == 1 else None,
        labels=labels,
        cases=tuple(cases),
        counts={
            name: _count_empty([case.labels[name] for case in cases if is_looked_for(name, case.annotated)])
            for name in label_names
        },
        missing_predictions=tuple(missing),
    )


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean without the values that are None; None when nothing is left."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def case_dice(case: CaseScores) -> float | None:
    """Mean Dice over the labels of one case; None when every label is empty in both maps."""
    return mean_of_known(scores.dice for scores in case.labels.values())


def value_with_miss(case: CaseScores, scores: LabelScores, metric: str) -> float | None:
    """Value of a metric where a missed structure or a false alarm counts with the worst value.

    Args:
        case: Scores of the case, with the diagonal of its image.
        scores: Scores of one label of the case.
        metric: Name of the metric, see `descriptions`.

    Returns:
        None when both maps are empty, when the metric was not computed, and when it has no worst value.
    """
    value: float | None = getattr(scores, metric)
    description = BY_NAME[metric]
    if value is not None or description.miss == "scored" or not _is_missed_or_false_alarm(scores):
        return value
    return 0.0 if description.better == "higher" else case.largest_distance_mm


def as_array(columns: Sequence[Sequence[float | None]], num_cases: int) -> NDArray[np.float64]:
    """Columns of scores as (N, C), with NaN for None."""
    array: NDArray[np.float64] = np.array(columns, dtype=np.float64).reshape(len(columns), num_cases).T
    return array


def _scores_of(case: CaseScores, name: str) -> LabelScores:
    if name not in case.labels:
        raise ValueError(f"case {case.case} was not scored for label {name!r}, only for {', '.join(case.labels)}")
    return case.labels[name]


def _summarize_label(scores: Sequence[LabelScores], metrics: dict[str, MetricSummary]) -> LabelSummary:
    """Means over the cases with a value; the standard deviation is the sample's, None below two cases."""
    known = [score.dice for score in scores if score.dice is not None]
    return LabelSummary(
        dice=mean_of_known(known),
        iou=mean_of_known(score.iou for score in scores),
        dice_std=stdev(known) if len(known) > 1 else None,
        num_cases=len(known),
        metrics={
            name: metric
            for name, metric in metrics.items()
            if metric.num_cases > 0 or metric.mean_with_misses is not None
        },
    )


def _summarize_metric(
    cases: Sequence[CaseScores], scores: Sequence[LabelScores], metric: str, interval: Interval | None
) -> MetricSummary:
    known = [value for of_case in scores if (value := getattr(of_case, metric)) is not None]
    return MetricSummary(
        mean=mean_of_known(known),
        interval=interval,
        num_cases=len(known),
        mean_with_misses=_mean_with_misses(cases, scores, metric),
    )


def _mean_with_misses(cases: Sequence[CaseScores], scores: Sequence[LabelScores], metric: str) -> float | None:
    """None also when a miss has no worst value, because the case's surfaces were not measured."""
    if BY_NAME[metric].miss == "scored":
        return None
    values = [value_with_miss(case, of_case, metric) for case, of_case in zip(cases, scores, strict=True)]
    missed = [_is_missed_or_false_alarm(of_case) for of_case in scores]
    if any(value is None and is_missed for value, is_missed in zip(values, missed, strict=True)):
        return None
    return mean_of_known(values)


def _is_missed_or_false_alarm(scores: LabelScores) -> bool:
    return (scores.reference_voxels == 0) != (scores.predicted_voxels == 0)


def _count_empty(scores: Sequence[LabelScores]) -> EmptyCounts:
    empty = [(score.reference_voxels == 0, score.predicted_voxels == 0) for score in scores]
    return EmptyCounts(
        both_empty=empty.count((True, True)),
        missed=empty.count((False, True)),
        false_alarm=empty.count((True, False)),
    )
