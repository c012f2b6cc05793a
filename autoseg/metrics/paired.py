"""Paired comparison of two evaluations of the same cases.

A missed structure or a false alarm counts with the worst value, as in `mean_with_misses`, so that missing the difficult
cases is no advantage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from autoseg.errors import UsageError
from autoseg.metrics.bootstrap import bootstrap_interval, mean_of_label_means
from autoseg.metrics.descriptions import BY_NAME, NAMES
from autoseg.metrics.summary import as_array, value_with_miss
from autoseg.records.evaluation import CaseScores, Evaluation, EvaluationComparison, MetricComparison

Differences = NDArray[np.float64]
"""First minus second, NaN where either has no value."""


@dataclass(frozen=True)
class NamedEvaluation:
    """One side of a comparison."""

    name: str
    evaluation: Evaluation


def compare_evaluations(first: NamedEvaluation, second: NamedEvaluation) -> EvaluationComparison:
    """Compare over the cases, labels and metrics that both have.

    Args:
        first: Evaluation of interest.
        second: Evaluation that it is compared with.

    Returns:
        Differences, first minus second, and what was left out.

    Raises:
        UsageError: If the two have no case or no label in common.

    References:
        Wilcoxon 1945, signed-rank test, cases without difference left out; Efron and Tibshirani 1993 for the
        interval.
    """
    cases, labels = _common_cases(first, second), _common_labels(first, second)
    remarks = _remarks(first, second, cases)
    metrics = [metric for metric in NAMES if not BY_NAME[metric].uses_tolerance or _has_one_tolerance(first, second)]
    pairs = list(zip(_scores_of(first, cases), _scores_of(second, cases), strict=True))
    by_label = {}
    for label in labels:
        compared = {metric: _compare(_differences(pairs, [label], metric)) for metric in metrics}
        by_label[label] = {metric: result for metric, result in compared.items() if result is not None}
        num_unpaired = sum(_is_unpaired(*pair, label) for pair in pairs)
        if num_unpaired:
            remarks.append(
                f"{label}: {num_unpaired} cases without this structure are left out, because only one of the two "
                "correctly predicts nothing there; compare the false alarms."
            )
    return EvaluationComparison(
        first=first.name,
        second=second.name,
        cases=tuple(cases),
        mean_foreground_dice=_compare(_differences(pairs, labels, "dice")),
        labels=by_label,
        remarks=tuple(remarks),
    )


def _common_cases(first: NamedEvaluation, second: NamedEvaluation) -> list[str]:
    first_cases, second_cases = ([case.case for case in side.evaluation.cases] for side in (first, second))
    common = sorted(set(first_cases) & set(second_cases))
    if not common:
        raise UsageError(
            f"{first.name} and {second.name} have no case in common: {', '.join(first_cases[:5])} and "
            f"{', '.join(second_cases[:5])}. Give predictions of the same cases."
        )
    return common


def _common_labels(first: NamedEvaluation, second: NamedEvaluation) -> list[str]:
    common = [label for label in first.evaluation.labels if label in second.evaluation.labels]
    if not common:
        raise UsageError(
            f"{first.name} and {second.name} have no label in common: {', '.join(first.evaluation.labels)} and "
            f"{', '.join(second.evaluation.labels)}. Evaluate both with the names of one model (-m)."
        )
    return common


def _has_one_tolerance(first: NamedEvaluation, second: NamedEvaluation) -> bool:
    return first.evaluation.surface_tolerance_mm == second.evaluation.surface_tolerance_mm


def _remarks(first: NamedEvaluation, second: NamedEvaluation, cases: Sequence[str]) -> list[str]:
    remarks = []
    for side, other in ((first, second), (second, first)):
        others = len({case.case for case in side.evaluation.cases} - set(cases))
        if others:
            remarks.append(f"{others} cases of {side.name} are not in {other.name} and were left out.")
        twice = len(side.evaluation.cases) - len({case.case for case in side.evaluation.cases})
        if twice:
            remarks.append(f"{side.name}: {twice} cases occur twice; the first of each was taken.")
        labels = [name for name in side.evaluation.labels if name not in other.evaluation.labels]
        if labels:
            remarks.append(f"{other.name} has no scores of {', '.join(labels)}: left out.")
    if not _has_one_tolerance(first, second):
        tolerances = " and ".join(f"{side.evaluation.surface_tolerance_mm}" for side in (first, second))
        remarks.append(f"Surface Dice was not compared: the tolerances are {tolerances} mm.")
    return remarks


def _scores_of(side: NamedEvaluation, cases: Sequence[str]) -> list[CaseScores]:
    by_case = {scores.case: scores for scores in reversed(side.evaluation.cases)}
    return [by_case[case] for case in cases]


def _differences(pairs: Sequence[tuple[CaseScores, CaseScores]], labels: Sequence[str], metric: str) -> Differences:
    """First minus second, (N cases, L labels)."""
    first, second = (
        as_array(
            [[value_with_miss(p[side], p[side].labels[label], metric) for p in pairs] for label in labels], len(pairs)
        )
        for side in (0, 1)
    )
    return first - second


def _is_unpaired(first: CaseScores, second: CaseScores, label: str) -> bool:
    """Whether one has a false alarm where the other correctly predicts nothing, so that only one has a score."""
    return (first.labels[label].dice is None) != (second.labels[label].dice is None)


def _compare(differences: Differences) -> MetricComparison | None:
    """Summary of differences (N, L); None when all are NaN."""
    mean = mean_of_label_means(differences)
    if mean is None:
        return None
    known = differences[~np.isnan(differences).all(axis=1)]
    case_means = np.nanmean(known, axis=1)
    different = case_means[case_means != 0]
    return MetricComparison(
        mean_difference=mean,
        interval=bootstrap_interval(differences),
        p_value=float(wilcoxon(different).pvalue) if different.size else None,
        num_cases=len(known),
        num_different=len(different),
    )
