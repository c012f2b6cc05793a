"""The search for a low resolution, with a patch size that does not depend on spacing."""

import itertools
import math

import numpy as np
import pytest

from planners.rules import Decided
from planners.rules.low_resolution import (
    COVERED_FRACTION,
    LowResolution,
    choose_low_resolution,
    coarser_resolutions,
    covered_fraction,
)


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
