"""Paired comparison of two evaluations of the same cases.

Tested in tests/metrics/test_paired.py.
"""

from typing import Literal

from autoseg.records.files import Record
from autoseg.records.selection import Interval


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
    """Comparisons by label and metric, as in LabelScores. Missed and invented structures have the worst value."""
    remarks: tuple[str, ...] = ()
    """Sentences about what was left out."""
