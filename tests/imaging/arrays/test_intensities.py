"""Streaming statistics against numpy on all values at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.intensities import (
    MAX_POOL_POINTS,
    SKETCH_POINTS,
    IntensityPool,
    compute_moments,
    normalize_image,
    summarize_intensities,
)
from autoseg.records.network import NormalizationSpec


def ct_case(rng, num_voxels):
    """Soft tissue, some fat, a few metal voxels, with an offset per case."""
    tissue = rng.normal(40 + rng.normal(0, 15), 30, size=num_voxels)
    fat = rng.random(num_voxels) < 0.2
    tissue[fat] = rng.normal(-100, 20, size=int(fat.sum()))
    metal = rng.random(num_voxels) < 0.002
    tissue[metal] = rng.uniform(1000, 3000, size=int(metal.sum()))
    return np.round(tissue).astype(np.float32)


def pooled(cases):
    pool = IntensityPool()
    for values in cases:
        pool.add(summarize_intensities(values))
    return pool.statistics()


def test_equal_cases_equal_pooled_numpy():
    rng = np.random.default_rng(0)
    cases = [ct_case(rng, 30_000) for _ in range(40)]
    everything = np.concatenate(cases).astype(np.float64)
    statistics = pooled(cases)
    assert statistics.mean == pytest.approx(everything.mean(), rel=1e-9)
    assert statistics.std == pytest.approx(everything.std(), rel=1e-9)
    assert statistics.minimum == everything.min()
    assert statistics.maximum == everything.max()
    low, median, high = np.percentile(everything, [0.5, 50, 99.5])
    assert statistics.median == pytest.approx(median, abs=1)
    assert statistics.percentile_00_5 == pytest.approx(low, abs=1)
    assert statistics.percentile_99_5 == pytest.approx(high, abs=1)


def test_a_small_case_counts_as_much_as_a_large_one():
    statistics = pooled([np.zeros(10, dtype=np.float32), np.full(100_000, 8.0, dtype=np.float32)])
    assert statistics.mean == pytest.approx(4.0)
    assert statistics.std == pytest.approx(4.0)


def test_the_pool_stays_small_and_right_over_many_cases():
    rng = np.random.default_rng(1)
    cases = [rng.normal(10 * rng.random(), 1, size=3000).astype(np.float32) for _ in range(400)]
    pool = IntensityPool()
    for values in cases:
        pool.add(summarize_intensities(values))
        assert pool._num_points <= MAX_POOL_POINTS + SKETCH_POINTS
    ranks = np.searchsorted(
        np.sort(np.concatenate(cases)),
        [pool.statistics().percentile_00_5, pool.statistics().median, pool.statistics().percentile_99_5],
    )
    np.testing.assert_allclose(ranks / (400 * 3000), [0.005, 0.5, 0.995], atol=2e-4)


def test_few_values_are_kept_exactly():
    statistics = pooled([np.array([5, 1, 3], dtype=np.float32)])
    assert (statistics.minimum, statistics.median, statistics.maximum) == (1.0, 3.0, 5.0)
    assert statistics.mean == pytest.approx(3.0)
    assert statistics.std == pytest.approx(np.sqrt(8 / 3))


def test_empty_pool_has_no_statistics():
    assert IntensityPool().is_empty()
    with pytest.raises(ValueError, match="the pool is empty"):
        IntensityPool().statistics()


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), max_size=9), max_size=6))
def test_moments_of_parts_are_those_of_the_whole(parts):
    arrays = [np.array(part, dtype=np.float32) for part in parts]
    moments = compute_moments(arrays)
    everything = np.concatenate([*arrays, np.zeros(0, dtype=np.float32)]).astype(np.float64)
    assert moments.weight == everything.size
    if everything.size:
        assert moments.mean == pytest.approx(everything.mean(), rel=1e-9, abs=1e-6)
        assert moments.variance == pytest.approx(everything.var(), rel=1e-9, abs=1e-4)


EVERYWHERE = np.ones((1, 2, 2), dtype=bool)


def image_of(*values):
    return np.array(values, dtype=np.float32).reshape(1, 1, 2, 2)


def test_zscore_by_hand_uses_the_population_deviation():
    image = image_of(1, 3, 5, 7)  # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
    normalize_image(image, EVERYWHERE, [NormalizationSpec(scheme="zscore")])
    np.testing.assert_allclose(image.ravel(), np.array([-3, -1, 1, 3]) / np.sqrt(5), rtol=1e-6)
    assert image.dtype == np.float32


def test_masked_zscore_ignores_the_outside_and_leaves_it_at_zero():
    image = image_of(0, 3, 5, 0)
    inside = np.array([[[False, True], [True, False]]])
    normalize_image(image, inside, [NormalizationSpec(scheme="zscore", use_mask=True)])
    np.testing.assert_allclose(image.ravel(), [0, -1, 1, 0], rtol=1e-6)


def test_the_mask_is_not_used_unless_the_spec_says_so():
    image = image_of(1, 3, 5, 7)
    normalize_image(image, ~EVERYWHERE, [NormalizationSpec(scheme="zscore")])
    np.testing.assert_allclose(image.ravel(), np.array([-3, -1, 1, 3]) / np.sqrt(5), rtol=1e-6)


@pytest.mark.parametrize("use_mask", [False, True])
def test_empty_mask_and_constant_image_stay_finite(use_mask):
    for inside in (EVERYWHERE, ~EVERYWHERE):
        image = image_of(0, 0, 0, 0)
        normalize_image(image, inside, [NormalizationSpec(scheme="zscore", use_mask=use_mask)])
        np.testing.assert_array_equal(image, 0)


def test_ct_clips_then_standardizes_with_the_dataset_statistics():
    image = image_of(-2000, -100, 50, 900)
    spec = NormalizationSpec(scheme="ct", mean=50.0, std=75.0, lower=-100.0, upper=200.0)
    normalize_image(image, EVERYWHERE, [spec])
    np.testing.assert_allclose(image.ravel(), [-2, -2, 0, 2], rtol=1e-6)


def test_rescaling_and_pictures_and_none_channel_by_channel():
    image = np.concatenate([image_of(-2, 0, 2, 6), image_of(0, 51, 102, 255), image_of(-7, 1, 2, 9)])
    specs = [
        NormalizationSpec(scheme="rescale_0_1"),
        NormalizationSpec(scheme="rgb_0_1"),
        NormalizationSpec(scheme="none"),
    ]
    normalize_image(image, EVERYWHERE, specs)
    np.testing.assert_allclose(image[0].ravel(), [0, 0.25, 0.5, 1], rtol=1e-6)
    np.testing.assert_allclose(image[1].ravel(), [0, 0.2, 0.4, 1], rtol=1e-6)
    np.testing.assert_array_equal(image[2].ravel(), [-7, 1, 2, 9])


def test_small_deviation_on_a_large_offset_survives():
    values = 1e6 + np.random.default_rng(0).normal(size=(5, 7, 11))
    image = values[None].astype(np.float32)
    exact = image[0].astype(np.float64)
    normalize_image(image, np.ones((5, 7, 11), dtype=bool), [NormalizationSpec(scheme="zscore")])
    # The mean itself is rounded to float32 when it is subtracted: 1/32 is half a step of float32 at 1e6.
    np.testing.assert_allclose(image[0], (exact - exact.mean()) / exact.std(), atol=0.04)
    assert abs(float(image.std(dtype=np.float64)) - 1) < 1e-5


def test_picture_values_out_of_range_are_refused():
    with pytest.raises(DatasetError, match=r"channel 0: values from 0 to 256 found, but RGB must stay within 0\.\.255"):
        normalize_image(image_of(0, 1, 2, 256), EVERYWHERE, [NormalizationSpec(scheme="rgb_0_1")])


def test_wrong_number_of_channels_is_refused():
    with pytest.raises(DatasetError, match=r"has 1 channel\(s\), but the plan normalises 2"):
        normalize_image(image_of(0, 1, 2, 3), EVERYWHERE, [NormalizationSpec(scheme="none")] * 2)
