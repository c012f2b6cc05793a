"""Order of the transforms and what they leave behind."""

from functools import partial

import numpy as np
import pytest

from autoseg.training.augmentation.compose import compose_training_transforms, compose_validation_transforms
from autoseg.training.augmentation.intensity import ChangeImages
from autoseg.training.augmentation.parameters import AugmentationRules


def compose(patch, rules, masked_channels=()):
    axes = range(len(patch))
    return compose_training_transforms(patch, masked_channels=masked_channels, mirror_axes=axes, rules=rules)


def make_batch(patch, samples=4, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "image": generator.standard_normal((samples, 2, *patch)).astype(np.float32),
        "target": generator.integers(-1, 4, size=(samples, *patch)).astype(np.int16),
        "cases": ["case"] * samples,
        "generator": np.random.default_rng(seed + 1),
    }


def described(transform):
    if not isinstance(transform, ChangeImages):
        return type(transform).__name__
    assert isinstance(transform.change, partial)
    inverted = "_inverted" if transform.change.keywords.get("inverted") else ""
    return f"{transform.change.func.__name__}{inverted} {transform.probability}"


def test_order_and_probabilities_are_nnunets():
    composed = compose((8, 9, 10), AugmentationRules())

    assert [described(transform) for transform in composed.transforms] == [
        "add_noise 0.1",
        "blur 0.2",
        "change_brightness 0.15",
        "change_contrast 0.15",
        "lower_resolution 0.25",
        "change_gamma_inverted 0.1",
        "change_gamma 0.3",
        "Mirror",
        "ZeroOutsideMask",
        "OutsideToBackground",
    ]


@pytest.mark.parametrize("patch", [(8, 9, 10), (4, 16, 13), (12, 9)])
def test_masked_channel_is_zero_outside_and_labels_end_at_background(patch):
    always = AugmentationRules(noise_probability=1, blur_probability=1)
    batch = make_batch(patch)
    outside_share = np.mean(batch["target"] < 0)
    ignore_share = np.mean(batch["target"] == 3)

    result = compose(patch, always, masked_channels=(1,))(**batch)

    assert (result["target"] >= 0).all()
    assert np.mean(result["target"] == 3) == ignore_share
    assert np.mean(result["image"][:, 1] == 0) == pytest.approx(outside_share)
    assert np.mean(result["image"][:, 0] == 0) < 0.001
    assert np.isfinite(result["image"]).all()


def test_flat_patch_keeps_its_resolution_across_slices():
    lowered = AugmentationRules(
        low_resolution_probability=1, low_resolution_channel_probability=1, low_resolution_range=(0.5, 0.5),
        noise_probability=0, blur_probability=0, brightness_probability=0, contrast_probability=0,
        inverted_gamma_probability=0, gamma_probability=0, mirror_axis_probability=0,
    )  # fmt: skip
    batch = make_batch((4, 16, 13))
    batch["image"][:] = np.arange(4).reshape(4, 1, 1)  # constant within each slice

    result = compose((4, 16, 13), lowered)(**batch)

    np.testing.assert_allclose(result["image"][0, 0, :, 0, 0], np.arange(4), atol=1e-6)


def test_validation_only_turns_outside_into_background():
    batch = make_batch((8, 9, 10))
    image, target = batch["image"].copy(), batch["target"].copy()

    result = compose_validation_transforms()(**batch)

    np.testing.assert_array_equal(result["image"], image)
    np.testing.assert_array_equal(result["target"], np.where(target < 0, 0, target))
