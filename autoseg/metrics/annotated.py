"""Scores of cases in which only some labels were looked for: nothing is said of the others.

Tested in tests/metrics/test_annotated.py.
"""

from collections.abc import Sequence

from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.records.partial_labels import is_looked_for

NOT_LOOKED_FOR = LabelScores(
    dice=None,
    iou=None,
    true_positives=0,
    false_positives=0,
    false_negatives=0,
    predicted_voxels=0,
    reference_voxels=0,
)
"""Stands for a label that was not looked for: neither a success nor a miss."""


def keep_annotated(scores: CaseScores, annotated: Sequence[str] | None) -> CaseScores:
    """The scores without those of labels that were not looked for.

    Each label is scored by its own masks, so what the reference or the prediction says of the others does not matter.

    Args:
        scores: Scores of all labels.
        annotated: `CaseFiles.annotated`; None: every label was looked for.
    """
    if annotated is None:
        return scores
    labels = {
        name: of_label if is_looked_for(name, annotated) else NOT_LOOKED_FOR for name, of_label in scores.labels.items()
    }
    return scores.model_copy(update={"labels": labels, "annotated": tuple(annotated)})
