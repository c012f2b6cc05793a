"""Means over cases and the policy for empty structures, worked out by hand."""

import pytest

from autoseg.metrics.summary import case_dice, summarize
from autoseg.records.evaluation import CaseScores, LabelScores


def scores(true_positives, false_positives=0, false_negatives=0):
    union = true_positives + false_positives + false_negatives
    return LabelScores(
        dice=2 * true_positives / (union + true_positives) if union else None,
        iou=true_positives / union if union else None,
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=false_negatives,
        predicted_voxels=true_positives + false_positives,
        reference_voxels=true_positives + false_negatives,
    )


PERFECT, HALF, EMPTY = scores(4), scores(1, 1, 1), scores(0)
MISSED, FALSE_ALARM = scores(0, 0, 3), scores(0, 3, 0)


def test_means_leave_out_empty_cases_and_count_them():
    cases = [
        CaseScores(case="a", labels={"liver": PERFECT, "tumour": EMPTY}),
        CaseScores(case="b", labels={"liver": HALF, "tumour": FALSE_ALARM}),
        CaseScores(case="c", labels={"liver": HALF, "tumour": MISSED}),
        CaseScores(case="d", labels={"liver": EMPTY, "tumour": PERFECT}),
        CaseScores(case="f", labels={"liver": EMPTY, "tumour": MISSED}),
    ]

    evaluation = summarize(cases, ["liver", "tumour"], missing=["e"])

    liver, tumour = evaluation.labels["liver"], evaluation.labels["tumour"]
    assert liver.dice == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert liver.num_cases == 3
    assert liver.dice_std == pytest.approx(((1 / 9 + 1 / 36 + 1 / 36) / 2) ** 0.5)
    assert tumour.dice == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert liver.iou == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert evaluation.mean_foreground_dice == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert evaluation.counts["liver"].model_dump() == {"both_empty": 2, "missed": 0, "false_alarm": 0}
    assert evaluation.counts["tumour"].model_dump() == {"both_empty": 1, "missed": 2, "false_alarm": 1}
    assert evaluation.missing_predictions == ("e",)


def test_every_label_counts_the_same_however_many_cases_have_it():
    cases = [
        CaseScores(case="a", labels={"often": PERFECT, "rare": EMPTY}),
        CaseScores(case="b", labels={"often": PERFECT, "rare": HALF}),
    ]
    assert summarize(cases, ["often", "rare"]).mean_foreground_dice == pytest.approx((1 + 0.5) / 2)


def test_a_label_that_occurs_nowhere_does_not_spoil_the_mean():
    evaluation = summarize([CaseScores(case="a", labels={"liver": HALF, "never": EMPTY})], ["liver", "never"])
    assert evaluation.labels["never"].dice is None
    assert evaluation.labels["never"].num_cases == 0
    assert evaluation.mean_foreground_dice == pytest.approx(0.5)
    assert evaluation.labels["liver"].dice_std is None


@pytest.mark.parametrize("cases", [[], [CaseScores(case="a", labels={"liver": EMPTY})]])
def test_no_score_at_all_gives_none(cases):
    assert summarize(cases, ["liver"]).mean_foreground_dice is None


def test_a_case_without_one_of_the_labels_is_refused():
    with pytest.raises(ValueError, match="case a was not scored for label 'tumour'"):
        summarize([CaseScores(case="a", labels={"liver": HALF})], ["liver", "tumour"])


def test_dice_of_a_case_leaves_out_empty_labels():
    assert case_dice(CaseScores(case="a", labels={"x": PERFECT, "y": HALF, "z": EMPTY})) == pytest.approx(0.75)
    assert case_dice(CaseScores(case="a", labels={"z": EMPTY})) is None
