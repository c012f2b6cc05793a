"""Two evaluations of the same cases, set against each other."""

from typing import Literal

from autoseg.records.files import Record
from autoseg.records.selection import Interval


class MetricComparison(Record):
    """One metric, case by case; a case counts where both evaluations have a value."""

    mean_difference: float
    """First minus second."""
    interval: Interval | None
    """95 % bootstrap interval over cases, both evaluations drawn together; None below two cases."""
    p_value: float | None
    """Wilcoxon signed-rank test, two-sided, [0, 1]: how likely so one-sided differences are when neither is better.
    None when no case differs. Not corrected for the number of labels and metrics looked at."""
    num_cases: int
    num_different: int
    """Cases with unequal values: only they enter the test, which cannot fall below 0.05 with fewer than six."""


class EvaluationComparison(Record):
    """First minus second, over the cases of both."""

    schema_version: Literal[1] = 1
    first: str
    """What was compared: a folder or file."""
    second: str
    cases: tuple[str, ...]
    mean_foreground_dice: MetricComparison | None
    """Interval: of the mean over labels of their means. Test: on the mean over labels of each case. None: no Dice."""
    labels: dict[str, dict[str, MetricComparison]]
    """By label and metric, as in LabelScores. A missed or invented structure has the worst value there is."""
    remarks: tuple[str, ...] = ()
    """What was left out, one sentence each."""
