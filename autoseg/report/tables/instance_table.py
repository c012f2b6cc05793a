"""The table of `autoseg evaluate --instances`.

Tested in tests/stages/test_evaluate_instances.py.
"""

from rich.table import Table

from autoseg.records.instance_evaluation import InstanceEvaluation
from autoseg.report.tables.tables import number

_COLUMNS = ("label", "PQ", "SQ", "RQ (F1)", "matched", "invented", "missed")


def instance_scores_table(evaluation: InstanceEvaluation) -> Table:
    """Table with one row per label, over the instances of all cases."""
    table = Table(title=f"instances of {len(evaluation.cases)} cases, matched at IoU > 0.5")
    for position, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if position == 0 else "right")
    for name, scores in evaluation.labels.items():
        table.add_row(
            name,
            number(scores.panoptic_quality),
            number(scores.segmentation_quality),
            number(scores.recognition_quality),
            str(scores.true_positives),
            str(scores.false_positives),
            str(scores.false_negatives),
        )
    return table
