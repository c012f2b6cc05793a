"""Deviations of Dice from what confidence promises, against medians worked out with numpy."""

import numpy as np
import pytest

from autoseg.metrics.label_noise import MIN_SPREAD, measure_deviations
from autoseg.records.evaluation import CaseScores, LabelScores


def make_case(case, dice, voxels=(100, 100), label="liver"):
    counts = {"true_positives": 0, "false_positives": 0, "false_negatives": 0}
    sizes = {"predicted_voxels": voxels[0], "reference_voxels": voxels[1]}
    return CaseScores(case=case, labels={label: LabelScores(dice=dice, iou=dice, **counts, **sizes)})


def logit(values):
    clipped = np.clip(values, 0.05, 0.95)
    return np.log(clipped / (1 - clipped))


def test_residuals_are_compared_with_their_median_and_its_absolute_deviation():
    dice = np.array([0.6, 0.75, 0.8, 0.9, 0.95, 0.2, 0.85])
    promised = np.array([0.7, 0.9, 0.85, 0.9, 0.95, 0.92, 0.97])
    cases = [make_case(str(number), value) for number, value in enumerate(dice)]
    promises = {str(number): {"liver": value} for number, value in enumerate(promised)}
    residuals = logit(dice) - logit(promised)
    middle = np.median(residuals)
    spread = max(1.4826 * np.median(np.abs(residuals - middle)), MIN_SPREAD)
    found = measure_deviations(cases, promises)
    assert [one.deviation for one in found] == pytest.approx(np.maximum((middle - residuals) / spread, 0))
    assert logit(np.array([one.expected_dice for one in found])) == pytest.approx(middle + logit(promised))
    assert max(found, key=lambda one: one.deviation).case == "5"


def test_a_hard_case_deviates_less_where_the_networks_know_it():
    cases = [make_case(str(number), 0.9) for number in range(9)] + [make_case("hard", 0.5)]
    sure = {str(number): {"liver": 0.9} for number in range(9)}
    by_confidence = {
        promised: measure_deviations(cases, sure | {"hard": {"liver": promised}})[-1].deviation
        for promised in (0.5, 0.9)
    }
    assert by_confidence[0.5] == pytest.approx(0)
    assert by_confidence[0.9] > 5
    assert measure_deviations(cases)[-1].deviation == pytest.approx(by_confidence[0.9])


def test_a_third_of_damaged_cases_hide_none_of_them():
    cases = [make_case(str(number), 0.85 + 0.01 * number) for number in range(10)]
    cases += [make_case(f"damaged {number}", 0.3) for number in range(5)]
    found = sorted(measure_deviations(cases), key=lambda one: -one.deviation)
    assert all(one.case.startswith("damaged") for one in found[:5])
    assert found[4].deviation > 3 > found[5].deviation


def test_specks_on_one_side_count_by_their_size():
    cases = [make_case(str(number), 0.9) for number in range(8)]
    cases += [make_case("speck", 0.0, (5, 0)), make_case("whole", 0.0, (100, 0)), make_case("missed", 0.0, (0, 25))]
    found = {one.case: one.deviation for one in measure_deviations(cases)}
    assert found["speck"] == pytest.approx(found["whole"] / 10)
    assert found["missed"] == pytest.approx(found["whole"] / 2)


def test_few_cases_and_labels_that_are_nowhere_say_nothing():
    assert measure_deviations([make_case(str(number), 0.1 * number) for number in range(4)]) == []
    assert measure_deviations([make_case(str(number), None) for number in range(9)]) == []
    assert measure_deviations([]) == []
