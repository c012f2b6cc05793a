"""Changes of intensity, each against its plain formula."""

import numpy as np
import pytest
from scipy import ndimage, stats

from autoseg.training.data.augmentation.intensity import (
    ChangeImages,
    add_noise,
    blur,
    change_brightness,
    change_contrast,
    change_gamma,
    draw_factor,
    lower_resolution,
)


@pytest.fixture
def image():
    return np.random.default_rng(3).gamma(2.0, size=(3, 9, 12, 7)).astype(np.float32)


def same_generator():
    return np.random.default_rng(5)


def test_noise_has_one_strength_for_all_channels():
    image = np.zeros((2, 30, 40, 50), dtype=np.float32)

    add_noise(image, same_generator(), std_range=(0.05, 0.05))

    np.testing.assert_allclose(image.std(axis=(1, 2, 3)), 0.05, rtol=0.02)
    assert stats.kstest(image[0, 0].ravel() / 0.05, "norm").pvalue > 0.001
    assert abs(np.corrcoef(image[0].ravel(), image[1].ravel())[0, 1]) < 0.02


def test_blur_is_a_separable_gaussian_with_a_width_per_axis(image):
    original = image.copy()

    blur(image, same_generator(), channel_probability=1, sigma_range=(0.5, 1.0))

    replay = same_generator()
    for before, after in zip(original, image, strict=True):
        replay.random()
        expected = before.astype(float)
        for axis, sigma in enumerate(replay.uniform(0.5, 1.0, size=3)):
            positions = np.arange(-6, 7)
            kernel = np.exp(-0.5 * (positions / sigma) ** 2)
            padded = np.pad(expected, [(6, 6) if i == axis else (0, 0) for i in range(3)], mode="reflect")
            expected = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), "valid")
        np.testing.assert_allclose(after, expected, atol=2e-3)


def test_blur_leaves_out_channels_by_chance():
    image = np.random.default_rng(0).random((400, 4, 5), dtype=np.float32)
    original = image.copy()

    blur(image, same_generator(), channel_probability=0.5, sigma_range=(0.5, 1.0))

    changed = (image != original).any(axis=(1, 2))
    assert changed.mean() == pytest.approx(0.5, abs=0.08)


def test_brightness_multiplies_each_channel_by_its_own_factor(image):
    original = image.copy()

    change_brightness(image, same_generator(), factor_range=(0.75, 1.25))

    factors = (image / original).reshape(3, -1)
    np.testing.assert_allclose(factors, factors[:, :1].repeat(factors.shape[1], 1), rtol=1e-5)
    assert len(set(factors[:, 0].tolist())) == 3
    assert ((factors > 0.75) & (factors < 1.25)).all()


def test_contrast_stretches_about_the_mean_and_clips(image):
    original = image.astype(float)

    change_contrast(image, same_generator(), factor_range=(0.75, 1.25))

    replay = same_generator()
    factors = [draw_factor(replay, (0.75, 1.25)) for _ in original]
    assert min(factors) < 1 < max(factors)
    for before, after, factor in zip(original, image, factors, strict=True):
        expected = np.clip((before - before.mean()) * factor + before.mean(), before.min(), before.max())
        np.testing.assert_allclose(after, expected, atol=1e-5)


def test_lower_resolution_picks_nearest_voxels_and_interpolates_linearly():
    image = np.random.default_rng(0).random((1, 8, 6, 9), dtype=np.float32)
    original = image[0].copy()

    lower_resolution(image, same_generator(), channel_probability=1, scale_range=(0.5, 0.5), kept_axes=(0,))

    # coarse voxel i covers (i + 1/2) * size / coarse - 1/2, and takes the fine voxel there (y: of 3, x: of 4)
    coarse = original[:, [1, 3, 5]][:, :, [1, 3, 5, 7]]
    y = np.clip((np.arange(6) + 0.5) * 3 / 6 - 0.5, 0, 2)
    x = np.clip((np.arange(9) + 0.5) * 4 / 9 - 0.5, 0, 3)
    for plane in range(8):
        expected = ndimage.map_coordinates(coarse[plane], np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
        np.testing.assert_allclose(image[0, plane], expected, atol=1e-5)


def test_lower_resolution_works_on_slices_and_single_voxels():
    image = np.random.default_rng(0).random((2, 1, 9), dtype=np.float32)
    original = image.copy()

    lower_resolution(image, same_generator(), channel_probability=1, scale_range=(0.5, 0.6))

    assert image.shape == (2, 1, 9)
    assert (image != original).any()
    assert image.min() >= original.min()
    assert image.max() <= original.max()


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_follows_the_power_law_and_restores_mean_and_std(image, inverted):
    original = image.astype(float)

    change_gamma(image, same_generator(), exponent_range=(1.4, 1.4), inverted=inverted)

    for before, after in zip(original, image, strict=True):
        source = -before if inverted else before
        extent = source.max() - source.min()
        power = ((source - source.min()) / extent) ** 1.4 * extent + source.min()
        expected = (power - power.mean()) / power.std() * source.std() + source.mean()
        np.testing.assert_allclose(after, -expected if inverted else expected, atol=1e-4)
        assert after.mean() == pytest.approx(before.mean(), abs=1e-5)
        assert after.std() == pytest.approx(before.std(), rel=1e-4)
        ranks = np.argsort(before, axis=None)
        assert (np.diff(after.ravel()[ranks]) >= 0).all()


def test_gamma_and_contrast_leave_a_constant_channel_alone():
    image = np.full((1, 4, 5, 6), 3.5, dtype=np.float32)

    change_gamma(image, same_generator(), exponent_range=(0.7, 1.5))
    change_contrast(image, same_generator(), factor_range=(0.75, 1.25))

    np.testing.assert_allclose(image, 3.5, atol=1e-6)


def test_factors_are_below_and_above_one_equally_often():
    generator = np.random.default_rng(0)
    factors = np.array([draw_factor(generator, (0.7, 1.5)) for _ in range(4000)])

    assert np.mean(factors < 1) == pytest.approx(0.5, abs=0.03)
    assert factors.min() < 0.71
    assert 1.49 < factors.max() <= 1.5
    assert factors[factors < 1].mean() == pytest.approx(0.85, abs=0.01)
    above = np.array([draw_factor(generator, (1.2, 1.4)) for _ in range(200)])
    assert ((above >= 1.2) & (above <= 1.4)).all()


def test_change_is_applied_to_some_samples_in_place():
    image = np.zeros((2000, 1, 2, 2), dtype=np.float32)

    def mark(sample, generator):
        sample += 1

    batch = ChangeImages(mark, probability=0.15)(
        image=image, target=np.zeros((2000, 2, 2), np.int16), cases=[], generators=[same_generator()] * 2000
    )

    assert batch["image"] is image
    assert image.mean() == pytest.approx(0.15, abs=0.025)
