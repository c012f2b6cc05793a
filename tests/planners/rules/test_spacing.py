"""Target spacing, axis order and median shape, by hand."""

import itertools
import math

import numpy as np
import pytest

from planners.rules import Decided
from planners.rules.spacing import (
    COVERED_FRACTION,
    LowResolution,
    choose_low_resolution,
    choose_target_spacing,
    choose_transpose,
    coarser_resolutions,
    covered_fraction,
    median_resampled_shape,
)


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


def search(shape: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[LowResolution | None, Decided[bool]]:
    """The first spacing, from 1 mm on, at which this patch covers enough; and whether it is planned."""
    covered = low_covered = covered_fraction(patch, math.prod(shape))
    low = None
    for candidate in coarser_resolutions((1.0, 1.0, 1.0), shape):
        if low_covered >= COVERED_FRACTION:
            break
        low, low_covered = candidate, covered_fraction(patch, candidate.image_voxels)
    gain = 1.0 if low is None else math.prod(shape) / low.image_voxels
    return low, choose_low_resolution(covered, low, low_covered, gain)


def test_not_needed_when_a_quarter_is_seen():
    low, decided = search((128, 128, 128), (64, 64, 128))
    assert low is None
    assert decided.value is False
    assert "covers 25% of the median image" in decided.reason


def test_first_step_that_reaches_a_quarter():
    # 200^3 * 0.25 / 100^3: spacing must grow by 2^(1/3) = 1.26, that is 8 steps of 3 %.
    low, decided = search((200, 200, 200), (100, 100, 100))
    assert low is not None
    assert low.spacing == pytest.approx((1.03**8,) * 3)
    assert low.median_shape == (158.0, 158.0, 158.0)
    assert low.image_voxels == pytest.approx((200 / 1.03**8) ** 3)
    assert decided.value is True
    assert "1.27 x 1.27 x 1.27 mm" in decided.reason


def test_finer_axes_grow_alone_until_within_a_factor_of_two():
    resolutions = itertools.islice(coarser_resolutions((5.0, 1.0, 1.0), (200, 900, 900)), 40)
    spacings = np.array([low.spacing for low in resolutions])
    alone = int(np.ceil(np.log(2.5) / np.log(1.03)))  # 31 steps until 5 / spacing <= 2
    assert (spacings[:alone, 0] == 5.0).all()
    assert spacings[alone - 1, 1:] == pytest.approx(1.03**alone)
    assert spacings[alone, 0] == pytest.approx(5.0 * 1.03)


def test_too_similar_to_be_useful():
    # At 1.03^5 a quarter is seen, with 1.56 times fewer voxels: not worth a second network.
    _, decided = search((200, 200, 200), (100, 100, 130))
    assert decided.value is False
    assert "covers 16%" in decided.reason
    assert "hardly fewer voxels" in decided.reason


def test_a_patch_that_never_covers_enough_ends_the_search():
    resolutions = list(coarser_resolutions((1.0, 1.0, 1.0), (200, 200, 200)))
    assert len(resolutions) == 500
    assert min(resolutions[-1].median_shape) == 1.0
