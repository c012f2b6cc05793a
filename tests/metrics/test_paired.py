"""Paired comparisons, worked out by hand: differences, the signed-rank test, and what is left out."""

import pytest

from autoseg.errors import UsageError
from autoseg.metrics.paired import NamedEvaluation, compare_evaluations
from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores, LabelScores


def scores(dice, hausdorff=None, *, predicted=10, reference=10):
    return LabelScores(
        dice=dice,
        iou=dice,
        true_positives=0,
        false_positives=predicted,
        false_negatives=reference,
        predicted_voxels=predicted,
        reference_voxels=reference,
        hausdorff_95_mm=hausdorff,
        surface_dice=dice,
    )


MISSED = scores(0.0, predicted=0)
INVENTED = scores(0.0, reference=0)
EMPTY = scores(None, predicted=0, reference=0)


def evaluation(name, cases, tolerance=1.0):
    """From {case: {label: scores}}."""
    records = [
        CaseScores(case=case, labels=labels, surface_tolerance_mm=tolerance, largest_distance_mm=100.0)
        for case, labels in cases.items()
    ]
    return NamedEvaluation(
        name, summarize(records, list(dict.fromkeys(label for one in cases.values() for label in one)))
    )


def one_label(name, *dices):
    return evaluation(name, {f"case{number}": {"liver": scores(dice)} for number, dice in enumerate(dices)})


def test_six_cases_all_better_worked_out_by_hand():
    first = one_label("new", 0.91, 0.82, 0.73, 0.64, 0.55, 0.96)
    second = one_label("old", 0.90, 0.80, 0.70, 0.60, 0.50, 0.90)
    compared = compare_evaluations(first, second)
    dice = compared.labels["liver"]["dice"]
    assert dice.mean_difference == pytest.approx(0.21 / 6)
    assert dice.p_value == pytest.approx(2 / 2**6)  # of 64 signs, all plus or all minus
    assert (dice.num_cases, dice.num_different) == (6, 6)
    assert dice.interval is not None
    assert 0.01 < dice.interval[0] < 0.035 < dice.interval[1] < 0.06
    assert compared.mean_foreground_dice == dice
    assert (compared.first, compared.second) == ("new", "old")
    assert compared.cases == tuple(f"case{number}" for number in range(6))
    back = compare_evaluations(second, first).labels["liver"]["dice"]
    assert back.mean_difference == pytest.approx(-dice.mean_difference)
    assert back.p_value == pytest.approx(dice.p_value)


def test_equal_cases_count_in_the_mean_but_not_in_the_test():
    first = one_label("new", 0.5, 0.5, 0.75, 0.9375, 0.5)
    second = one_label("old", 0.5, 0.5, 0.5, 0.5, 0.625)
    dice = compare_evaluations(first, second).labels["liver"]["dice"]
    # ranks: -1/8 is 1st, 1/4 2nd, 7/16 3rd; W- = 1 of 6: signs with a sum of at most 1 are 2 of 8, both sides 4 of 8
    assert dice.mean_difference == pytest.approx((0.25 + 0.4375 - 0.125) / 5)
    assert dice.p_value == pytest.approx(0.5)
    assert (dice.num_cases, dice.num_different) == (5, 3)


def test_no_difference_at_all_has_no_p_value():
    dice = compare_evaluations(one_label("new", 0.5, 0.7), one_label("old", 0.5, 0.7)).labels["liver"]["dice"]
    assert dice.model_dump() == {
        "mean_difference": 0.0,
        "interval": (0.0, 0.0),
        "p_value": None,
        "num_cases": 2,
        "num_different": 0,
    }


def test_one_case_has_a_difference_only():
    dice = compare_evaluations(one_label("new", 0.5), one_label("old", 0.75)).labels["liver"]["dice"]
    assert (dice.mean_difference, dice.interval, dice.p_value) == (-0.25, None, 1.0)


def test_a_missed_structure_has_the_worst_distance():
    first = evaluation("new", {"a": {"liver": MISSED}, "b": {"liver": scores(0.8, 3.0)}})
    second = evaluation("old", {"a": {"liver": scores(0.6, 5.0)}, "b": {"liver": scores(0.8, 4.0)}})
    compared = compare_evaluations(first, second).labels["liver"]
    assert compared["hausdorff_95_mm"].mean_difference == pytest.approx((95.0 - 1.0) / 2)
    assert compared["dice"].mean_difference == pytest.approx(-0.3)


def test_means_over_labels_are_paired_case_by_case():
    first = evaluation("new", {"a": {"x": scores(0.9), "y": scores(0.5)}, "b": {"x": scores(0.9), "y": EMPTY}})
    second = evaluation("old", {"a": {"x": scores(0.8), "y": scores(0.7)}, "b": {"x": scores(0.6), "y": EMPTY}})
    mean = compare_evaluations(first, second).mean_foreground_dice
    assert mean is not None
    assert mean.mean_difference == pytest.approx(((0.1 + 0.3) / 2 - 0.2) / 2)
    assert mean.num_cases == 2


def test_a_false_alarm_against_a_rightly_empty_case_is_told():
    first = evaluation("new", {"a": {"liver": EMPTY}, "b": {"liver": scores(0.8)}})
    second = evaluation("old", {"a": {"liver": INVENTED}, "b": {"liver": scores(0.8)}})
    compared = compare_evaluations(first, second)
    assert compared.labels["liver"]["dice"].num_cases == 1
    assert any(remark.startswith("liver: 1 cases without this structure are left out") for remark in compared.remarks)


def test_what_only_one_has_is_left_out_and_told():
    first = evaluation("new", {"a": {"x": scores(0.5), "y": scores(0.5)}, "b": {"x": scores(0.5), "y": scores(0.5)}})
    second = evaluation(
        "old", {"a": {"x": scores(0.25)}, "c": {"x": scores(0.5)}, "d": {"x": scores(0.5)}}, tolerance=2.0
    )
    compared = compare_evaluations(first, second)
    assert compared.cases == ("a",)
    assert list(compared.labels) == ["x"]
    assert "surface_dice" not in compared.labels["x"]
    assert compared.remarks == (
        "1 cases of new are not in old and were left out.",
        "old has no scores of y: left out.",
        "2 cases of old are not in new and were left out.",
        "Surface Dice was not compared: the tolerances are 1.0 and 2.0 mm.",
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"z": {"x": scores(0.5)}}, "new and old have no case in common: a and z"),
        ({"a": {"y": scores(0.5)}}, "new and old have no label in common: x and y"),
    ],
)
def test_nothing_in_common_is_an_error(other, message):
    with pytest.raises(UsageError, match=message):
        compare_evaluations(evaluation("new", {"a": {"x": scores(0.5)}}), evaluation("old", other))
