"""Contrast of images: what curves of intensity change of it, and what they do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.imaging.arrays.contrast import (
    SIGN_FLOOR,
    measure_contrast,
    measure_distance,
    measure_sign,
    summarize_contrasts,
)
from autoseg.records.contrast import CONTRAST_LEVELS, NUM_SIGNS


def anatomy(seed, shape=(11, 26, 19)):
    """A bright body with a few dark spots in it, on a dark ground; every image has its own places and noise."""
    generator = np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    body = 1 / (1 + np.exp(12 * (np.linalg.norm(places, axis=0) - generator.uniform(0.7, 0.9))))
    spots = ndimage.gaussian_filter((generator.random(shape) < 0.02).astype(float), 1) * 8
    image = 20 + 400 * body * np.exp(-spots) + generator.normal(0, 4, shape)
    return np.maximum(image, 1)[None].astype(np.float32)


def test_quantiles_are_those_of_the_nonzero_part():
    image = np.zeros((2, 6, 9, 14), np.float32)
    image[:, 1:5, 2:8, 3:12] = np.random.default_rng(0).uniform(5, 90, (2, 4, 6, 9))
    for channel, found in zip(image, measure_contrast(image), strict=True):
        inside = np.sort(channel[1:5, 2:8, 3:12].ravel()).astype(float)
        positions = np.array(CONTRAST_LEVELS) * (inside.size - 1)
        expected = np.interp(positions, np.arange(inside.size), inside)
        np.testing.assert_allclose(found.quantiles, expected, rtol=1e-6)
        np.testing.assert_allclose(found.standard_quantiles, (expected - inside.mean()) / inside.std(), rtol=1e-5)
        assert found.signs.shape == (NUM_SIGNS,)


def test_large_images_are_measured_on_a_coarse_grid():
    small = anatomy(3, (12, 30, 24))
    large = np.repeat(np.repeat(np.repeat(small, 5, axis=1), 4, axis=2), 5, axis=3)
    coarse, fine = measure_contrast(large)[0], measure_contrast(small)[0]
    np.testing.assert_allclose(coarse.standard_quantiles, fine.standard_quantiles, atol=0.05)
    np.testing.assert_allclose(coarse.signs[-4:], fine.signs[-4:], atol=0.05)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 3.0), st.floats(0.01, 1000), st.floats(-500, 500), st.integers(0, 9))
def test_curves_that_keep_the_order_keep_the_signs(exponent, gain, offset, seed):
    image = anatomy(seed).astype(np.float64)
    curved = (offset + gain * (image / image.max()) ** exponent).astype(np.float32)
    curved[curved == 0] = 1e-9
    (before,), (after,) = measure_contrast(image.astype(np.float32)), measure_contrast(curved)
    np.testing.assert_allclose(after.signs, before.signs, atol=0.02)


def test_an_inverted_image_has_the_contrary_signs():
    image = anatomy(1)
    (found,), (inverted,) = measure_contrast(image), measure_contrast(500 - image)
    np.testing.assert_allclose(inverted.signs, -found.signs, atol=1e-6)
    np.testing.assert_allclose(inverted.standard_quantiles, -found.standard_quantiles[::-1], atol=1e-5)


def test_images_of_one_intensity_and_of_few_nonzero_voxels_stay_finite():
    dot = np.zeros((1, 8, 9, 10), np.float32)
    dot[0, 4, 4, 4] = 3
    for image in (dot, np.full((1, 1, 7, 5), 7, np.float32), np.zeros((1, 3, 3, 3), np.float32)):
        (found,) = measure_contrast(image)
        assert np.isfinite([*found.quantiles, *found.standard_quantiles, *found.signs]).all()


def test_the_summary_leaves_each_case_out_in_turn():
    cases = [measure_contrast(np.concatenate([anatomy(seed), 900 - anatomy(seed + 50)])) for seed in range(6)]
    summary = summarize_contrasts(cases)
    assert len(summary) == 2
    for channel, contrast in enumerate(summary):
        found = [case[channel] for case in cases]
        distances, signs = [], []
        for left_out in found:
            others = [case for case in found if case is not left_out]
            mean = np.mean([case.standard_quantiles for case in others], axis=0)
            distances.append(np.mean(np.abs(left_out.standard_quantiles - mean)))
            values = np.array([case.signs for case in others])
            weights = values.mean(axis=0) / (values.std(axis=0) ** 2 + SIGN_FLOOR**2)
            signs.append(np.sum(left_out.signs * weights) / np.sum(values.mean(axis=0) * weights))
        assert contrast.largest_distance == pytest.approx(max(distances))
        assert contrast.sign_spread == pytest.approx(np.std(signs))
        assert contrast.quantiles == pytest.approx(np.mean([case.quantiles for case in found], axis=0))
        assert contrast.num_cases == 6


def test_one_case_has_no_spread():
    (contrast,) = summarize_contrasts([measure_contrast(anatomy(0))])
    assert (contrast.largest_distance, contrast.sign_spread, contrast.num_cases) == (0.0, 0.0, 1)


def test_sign_and_distance_by_hand():
    mean, deviation = np.array([2.0, 0.0]), np.array([0.0, 3.0])
    assert measure_sign(np.array([-1.0, 100.0]), mean, deviation) == pytest.approx(-0.5)
    assert measure_distance(np.array([0.0, 1.0]), np.array([1.0, 4.0])) == 2.0
