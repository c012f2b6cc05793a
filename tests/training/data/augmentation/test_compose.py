"""Order of the transforms and what they leave behind."""

from functools import partial

import numpy as np
import pytest

from autoseg.training.data.augmentation.compose import (
    compose_training_transforms,
    compose_transforms,
    compose_transforms_before_device,
    compose_validation_transforms,
)
from autoseg.training.data.augmentation.intensity import ChangeImages
from autoseg.training.data.augmentation.parameters import AugmentationRules
from tests.training.small_cases import make_configuration


def compose(patch, rules, masked_channels=()):
    axes = range(len(patch))
    return compose_training_transforms(patch, masked_channels=masked_channels, mirror_axes=axes, rules=rules)


def make_batch(patch, samples=4, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "image": generator.standard_normal((samples, 2, *patch)).astype(np.float32),
        "target": generator.integers(-1, 4, size=(samples, *patch)).astype(np.int16),
        "cases": ["case"] * samples,
        "generators": [np.random.default_rng([seed, sample]) for sample in range(samples)],
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
    outside_fraction = np.mean(batch["target"] < 0)
    ignore_fraction = np.mean(batch["target"] == 3)

    result = compose(patch, always, masked_channels=(1,))(**batch)

    assert (result["target"] >= 0).all()
    assert np.mean(result["target"] == 3) == ignore_fraction
    assert np.mean(result["image"][:, 1] == 0) == pytest.approx(outside_fraction)
    assert np.mean(result["image"][:, 0] == 0) < 0.001
    assert np.isfinite(result["image"]).all()


def test_sample_does_not_depend_on_the_others_of_its_batch():
    always = AugmentationRules(noise_probability=1, blur_probability=1)
    whole, last = make_batch((8, 9, 10)), make_batch((8, 9, 10))
    last = {name: value[2:] for name, value in last.items()}

    result, part = compose((8, 9, 10), always)(**whole), compose((8, 9, 10), always)(**last)

    np.testing.assert_array_equal(result["image"][2:], part["image"])
    np.testing.assert_array_equal(result["target"][2:], part["target"])


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


def make_cascade_batch():
    batch = make_batch((8, 9, 10))
    batch["previous"] = np.random.default_rng(9).integers(0, 4, size=batch["target"].shape).astype(np.int16)
    return batch


def test_label_maps_of_the_previous_configuration_are_changed_last_and_nothing_else_touches_them():
    rules = AugmentationRules(
        noise_probability=1, brightness_probability=1, gamma_probability=1, morphology_probability=0,
        removal_probability=0, mirror_axis_probability=0,
    )  # fmt: skip
    batch = make_cascade_batch()
    previous = batch["previous"].copy()
    composed = compose_training_transforms(
        (8, 9, 10), masked_channels=(0, 1), mirror_axes=(0, 1, 2), rules=rules, num_previous_labels=3
    )

    image = composed(**batch)["image"]

    assert [described(transform) for transform in composed.transforms][-2:] == [
        "DistortPreviousLabels",
        "AppendPreviousLabels",
    ]
    assert image.shape == (4, 5, 8, 9, 10)
    assert image.flags.c_contiguous
    for label in (1, 2, 3):
        np.testing.assert_array_equal(image[:, 1 + label], previous == label)


def test_before_the_device_only_label_maps_change_and_each_sample_gets_a_seed():
    batch = make_cascade_batch()
    image, target = batch["image"].copy(), batch["target"].copy()

    result = compose_transforms_before_device(rules=AugmentationRules(), num_previous_labels=3)(**batch)

    np.testing.assert_array_equal(result["image"][:, :2], image)
    np.testing.assert_array_equal(result["target"], target)
    assert result["image"].shape[1] == 5
    assert result["seeds"].dtype == np.int64
    assert len(set(result["seeds"].tolist())) == 4
    assert (result["seeds"] >= 0).all()


@pytest.mark.parametrize("is_training", [True, False])
def test_configuration_tells_masked_channels_mirror_axes_and_patch(is_training):
    configuration = make_configuration((4, 16, 13), masked=(1,), mirror_axes=(2,))

    composed = compose_transforms(configuration, AugmentationRules() if is_training else None, num_previous_labels=2)

    names = [described(transform) for transform in composed.transforms]
    if not is_training:
        assert names == ["OutsideToBackground", "AppendPreviousLabels"]
        return
    mirror, zero = composed.transforms[7:9]
    assert (mirror.axes, mirror.probability, zero.channels) == ((2,), 0.5, (1,))
    assert composed.transforms[4].change.keywords["kept_axes"] == (0,)


def test_validation_only_turns_outside_into_background():
    batch = make_batch((8, 9, 10))
    image, target = batch["image"].copy(), batch["target"].copy()

    result = compose_validation_transforms()(**batch)

    np.testing.assert_array_equal(result["image"], image)
    np.testing.assert_array_equal(result["target"], np.where(target < 0, 0, target))
