"""Means over cases, with one stated policy for empty structures.

Policy: a structure that is empty in reference and prediction has no score and is left out of the means; one that is
missed or invented scores 0 and stays in. All three are counted, so nothing disappears without a trace.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from autoseg.records.evaluation import CaseScores, EmptyCounts, Evaluation, LabelScores, LabelSummary


def summarize(cases: Sequence[CaseScores], label_names: Sequence[str], missing: Sequence[str] = ()) -> Evaluation:
    """Summarise scored cases by label.

    Args:
        cases: Scored cases; a case may occur twice when two folds validated it.
        label_names: Foreground labels and regions, in the order wanted.
        missing: References without a prediction: named, not scored.

    Returns:
        The summary. `mean_foreground_dice` is the mean over labels of their mean over cases, so every label counts
        the same; labels without any score are left out. None when no label has one.

    Raises:
        ValueError: If a case was not scored for one of the labels.

    References:
        Mean over labels of means over cases: nnU-Net v2 (Isensee et al. 2021). Differs: a label that occurs nowhere
        does not make the mean undefined.
    """
    scores = {name: [_scores_of(case, name) for case in cases] for name in label_names}
    labels = {name: _summarize_label(of_label) for name, of_label in scores.items()}
    return Evaluation(
        mean_foreground_dice=mean_of_known(summary.dice for summary in labels.values()),
        labels=labels,
        cases=tuple(cases),
        counts={name: _count_empty(of_label) for name, of_label in scores.items()},
        missing_predictions=tuple(missing),
    )


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean without the values that are None; None when nothing is left."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def case_dice(case: CaseScores) -> float | None:
    """Mean Dice over the labels of one case; None when every label is empty in both maps."""
    return mean_of_known(scores.dice for scores in case.labels.values())


def _scores_of(case: CaseScores, name: str) -> LabelScores:
    if name not in case.labels:
        raise ValueError(f"case {case.case} was not scored for label {name!r}, only for {', '.join(case.labels)}")
    return case.labels[name]


def _summarize_label(scores: Sequence[LabelScores]) -> LabelSummary:
    """Means over the cases with a value; the standard deviation is the sample's, None below two cases."""
    known = [score.dice for score in scores if score.dice is not None]
    return LabelSummary(
        dice=mean_of_known(known),
        iou=mean_of_known(score.iou for score in scores),
        dice_std=stdev(known) if len(known) > 1 else None,
        num_cases=len(known),
    )


def _count_empty(scores: Sequence[LabelScores]) -> EmptyCounts:
    empty = [(score.reference_voxels == 0, score.predicted_voxels == 0) for score in scores]
    return EmptyCounts(
        both_empty=empty.count((True, True)),
        missed=empty.count((False, True)),
        false_alarm=empty.count((True, False)),
    )
