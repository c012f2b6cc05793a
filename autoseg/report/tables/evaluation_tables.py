"""What the table of an evaluation has no room for, and two evaluations set against each other, for the terminal."""

from rich.markup import escape
from rich.table import Table

from autoseg.records.comparison import EvaluationComparison, MetricComparison
from autoseg.records.evaluation import Evaluation
from autoseg.report.tables.tables import Row, metric_summary, number, scores_table, signed

DETAIL_COLUMNS = (
    "label",
    "Dice\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}sd",
    "precision",
    "recall",
    "VOE",
    "RVD",
    "pixel acc.",
    "MSD mm",
    "lesion F1",
    "PQ",
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

_COMPARED = {
    "dice": "Dice",
    "iou": "IoU",
    "hausdorff_95_mm": "HD95 mm",
    "average_surface_distance_mm": "ASSD mm",
    "surface_dice": "surface Dice",
    "panoptic_quality": "PQ",
}
"""Metrics of the comparison that are shown; the file has all."""


def evaluation_details_table(evaluation: Evaluation) -> Table:
    """What `evaluation_table` leaves out."""
    table = scores_table(DETAIL_COLUMNS, evaluation_detail_rows(evaluation))
    table.caption = "precision, recall, MSD (Hausdorff) with misses; RVD: (predicted - reference) / reference"
    return table


def evaluation_detail_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of DETAIL_COLUMNS."""
    return [
        (
            name,
            f"{number(summary.dice)} ± {number(summary.dice_std)}",
            number(metric_summary(summary, "precision").mean_with_misses),
            number(metric_summary(summary, "recall").mean_with_misses),
            number(metric_summary(summary, "volume_overlap_error").mean),
            signed(metric_summary(summary, "relative_volume_difference").mean),
            number(metric_summary(summary, "pixel_accuracy").mean, 4),
            number(metric_summary(summary, "hausdorff_mm").mean_with_misses, 2),
            number(metric_summary(summary, "lesion_f1").mean),
            number(metric_summary(summary, "panoptic_quality").mean),
        )
        for name, summary in evaluation.labels.items()
    ]


def comparison_table(comparison: EvaluationComparison) -> Table:
    """Difference by label and metric, then that of the mean foreground Dice."""
    rows = [
        _comparison_row(label, words, metrics[metric])
        for label, metrics in comparison.labels.items()
        for metric, words in _COMPARED.items()
        if metric in metrics
    ]
    if comparison.mean_foreground_dice is not None:
        rows.append(_comparison_row("mean of labels", "Dice", comparison.mean_foreground_dice))
    table = scores_table(COMPARISON_COLUMNS, rows)
    table.title = escape(f"{comparison.first} minus {comparison.second}, {len(comparison.cases)} cases")
    table.caption = "a missed or invented structure has the worst value; p: of the cases that differ, not corrected"
    return table


def _comparison_row(label: str, metric: str, one: MetricComparison) -> Row:
    bounds = "–" if one.interval is None else f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}"
    p_value = "–" if one.p_value is None else f"{one.p_value:.2g}"
    return label, metric, f"{one.mean_difference:+.4f}", bounds, str(one.num_cases), str(one.num_different), p_value
