"""Tables of scores: evaluations, comparisons, candidates; the CSV file with a row per case and label."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from autoseg.metrics.descriptions import Metric, metrics_of
from autoseg.records.evaluation import (
    EmptyCounts,
    Evaluation,
    EvaluationComparison,
    LabelScores,
    LabelSummary,
    MetricComparison,
    MetricSummary,
)
from autoseg.records.files import replacing
from autoseg.records.partial_labels import is_looked_for
from autoseg.records.selection import Selection
from autoseg.tables.rows import add_rows
from autoseg.text import (
    Row,
    format_cell,
    format_count,
    format_interval,
    format_names,
    format_number,
    format_score,
    format_signed,
)

COMPARISON_COLUMNS = (
    "label",
    "metric",
    "difference",
    "95\N{NO-BREAK SPACE}% interval",
    "cases",
    "differ",
    "Wilcoxon p",
)


def evaluation_columns(unit: str = "mm") -> tuple[str, ...]:
    """Columns of the table that is always shown. Distances include misses; a dash: not measured."""
    scores = (metric.column(unit) for metric in metrics_of("main") if metric.name != "dice")
    return ("label", "Dice", "95\N{NO-BREAK SPACE}% interval", *scores, "cases", "missed, false alarms, empty")


def detail_columns(unit: str = "mm") -> tuple[str, ...]:
    """Columns of the table of details."""
    return (
        "label",
        "Dice\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}sd",
        *(metric.column(unit) for metric in metrics_of("details")),
    )


def evaluation_table(evaluation: Evaluation, unit: str = "mm") -> Table:
    """Table with one row per label and the mean over labels, with the numbers of missed structures and false alarms.

    Columns without any value, such as those of surfaces after a quick evaluation, are left out. `unit` is that of
    distances.
    """
    bounds = format_interval(evaluation.mean_foreground_dice_interval, separator="–")
    mean = ("mean", format_number(evaluation.mean_foreground_dice), bounds)
    table = scores_table(evaluation_columns(unit), evaluation_rows(evaluation), footer=mean)
    table.title = format_count(len(evaluation.cases), "case")
    table.caption = _describe_surfaces(evaluation, unit)
    return table


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of `evaluation_columns`."""
    return [
        (
            name,
            format_number(summary.dice),
            format_interval(metric_summary(summary, "dice").interval, separator="–"),
            *(metric_cell(summary, metric) for metric in metrics_of("main") if metric.name != "dice"),
            str(summary.num_cases),
            _count_cell(evaluation.counts[name]),
        )
        for name, summary in evaluation.labels.items()
    ]


def metric_summary(summary: LabelSummary, name: str) -> MetricSummary:
    """Summary of one metric of a label, empty where it was not computed. Older files have Dice and IoU only."""
    mean = {"dice": summary.dice, "iou": summary.iou}.get(name)
    return summary.metrics.get(name, MetricSummary(mean=mean, num_cases=0 if mean is None else summary.num_cases))


def metric_cell(summary: LabelSummary, metric: Metric) -> str:
    """Mean of a metric over cases, with the worst value for misses where the metric has none of its own."""
    of_metric = metric_summary(summary, metric.name)
    mean = of_metric.mean_with_misses if metric.miss == "worst" else of_metric.mean
    return format_signed(mean) if metric.better == "near zero" else format_number(mean, metric.decimals)


def _count_cell(counts: EmptyCounts) -> str:
    return f"{counts.missed} / {counts.false_alarm} / {counts.both_empty}"


def _describe_surfaces(evaluation: Evaluation, unit: str) -> str | None:
    if evaluation.surface_tolerance_mm is None:
        return None
    tolerance = _quantity(evaluation.surface_tolerance_mm, unit)
    volume = "" if unit == "pixels" else "; volume: predicted minus reference"
    return (
        f"surface Dice at {tolerance}; HD95, ASSD: a missed structure or a false alarm "
        f"counts as the diagonal of the image{volume}"
    )


def _quantity(length: float, unit: str) -> str:
    """A length with its unit, such as `1 pixel`, `2 pixels` or `1 mm`."""
    return f"{length:g} {unit.removesuffix('s') if length == 1 else unit}"


def evaluation_details_table(evaluation: Evaluation, unit: str = "mm") -> Table:
    """Table of the metrics that `evaluation_table` leaves out."""
    table = scores_table(detail_columns(unit), evaluation_detail_rows(evaluation))
    table.caption = "precision, recall, MSD (Hausdorff) with misses; RVD: (predicted - reference) / reference"
    return table


def evaluation_detail_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of `detail_columns`."""
    return [
        (
            name,
            f"{format_number(summary.dice)} ± {format_number(summary.dice_std)}",
            *(metric_cell(summary, metric) for metric in metrics_of("details")),
        )
        for name, summary in evaluation.labels.items()
    ]


def comparison_table(comparison: EvaluationComparison, unit: str = "mm") -> Table:
    """Table of the differences by label and metric, then of the mean foreground Dice."""
    rows = [
        _comparison_row(label, metric.column(unit), compared[metric.name])
        for label, compared in comparison.labels.items()
        for metric in metrics_of("comparison")
        if metric.name in compared
    ]
    if comparison.mean_foreground_dice is not None:
        rows.append(_comparison_row("mean of labels", "Dice", comparison.mean_foreground_dice))
    table = scores_table(COMPARISON_COLUMNS, rows)
    table.title = escape(f"{comparison.first} minus {comparison.second}, {format_count(len(comparison.cases), 'case')}")
    table.caption = (
        "a missed structure or a false alarm has the worst value; p: over the cases that differ, not corrected"
    )
    return table


def _comparison_row(label: str, metric: str, compared: MetricComparison) -> Row:
    bounds = "–" if compared.interval is None else f"{compared.interval[0]:+.4f} to {compared.interval[1]:+.4f}"
    p_value = "–" if compared.p_value is None else f"{compared.p_value:.2g}"
    return (
        label,
        metric,
        f"{compared.mean_difference:+.4f}",
        bounds,
        str(compared.num_cases),
        str(compared.num_different),
        p_value,
    )


def candidate_table(selection: Selection) -> Table:
    """Table with one row per candidate, the selected one first; scores before post-processing, cost of prediction."""
    table = Table(title="Candidates, before post-processing; the first is selected")
    table.add_column("configuration")
    for column in ("mean Dice", "95 % interval", "cases", "folds", "cost"):
        table.add_column(column, justify="right")
    for candidate in selection.candidates:
        table.add_row(
            format_names(candidate.configurations, candidate.member_weights),
            format_score(candidate.mean_foreground_dice),
            format_interval(candidate.interval, 4),
            str(candidate.num_cases),
            " ".join(candidate.folds),
            "" if candidate.relative_cost is None else f"{candidate.relative_cost:.3g} x",
        )
    return table


def scores_table(columns: Row, rows: Sequence[Row], footer: Row = ()) -> Table:
    """Table with one row per label that fits a terminal of 80 columns; columns without any value are left out."""
    shown = [number for number in range(len(columns)) if not rows or any(row[number] != "–" for row in rows)]
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_footer=bool(footer))
    for position in shown:
        table.add_column(
            columns[position].replace(" ", "\n"),
            justify="left" if position == 0 else "right",
            footer=footer[position] if position < len(footer) else "",
            no_wrap=position > 0,  # only names of labels are broken where the terminal is narrow
            overflow="fold",
        )
    add_rows(table, [tuple(row[position] for position in shown) for row in rows])
    return table


def write_case_table(evaluation: Evaluation, path: Path) -> None:
    """Write a row per case and label: `case`, `label`, then every field of LabelScores; missing values are empty cells.

    Labels that were not looked for in a case have no row there.

    UTF-8, lines end in CR LF, cells with commas or quotes are quoted (RFC 4180), names are no formulas
    (`text.format_cell`). Written atomically.
    """
    fields = list(LabelScores.model_fields)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "label", *fields))
        for case in evaluation.cases:
            for label, scores in case.labels.items():
                if not is_looked_for(label, case.annotated):
                    continue
                writer.writerow(
                    (format_cell(case.case), format_cell(label), *(getattr(scores, field) for field in fields))
                )
