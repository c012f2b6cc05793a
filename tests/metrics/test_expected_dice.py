"""Expected Dice: the regression against least squares with added rows, the interval against new cases of its kind."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.metrics.expected_dice import MIN_CASES, RIDGE, LabelSums, expect_dice, fit_dice_model, leave_out
from autoseg.records.confidence import DiceModel


def draw_cases(count, seed):
    """Cases whose Dice follows from the promised overlap, which is too high, and from the volume."""
    generator = np.random.default_rng(seed)
    overlap = generator.uniform(0.6, 0.95, count)
    volume = generator.normal(7.0, 1.0, count)
    entropy = 2 * (1 - overlap) + generator.normal(0, 0.02, count)
    logits = 0.8 * np.log(overlap / (1 - overlap)) - 0.7 + 0.2 * (volume - 7) + generator.normal(0, 0.25, count)
    return np.column_stack([overlap, volume, entropy]), 1 / (1 + np.exp(-logits))


def learn(measurements, dice) -> DiceModel:
    model = fit_dice_model(measurements, dice)
    assert model is not None
    return model


def test_sums_promise_the_dice_that_follows_from_true_probabilities():
    # predicted 8 voxels with probabilities that sum to 6; 10 in all: 2 * 6 / (8 + 10)
    sums = LabelSums(8, 6.0, 10.0, 4.0, 2.5)
    assert sums.measurements == pytest.approx((2 * 6 / 18, math.log(20.0), 0.5))
    assert all(map(math.isnan, LabelSums(0, 0.0, 3.0, 1.0, 1.0).measurements))


def test_the_regression_is_least_squares_with_a_row_for_each_shrunk_slope():
    measurements, dice = draw_cases(30, 1)
    model = learn(measurements, dice)
    values = measurements.copy()
    values[:, 0] = np.log(values[:, 0] / (1 - values[:, 0]))
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    wanted = np.log(dice / (1 - dice)) - values[:, 0]
    rows = np.vstack([np.column_stack([np.ones(30), standard]), np.sqrt(RIDGE) * np.eye(4)[1:]])
    offset, *slopes = np.linalg.lstsq(rows, np.concatenate([wanted, np.zeros(3)]), rcond=None)[0]
    assert model.offset == pytest.approx(offset)
    assert [model.overlap.slope, model.volume.slope, model.entropy.slope] == pytest.approx(slopes)
    expected = expect_dice(model, measurements[4]).value
    logit = values[4, 0] + offset + standard[4] @ slopes
    assert expected == pytest.approx(1 / (1 + math.exp(-logit)))
    assert model.num_cases == 30


def test_few_cases_teach_nothing():
    measurements, dice = draw_cases(MIN_CASES, 2)
    assert fit_dice_model(measurements[1:], dice[1:]) is None
    assert fit_dice_model(measurements, dice) is not None


def test_nine_in_ten_new_cases_lie_in_the_interval():
    inside = []
    for seed in range(40):
        measurements, dice = draw_cases(45, 100 + seed)
        model = learn(measurements[:25], dice[:25])
        for place in range(25, 45):
            expected = expect_dice(model, measurements[place])
            inside.append(expected.low <= dice[place] <= expected.high)
    assert 0.86 <= np.mean(inside) <= 0.96


def test_the_mean_is_beaten_where_the_probabilities_tell_something():
    measurements, dice = draw_cases(60, 3)
    model = learn(measurements[:30], dice[:30])
    expected = np.array([expect_dice(model, row).value for row in measurements[30:]])
    assert np.abs(expected - dice[30:]).mean() < 0.6 * np.abs(dice[:30].mean() - dice[30:]).mean()


@given(
    overlap=st.floats(0, 1), lower=st.floats(0, 1), volume=st.floats(-5, 30), entropy=st.floats(0, 50),
    seed=st.integers(0, 20),
)  # fmt: skip
def test_everything_stays_in_range_and_less_certain_maps_are_not_expected_to_be_better(
    overlap, lower, volume, entropy, seed
):
    measurements, dice = draw_cases(15, seed)
    # the overlap says the contrary of what it should
    model = learn(measurements, 1 - measurements[:, 0] if seed % 2 else dice)
    expected = expect_dice(model, (overlap, volume, entropy))
    assert 0 <= expected.low <= expected.value <= expected.high <= 1
    worse = expect_dice(model, (min(overlap, lower), volume, entropy))
    assert worse.value <= expected.value + 1e-12


def test_volumes_far_beyond_all_cases_count_as_three_deviations():
    measurements, dice = draw_cases(20, 5)
    model = learn(measurements, dice)
    edge = model.volume.mean + 3 * model.volume.deviation
    assert expect_dice(model, (0.8, 1e6, 0.3)) == expect_dice(model, (0.8, edge, 0.3))


def test_measurements_that_do_not_vary_are_no_reason():
    model = learn(np.tile([0.8, 5.0, 0.3], (12, 1)), np.full(12, 0.7))
    assert expect_dice(model, (0.8, 5.0, 0.3)).value == pytest.approx(0.7)


def test_each_group_is_left_out_in_turn_and_a_single_one_is_divided():
    masks = list(leave_out(["0", "1", "0", "2"]))
    assert [tested.tolist() for _, tested in masks] == [
        [True, False, True, False], [False, True, False, False], [False, False, False, True]
    ]  # fmt: skip
    assert all((learnt == ~tested).all() for learnt, tested in masks)
    tenths = [np.flatnonzero(tested).tolist() for _, tested in leave_out(["0"] * 12)]
    assert tenths == [[0, 10], [1, 11], *([place] for place in range(2, 10))]
    assert list(leave_out([])) == []
