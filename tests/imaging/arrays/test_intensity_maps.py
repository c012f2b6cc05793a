"""Histogram matching: the matched image has the wanted quantiles, and the order of intensities stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.imaging.arrays.intensity_maps import apply_map, match_quantiles

LEVELS = np.linspace(0.01, 0.99, 25)


def match(found, wanted, **options):
    curve = match_quantiles(found, wanted, **options)
    assert curve is not None
    return curve


@pytest.mark.parametrize("inverted", [False, True])
@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 3.0), st.integers(0, 1000))
def test_matched_images_have_the_wanted_quantiles(inverted, exponent, seed):
    generator = np.random.default_rng(seed)
    wanted = np.quantile(generator.normal(50, 9, 5000), LEVELS)
    image = (generator.uniform(0, 1, (3, 30, 41)) ** exponent * 700).astype(np.float32)
    matched = image.copy()
    apply_map(matched, match(np.quantile(image, LEVELS), wanted, inverted=inverted))
    np.testing.assert_allclose(np.quantile(matched, LEVELS), wanted, atol=0.2)
    order = np.argsort(image, axis=None)
    steps = np.diff(matched.ravel()[order])
    assert (steps <= 0).all() if inverted else (steps >= 0).all()


def test_values_beyond_the_outermost_quantiles_follow_a_straight_line():
    curve = match(np.array([10.0, 20.0, 30.0]), np.array([1.0, 5.0, 7.0]))
    values = np.array([[[0.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0]]], np.float32)
    apply_map(values, curve)
    np.testing.assert_allclose(values[0, 0], [-2.0, 1.0, 3.0, 5.0, 6.0, 7.0, 13.0])


def test_equal_quantiles_become_their_mean():
    curve = match(np.array([0.0, 0.0, 0.0, 8.0]), np.array([1.0, 2.0, 6.0, 10.0]))
    assert curve.source.tolist() == [0.0, 8.0]
    assert curve.target.tolist() == [3.0, 10.0]


def test_an_image_of_one_intensity_has_no_curve():
    assert match_quantiles(np.full(5, 3.0), np.arange(5.0)) is None
