"""Target spacing, axis order and median shape, by hand."""

import pytest

from planners.rules.target_spacing import choose_target_spacing, choose_transpose, median_resampled_shape


def test_median_spacing():
    spacing, reason = choose_target_spacing(
        [(1.0, 0.7, 0.8), (2.0, 0.9, 0.8), (1.5, 0.5, 0.6)], [(100, 200, 220), (90, 210, 230), (80, 190, 200)]
    )
    assert spacing == (1.5, 0.7, 0.8)
    assert reason.startswith("Median spacing of the cases")


def test_tenth_percentile_through_plane():
    # Ten cases, 5 mm once, 10 mm nine times: the 10th percentile lies at index 0.9, 5 + 0.9 * 5 = 9.5.
    spacing, reason = choose_target_spacing([(5.0, 1.5, 1.5)] + [(10.0, 1.5, 1.5)] * 9, [(10, 256, 216)] * 10)
    assert spacing == pytest.approx((9.5, 1.5, 1.5))
    assert "9.5 mm (10th percentile)" in reason


def test_tenth_percentile_stays_above_the_plane():
    spacing, _ = choose_target_spacing([(0.5, 1.2, 1.5)] * 2 + [(10.0, 1.2, 1.5)] * 8, [(10, 256, 216)] * 10)
    assert spacing == (1.5 + 1e-5, 1.2, 1.5)


@pytest.mark.parametrize(
    ("spacings", "shape"),
    [
        ([(2.0, 1.0, 1.0), (3.0, 1.0, 1.0), (3.0, 1.0, 1.0)], (10, 256, 256)),  # 3 is not more than 3 times 1
        ([(5.0, 1.0, 1.0), (10.0, 1.0, 1.0), (10.0, 1.0, 1.0)], (100, 256, 300)),  # 100 * 3 is not below 256
    ],
)
def test_both_conditions_are_needed(spacings, shape):
    spacing, _ = choose_target_spacing(spacings, [shape] * 3)
    assert spacing[0] == sorted(value[0] for value in spacings)[1]


def test_coarse_axis_may_be_the_last():
    spacing, _ = choose_target_spacing([(1.5, 1.5, 5.0)] + [(1.5, 1.5, 10.0)] * 9, [(256, 216, 10)] * 10)
    assert spacing == pytest.approx((1.5, 1.5, 9.5))


@pytest.mark.parametrize(
    ("spacing", "order"),
    [
        ((5.0, 1.0, 1.0), (0, 1, 2)),
        ((1.0, 5.0, 1.0), (1, 0, 2)),
        ((1.0, 2.0, 5.0), (2, 0, 1)),
        ((1.0, 1.0, 1.0), (0, 1, 2)),
        ((1.0, 5.0, 5.0), (1, 0, 2)),
    ],
)
def test_largest_spacing_first(spacing, order):
    assert choose_transpose(spacing, (30.0, 40.0, 50.0))[0] == order


def test_single_slice_first_whatever_its_spacing():
    order, reason = choose_transpose((5.0, 1.0, 1.0), (30.0, 40.0, 1.0))
    assert order == (2, 0, 1)
    assert "single slice" in reason


def test_median_shape_rounds_halves_to_even_and_may_be_fractional():
    # 5 * 0.5 = 2.5 -> 2, 7 * 0.5 = 3.5 -> 4; medians of two cases lie between.
    shape = median_resampled_shape([(0.5, 1.0, 1.0), (1.0, 1.0, 2.0)], [(5, 10, 20), (7, 13, 20)], (1.0, 1.0, 2.0))
    assert shape == (4.5, 11.5, 15.0)


def test_no_axis_vanishes():
    assert median_resampled_shape([(0.2, 1.0, 1.0)], [(1, 10, 10)], (5.0, 1.0, 1.0)) == (1.0, 10.0, 10.0)
