"""Results: every configuration and the selected model, compared by numbers and charts.

Tested in tests/report/page/test_sections.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from autoseg.records.evaluation import Evaluation
from autoseg.records.selection import Selection
from autoseg.report.charts.charts import Figure
from autoseg.report.charts.distributions import BoxRow, Estimate, draw_boxes, draw_estimates
from autoseg.report.numbers import format_interval, format_number
from autoseg.report.page.templates import render_template
from autoseg.report.page.validation import PooledFolds
from autoseg.report.tables.metrics_table import (
    describe_metric,
    metric_values,
    tabulate_cases,
    tabulate_labels,
)

BOXED_METRICS = {"dice": (0.0, 1.0), "hausdorff_95_mm": None}
"""Metrics with a box plot, and the limits of their axes."""
MAX_BOXES = 60
"""Rows of one chart; with more, only the first evaluation is drawn."""


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
        name = " + ".join(selection.configurations)
        named.append(TitledEvaluation(f"Selected: {name} with its post-processing", "selected", selected))
    for one in validations:
        folds = f"{one.configuration}, fold{'s' if len(one.folds) > 1 else ''} {', '.join(one.folds)}"
        named.append(TitledEvaluation(f"{folds}, no post-processing", one.configuration, one.evaluation))
    figures = [figure for figure in (_compare(named, selection), *_box_plots(named, unit)) if figure is not None]
    before = None
    is_refined = selection is not None and selection.refinement is not None
    if selection is not None and (selection.postprocessing or is_refined):
        before = next((one for one in validations if one.configuration == " + ".join(selection.configurations)), None)
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
        if one.mean_foreground_dice is not None and (name := " + ".join(one.configurations)) not in shown
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
