"""Random contrasts: what they keep, what they change, and how they vary."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from autoseg.training.data.augmentation.random_contrast import change_contrast_randomly


def make_image(shape):
    return (3.0 * np.random.default_rng(1).standard_normal(shape) + 7.0).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 12, 15), (1, 1, 12, 15), (2, 6, 9, 11)])
def test_mean_and_standard_deviation_stay(shape):
    image = make_image(shape)
    changed = image.copy()
    change_contrast_randomly(changed, np.random.default_rng(0))
    assert not np.allclose(changed, image)
    axes = tuple(range(1, image.ndim))
    np.testing.assert_allclose(changed.mean(axis=axes), image.mean(axis=axes), atol=1e-4)
    np.testing.assert_allclose(changed.std(axis=axes), image.std(axis=axes), rtol=1e-4)


def test_a_constant_channel_stays():
    image = np.stack([np.full((6, 7), 3.0, np.float32), make_image((6, 7))])
    change_contrast_randomly(image, np.random.default_rng(0))
    assert (image[0] == 3.0).all()


def test_the_same_generator_gives_the_same_contrast():
    first, second = make_image((1, 8, 9)), make_image((1, 8, 9))
    for image in (first, second):
        change_contrast_randomly(image, np.random.default_rng(5))
    np.testing.assert_array_equal(first, second)


def test_some_contrasts_are_inverted_and_some_keep_the_order():
    smooth = np.linspace(-2.0, 2.0, 400, dtype=np.float32).reshape(1, 20, 20)
    correlations = []
    for seed in range(60):
        changed = smooth.copy()
        change_contrast_randomly(changed, np.random.default_rng(seed))
        correlations.append(spearmanr(changed.ravel(), smooth.ravel()).statistic)
    assert min(correlations) < -0.5
    assert max(correlations) > 0.9
