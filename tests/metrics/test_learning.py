"""Which labels a short training has not learned."""

import pytest

from autoseg.metrics.learning import unlearned_labels
from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores, LabelScores


def make_evaluation(**dice):
    """Two cases; each label has the same Dice in both."""
    counts = ("true_positives", "false_positives", "false_negatives", "predicted_voxels", "reference_voxels")
    labels = {name: LabelScores(dice=value, iou=value, **dict.fromkeys(counts, 1)) for name, value in dice.items()}
    return summarize([CaseScores(case=case, labels=labels) for case in "ab"], list(dice))


@pytest.mark.parametrize(
    ("steps", "dice", "unlearned"),
    [
        (4, {"liver": 0.6, "lesion": 0.05}, {"lesion": 0.05}),
        (599, {"liver": 0.19, "lesion": 0.2}, {"liver": 0.19}),
        (600, {"liver": 0.0, "lesion": 0.0}, {}),
        (4, {"liver": 0.7, "lesion": None}, {}),
    ],
)
def test_labels_that_are_hardly_found_after_few_steps(steps, dice, unlearned):
    assert unlearned_labels(make_evaluation(**dice), steps) == pytest.approx(unlearned)
