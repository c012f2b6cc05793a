"""Evaluations as tables of the page: every computed metric, with its interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoseg.metrics.descriptions import BY_NAME, metrics_of
from autoseg.metrics.summary import case_dice
from autoseg.records.evaluation import CaseScores, Evaluation, LabelScores, LabelSummary
from autoseg.report.numbers import format_short

MAX_LABEL_COLUMNS = 8
"""Labels with columns of their own in the table of cases; with more, it shows means only."""


@dataclass(frozen=True)
class Cell:
    """A formatted value and its sort key."""

    text: str
    detail: str = ""
    """Interval or standard deviation, in small print."""
    order: float | None = None
    """Sort key; None is sorted last."""


@dataclass(frozen=True)
class DataTable:
    """A table of the page: columns, rows and a footer."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    footer: tuple[Cell, ...] = ()


def describe_metric(name: str, unit: str) -> str:
    """Name of a metric with its unit; distances are in mm, in 2D images without spacing in pixels."""
    return BY_NAME[name].describe(unit)


def tabulate_labels(evaluation: Evaluation, unit: str = "mm") -> DataTable:
    """Table with one row per label; metrics that no label has are left out, counts of empty structures come last."""
    page = [metric.name for metric in metrics_of("page")]
    names = [name for name in page if any(_mean(summary, name) for summary in evaluation.labels.values())]
    columns = (
        "label",
        *(describe_metric(name, unit) for name in names),
        "cases",
        "missed",
        "false alarms",
        "both empty",
    )
    rows = []
    for label, summary in evaluation.labels.items():
        counts = evaluation.counts[label]
        figures = (summary.num_cases, counts.missed, counts.false_alarm, counts.both_empty)
        rows.append(
            (
                Cell(label),
                *(_mean(summary, name) or Cell("–") for name in names),
                *(Cell(str(figure), order=figure) for figure in figures),
            )
        )
    mean = figure_cell(evaluation.mean_foreground_dice, evaluation.mean_foreground_dice_interval)
    footer = (Cell("mean of labels"), mean, *(Cell("") for _ in columns[2:])) if len(evaluation.labels) > 1 else ()
    return DataTable(columns, tuple(rows), footer)


def _mean(summary: LabelSummary, name: str) -> Cell | None:
    known = summary.metrics.get(name)
    if known is not None:
        cell = figure_cell(known.mean, known.interval)
        if known.mean_with_misses is None or known.mean_with_misses == known.mean:
            return cell
        return Cell(
            cell.text, f"{cell.detail}; {format_short(known.mean_with_misses)} with misses".lstrip("; "), cell.order
        )
    if name == "dice" and summary.dice is not None:
        spread = "" if summary.dice_std is None else f"± {summary.dice_std:.3f}"
        return Cell(format_short(summary.dice), spread, summary.dice)
    return figure_cell(summary.iou) if name == "iou" else None


def figure_cell(value: float | None, interval: tuple[float, float] | None = None) -> Cell:
    """Cell of a value with its 95 % interval."""
    between = "" if interval is None else f"{format_short(interval[0])} to {format_short(interval[1])}"
    return Cell(format_short(value), between, value)


def tabulate_cases(evaluation: Evaluation, unit: str = "mm") -> DataTable:
    """Table with one row per case, the worst first, cases without a score last."""
    labels = list(evaluation.labels)
    few = len(labels) <= MAX_LABEL_COLUMNS
    columns: list[tuple[str, Callable[[CaseScores], float | None]]] = [("mean Dice", case_dice)]
    if few and len(labels) > 1:
        columns += [(f"{label}, Dice", _getter(label, "dice")) for label in labels]
    for metric in ("hausdorff_95_mm", "volume_error_ml"):
        if few and any(value_of(case, label, metric) is not None for case in evaluation.cases for label in labels):
            columns += [(f"{label}, {describe_metric(metric, unit)}", _getter(label, metric)) for label in labels]
    rows = [
        (Cell(case.case), *(figure_cell(value(case)) for _, value in columns))
        for case in sorted(evaluation.cases, key=_rank)
    ]
    return DataTable(("case", *(name for name, _ in columns)), tuple(rows))


def _getter(label: str, metric: str) -> Callable[[CaseScores], float | None]:
    return lambda case: value_of(case, label, metric)


def value_of(case: CaseScores, label: str, metric: str) -> float | None:
    """Value of one metric of one label in one case; None where it is undefined or was not computed."""
    scores: LabelScores | None = case.labels.get(label)
    value: float | None = None if scores is None else getattr(scores, metric)
    return value


def metric_values(cases: Sequence[CaseScores], label: str, metric: str) -> dict[str, float]:
    """Known values of a metric by case."""
    values = {case.case: value_of(case, label, metric) for case in cases}
    return {case: value for case, value in values.items() if value is not None}


def _rank(case: CaseScores) -> tuple[bool, float, str]:
    dice = case_dice(case)
    return (True, 0.0, case.case) if dice is None else (False, dice, case.case)
