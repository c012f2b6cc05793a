"""Evaluations, comparisons and candidates as tables for the terminal, and cases as a CSV file."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from autoseg.metrics.comparison import format_names, format_score
from autoseg.metrics.descriptions import Metric, metrics_of
from autoseg.records.comparison import EvaluationComparison, MetricComparison
from autoseg.records.evaluation import EmptyCounts, Evaluation, LabelScores, LabelSummary, MetricSummary
from autoseg.records.files import replacing
from autoseg.records.instance_evaluation import InstanceEvaluation
from autoseg.records.selection import Selection
from autoseg.report.numbers import Row, format_interval, format_number, format_signed
from autoseg.report.tables.plan_tables import add_rows

EVALUATION_COLUMNS = (
    "label",
    "Dice",
    "95\N{NO-BREAK SPACE}% interval",
    *(metric.column for metric in metrics_of("main") if metric.name != "dice"),
    "cases",
    "missed, false, empty",
)

"""Columns of the table that is always shown. Distances include misses; a dash: not measured."""


DETAIL_COLUMNS = (
    "label",
    "Dice\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}sd",
    *(metric.column for metric in metrics_of("details")),
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


INSTANCE_COLUMNS = ("label", "PQ", "SQ", "RQ (F1)", "matched", "invented", "missed")


def evaluation_table(evaluation: Evaluation) -> Table:
    """Table with one row per label and the mean over labels, with the numbers of missed and invented structures.

    Columns without any value, such as those of surfaces after a quick evaluation, are left out.
    """
    bounds = format_interval(evaluation.mean_foreground_dice_interval, separator="–")
    mean = ("mean", format_number(evaluation.mean_foreground_dice), bounds)
    table = scores_table(EVALUATION_COLUMNS, evaluation_rows(evaluation), footer=mean)
    table.title = f"{len(evaluation.cases)} cases"
    table.caption = _describe_surfaces(evaluation)
    return table


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of EVALUATION_COLUMNS."""
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


def _describe_surfaces(evaluation: Evaluation) -> str | None:
    if evaluation.surface_tolerance_mm is None:
        return None
    return (
        f"surface Dice at {evaluation.surface_tolerance_mm:g} mm; HD95, ASSD: a missed or invented structure counts "
        "as the diagonal of the image; volume: predicted minus reference"
    )


def evaluation_details_table(evaluation: Evaluation) -> Table:
    """Table of the metrics that `evaluation_table` leaves out."""
    table = scores_table(DETAIL_COLUMNS, evaluation_detail_rows(evaluation))
    table.caption = "precision, recall, MSD (Hausdorff) with misses; RVD: (predicted - reference) / reference"
    return table


def evaluation_detail_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of DETAIL_COLUMNS."""
    return [
        (
            name,
            f"{format_number(summary.dice)} ± {format_number(summary.dice_std)}",
            *(metric_cell(summary, metric) for metric in metrics_of("details")),
        )
        for name, summary in evaluation.labels.items()
    ]


def comparison_table(comparison: EvaluationComparison) -> Table:
    """Table of the differences by label and metric, then of the mean foreground Dice."""
    rows = [
        _comparison_row(label, metric.column, compared[metric.name])
        for label, compared in comparison.labels.items()
        for metric in metrics_of("comparison")
        if metric.name in compared
    ]
    if comparison.mean_foreground_dice is not None:
        rows.append(_comparison_row("mean of labels", "Dice", comparison.mean_foreground_dice))
    table = scores_table(COMPARISON_COLUMNS, rows)
    table.title = escape(f"{comparison.first} minus {comparison.second}, {len(comparison.cases)} cases")
    table.caption = "a missed or invented structure has the worst value; p: over the cases that differ, not corrected"
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


def instance_scores_table(evaluation: InstanceEvaluation) -> Table:
    """Table with one row per label, over the instances of all cases."""
    table = Table(title=f"instances of {len(evaluation.cases)} cases, matched at IoU > 0.5")
    for position, name in enumerate(INSTANCE_COLUMNS):
        table.add_column(name, justify="left" if position == 0 else "right")
    for name, scores in evaluation.labels.items():
        table.add_row(
            name,
            format_number(scores.panoptic_quality),
            format_number(scores.segmentation_quality),
            format_number(scores.recognition_quality),
            str(scores.true_positives),
            str(scores.false_positives),
            str(scores.false_negatives),
        )
    return table


def candidate_table(selection: Selection) -> Table:
    """Table with one row per candidate, the selected one first; scores before post-processing, cost of prediction."""
    table = Table(title="Candidates, before post-processing; the first is selected")
    table.add_column("configuration")
    for column in ("mean Dice", "95 % interval", "cases", "folds", "cost"):
        table.add_column(column, justify="right")
    for candidate in selection.candidates:
        table.add_row(
            format_names(candidate.configurations),
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

    UTF-8, lines end in CR LF, cells with commas or quotes are quoted (RFC 4180). Written atomically.
    """
    fields = list(LabelScores.model_fields)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "label", *fields))
        for case in evaluation.cases:
            for label, scores in case.labels.items():
                writer.writerow((case.case, label, *(getattr(scores, field) for field in fields)))
