"""Results: every configuration and the selected model, as tables with all metrics and as charts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from autoseg.metrics.descriptions import BY_NAME, metrics_of
from autoseg.metrics.summary import case_dice
from autoseg.records.evaluation import CaseScores, Evaluation, LabelScores, LabelSummary
from autoseg.records.selection import Selection
from autoseg.report.charts.charts import BoxRow, Estimate, Figure, draw_boxes, draw_estimates
from autoseg.report.page.templates import render_template
from autoseg.report.page.validation import PooledFolds
from autoseg.text import format_folds, format_interval, format_names, format_number, format_short

BOXED_METRICS = {"dice": (0.0, 1.0), "hausdorff_95_mm": None}
"""Metrics with a box plot, and the limits of their axes."""
MAX_BOXES = 60
"""Rows of one chart; with more, only the first evaluation is drawn."""
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


@dataclass(frozen=True)
class TitledEvaluation:
    """An evaluation with the name of what was evaluated."""

    title: str
    short: str
    """Name in the rows of charts."""
    evaluation: Evaluation

    @property
    def summary(self) -> str:
        """Mean Dice with its interval, and the number of cases."""
        score = format_number(self.evaluation.mean_foreground_dice)
        interval = self.evaluation.mean_foreground_dice_interval
        between = "" if interval is None else f" (95 % interval {format_interval(interval)})"
        return f"Mean foreground Dice {score}{between}, {len(self.evaluation.cases)} cases."


def render_results(
    selection: Selection | None,
    selected: Evaluation | None,
    validations: Sequence[PooledFolds],
    unit: str = "mm",
) -> Markup:
    """The selected model after post-processing, then the configurations and the selected ensemble as validated.

    Args:
        selection: Selected model; None before a selection.
        selected: Evaluation of the selected model after post-processing; None where it does not exist.
        validations: Validated folds by configuration.
        unit: Unit of distances.
    """
    named = []
    if selection is not None and selected is not None:
        name = format_names(selection.configurations)
        named.append(TitledEvaluation(f"Selected: {name} with its post-processing", "selected", selected))
    for one in validations:
        folds = f"{one.configuration}, {format_folds(one.folds)}"
        named.append(TitledEvaluation(f"{folds}, no post-processing", one.configuration, one.evaluation))
    figures = [figure for figure in (_compare(named, selection), *_box_plots(named, unit)) if figure is not None]
    before = None
    is_refined = selection is not None and selection.refinement is not None
    if selection is not None and (selection.postprocessing or is_refined):
        before = next((one for one in validations if one.configuration == format_names(selection.configurations)), None)
    rows = [] if before is None or selected is None else _before_and_after(before.evaluation, selected)
    return render_template(
        "results.html",
        results=[(one, tabulate_labels(one.evaluation, unit), tabulate_cases(one.evaluation, unit)) for one in named],
        figures=figures,
        legend=[one.short for one in named] if len(named) > 1 else [],
        postprocessing=rows,
        is_refined=is_refined,
        unit=unit,
    )


def _before_and_after(before: Evaluation, after: Evaluation) -> list[tuple[str, ...]]:
    if {case.case for case in before.cases} != {case.case for case in after.cases}:
        return []
    pairs = {name: (one.dice, after.labels[name].dice) for name, one in before.labels.items() if name in after.labels}
    if len(pairs) > 1:
        pairs["mean of labels"] = before.mean_foreground_dice, after.mean_foreground_dice
    return [
        (name, f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}")
        for name, (old, new) in pairs.items()
        if old is not None and new is not None
    ]


def _compare(named: Sequence[TitledEvaluation], selection: Selection | None) -> Figure | None:
    """Mean Dice of every evaluation and of every candidate ensemble, the selected model first."""
    counts = {len(one.evaluation.cases) for one in named}
    estimates = [
        Estimate(
            one.short if len(counts) == 1 else f"{one.short}, {len(one.evaluation.cases)} cases",
            one.evaluation.mean_foreground_dice,
            one.evaluation.mean_foreground_dice_interval,
            series,
        )
        for series, one in enumerate(named)
        if one.evaluation.mean_foreground_dice is not None
    ]
    shown = {one.short for one in named}
    pairs = () if selection is None else (one for one in selection.candidates if len(one.configurations) > 1)
    estimates += [
        Estimate(name, one.mean_foreground_dice, one.interval, len(named))
        for one in pairs
        if one.mean_foreground_dice is not None and (name := format_names(one.configurations)) not in shown
    ]
    if len(estimates) < 2:
        return None
    has_bars = any(one.interval is not None for one in estimates)
    return draw_estimates("Mean foreground Dice", estimates, "Dice with 95 % interval" if has_bars else "Dice")


def _box_plots(named: Sequence[TitledEvaluation], unit: str) -> list[Figure]:
    """Box plots with a row per label and evaluation."""
    figures = []
    for metric, bounds in BOXED_METRICS.items():
        labels = list(dict.fromkeys(label for one in named for label in one.evaluation.labels))
        drawn = named if len(labels) * len(named) <= MAX_BOXES else named[:1]
        rows = []
        for label in labels:
            for series, one in enumerate(drawn):
                values = metric_values(one.evaluation.cases, label, metric)
                rows.append(BoxRow(label if series == 0 else "", values, series))
        if any(row.values for row in rows):
            name = describe_metric(metric, unit)
            figures.append(draw_boxes(f"{name} of every case, by label", rows, name, bounds=bounds))
    return figures


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
