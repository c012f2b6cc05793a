"""Streaming statistics against numpy on all values at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.imaging.arrays.statistics import (
    MAX_POOL_POINTS,
    SKETCH_POINTS,
    IntensityPool,
    compute_moments,
    summarize_intensities,
)


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
