"""The search for a low resolution, with a patch size that does not depend on spacing."""

import numpy as np
import pytest

from planners.rules.low_resolution import LowResolution, find_low_resolution


def fixed(*patch: int):
    return lambda _low: patch


def test_not_needed_when_a_quarter_is_seen():
    low, reason = find_low_resolution((1.0, 1.0, 1.0), (128, 128, 128), (64, 64, 128), fixed(64, 64, 128))
    assert low is None
    assert "covers 25% of the median image" in reason


def test_first_step_that_reaches_a_quarter():
    # 200^3 * 0.25 / 100^3: spacing must grow by 2^(1/3) = 1.26, that is 8 steps of 3 %.
    low, reason = find_low_resolution((1.0, 1.0, 1.0), (200, 200, 200), (100, 100, 100), fixed(100, 100, 100))
    assert low is not None
    assert low.spacing == pytest.approx((1.03**8,) * 3)
    assert low.median_shape == (158.0, 158.0, 158.0)
    assert low.image_voxels == pytest.approx((200 / 1.03**8) ** 3)
    assert "1.27 x 1.27 x 1.27 mm" in reason


def test_finer_axes_grow_alone_until_within_a_factor_of_two():
    seen: list[LowResolution] = []

    def record(low: LowResolution) -> tuple[int, ...]:
        seen.append(low)
        return (64, 64, 64)

    find_low_resolution((5.0, 1.0, 1.0), (200, 900, 900), (64, 64, 64), record)
    spacings = np.array([low.spacing for low in seen])
    alone = int(np.ceil(np.log(2.5) / np.log(1.03)))  # 31 steps until 5 / spacing <= 2
    assert (spacings[:alone, 0] == 5.0).all()
    assert spacings[alone - 1, 1:] == pytest.approx(1.03**alone)
    assert spacings[alone, 0] == pytest.approx(5.0 * 1.03)


def test_too_similar_to_be_useful():
    # At 1.03^5 a quarter is seen, with 1.56 times fewer voxels: not worth a second network.
    low, reason = find_low_resolution((1.0, 1.0, 1.0), (200, 200, 200), (100, 100, 130), fixed(100, 100, 130))
    assert low is None
    assert "covers 16%" in reason
    assert "hardly fewer voxels" in reason


def test_a_patch_that_never_grows_ends_the_search():
    calls = 0

    def tiny(_low: LowResolution) -> tuple[int, ...]:
        nonlocal calls
        calls += 1
        return (0, 0, 0)

    low, _ = find_low_resolution((1.0, 1.0, 1.0), (200, 200, 200), (1, 1, 1), tiny)
    assert calls == 500
    assert low is not None
    assert min(low.median_shape) == 1.0
