"""Details of an evaluation and comparisons of two evaluations, as tables for the terminal."""

from rich.markup import escape
from rich.table import Table

from autoseg.metrics.descriptions import metrics_of
from autoseg.records.comparison import EvaluationComparison, MetricComparison
from autoseg.records.evaluation import Evaluation
from autoseg.report.tables.tables import Row, metric_cell, number, scores_table

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
            f"{number(summary.dice)} ± {number(summary.dice_std)}",
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
