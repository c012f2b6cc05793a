"""Tables of an evaluation of instances.

Tested in tests/stages/test_evaluate_instances.py.
"""

from rich.table import Table

from autoseg.records.evaluation import AveragePrecision, InstanceEvaluation, ScoreSource
from autoseg.text import format_number

COLUMNS = ("label", "PQ", "SQ", "RQ (F1)", "matched", "false alarms", "missed")

RANKING: dict[ScoreSource, str] = {
    "score": "ranked by score",
    "mean_probability": "ranked by mean probability",
    "none": "not ranked: all have score one",
}


def instance_scores_table(evaluation: InstanceEvaluation) -> Table:
    """Table with one row per label, over the instances of all cases."""
    table = _begin(f"instances of {len(evaluation.cases)} cases, matched at IoU > 0.5", COLUMNS)
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


def average_precision_table(evaluation: InstanceEvaluation) -> Table:
    """Table with one row per label, and one of their mean where there are several."""
    title = f"average precision, {RANKING[evaluation.score_source]}"
    table = _begin(title, ("label", "AP (IoU 0.5 to 0.95)", "AP50", "AP75"))
    for name, found in evaluation.average_precision.items():
        table.add_row(name, *_cells(found))
    if len(evaluation.average_precision) > 1:
        table.add_row("mean of labels", *_cells(evaluation.mean_average_precision))
    return table


def _begin(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for position, name in enumerate(columns):
        table.add_column(name, justify="left" if position == 0 else "right")
    return table


def _cells(found: AveragePrecision | None) -> list[str]:
    values = [None] * 3 if found is None else [found.mean, found.by_iou["0.50"], found.by_iou["0.75"]]
    return [format_number(value) for value in values]
