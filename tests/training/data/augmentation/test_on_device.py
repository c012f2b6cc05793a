"""The batch's augmentation on the device, against the transforms of single images and scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import kstest

from autoseg.records.clicks import ClickSettings
from autoseg.records.sides import SideSwap
from autoseg.training.data.augmentation.compose import compose_training_transforms
from autoseg.training.data.augmentation.on_device import (
    DeviceAugmentation,
    blur_matrices,
    build_device_augmentation,
    coarsening_matrices,
)
from autoseg.training.data.augmentation.parameters import AugmentationRules
from tests.training.small_cases import make_configuration

SHAPES = [(9, 12, 7), (4, 17, 14), (13, 10), (1, 6)]
EVERY = AugmentationRules(
    noise_probability=0, blur_probability=1, brightness_probability=1, contrast_probability=1,
    low_resolution_probability=1, inverted_gamma_probability=1, gamma_probability=1,
)  # fmt: skip
NONE = AugmentationRules(
    noise_probability=0, blur_probability=0, brightness_probability=0, contrast_probability=0,
    low_resolution_probability=0, inverted_gamma_probability=0, gamma_probability=0, mirror_axis_probability=0,
)  # fmt: skip
OFTEN = AugmentationRules(
    noise_probability=0, blur_probability=0.5, brightness_probability=0.5, contrast_probability=0.5,
    low_resolution_probability=0.5, inverted_gamma_probability=0.5, gamma_probability=0.5,
)  # fmt: skip


def augmentation(shape, rules, *, channels=3, masked=()):
    return build_device_augmentation(make_configuration(shape, channels=channels, masked=masked), rules)


def make_batch(shape, *, samples=4, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    image = generator.gamma(2.0, size=(samples, channels, *shape)).astype(np.float32)
    target = generator.integers(-1, 4, size=(samples, *shape)).astype(np.int16)
    return torch.from_numpy(image), torch.from_numpy(target), generator.integers(2**63, size=samples)


def changed_on_the_cpu(image, target, seeds, configuration, rules):
    """The transforms of single images, each sample's taking all decisions from a generator with its seed."""
    batch = compose_training_transforms(
        configuration.patch_size,
        masked_channels=[channel for channel, spec in enumerate(configuration.normalization) if spec.use_mask],
        mirror_axes=configuration.training.mirror_axes,
        rules=rules,
    )(
        image=image.numpy().copy(),
        target=target.numpy().copy(),
        cases=["case"] * len(seeds),
        generators=[np.random.default_rng(seed) for seed in seeds],
    )
    return batch["image"], batch["target"]


@pytest.mark.parametrize("rules", [EVERY, OFTEN], ids=["every", "often"])
@pytest.mark.parametrize("shape", SHAPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_each_sample_is_changed_as_on_the_cpu(shape, rules, seed):
    image, target, seeds = make_batch(shape, seed=seed)
    configuration = make_configuration(shape, channels=3, masked=(1,))

    result, labels = build_device_augmentation(configuration, rules)(image, target, seeds)

    expected, expected_labels = changed_on_the_cpu(image, target, seeds, configuration, rules)
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-4)
    np.testing.assert_array_equal(labels.numpy(), expected_labels)


@pytest.mark.parametrize("shape", SHAPES)
@given(sigmas=st.lists(st.floats(0.3, 3.0), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_blur_is_scipys_gaussian_filter(shape, sigmas):
    channel = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    expected = ndimage.gaussian_filter(channel, sigmas[: len(shape)], mode="mirror")

    axes = "zyx"[-channel.ndim :]
    factors = ",".join(f"{axis.upper()}{axis}" for axis in axes)
    matrices = blur_matrices(shape, sigmas[: len(shape)])
    result = np.einsum(f"{factors},{axes}->{axes.upper()}", *matrices, channel)

    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_coarsening_by_hand():
    # 6 voxels on 3: coarse voxels sit at 0.5, 2.5, 4.5 and take the fine voxels 1, 3, 5
    whole, halved = coarsening_matrices((4, 6), 0.5, kept_axes=(0,))

    np.testing.assert_array_equal(whole, np.eye(4))
    expected = np.zeros((6, 6))
    expected[:, 1::2] = np.array([[4, 0, 0], [3, 1, 0], [1, 3, 0], [0, 3, 1], [0, 1, 3], [0, 0, 4]]) / 4
    np.testing.assert_allclose(halved, expected, atol=1e-6)


def test_matrices_of_every_axis_meet_the_right_axis():
    image, target, seeds = make_batch((5, 8, 11), samples=2, channels=2)
    blurring = replace(NONE, blur_probability=1, blur_channel_probability=1)

    result, _ = augmentation((5, 8, 11), blurring, channels=2)(image, target, seeds)

    for sample, seed in enumerate(seeds):
        drawn = augmentation((5, 8, 11), blurring, channels=2).draw(np.random.default_rng(seed), 3)
        assert sorted(drawn.blur_sigmas) == [0, 1]
        for channel, sigmas in drawn.blur_sigmas.items():
            expected = ndimage.gaussian_filter(image[sample, channel].numpy(), sigmas, mode="mirror")
            np.testing.assert_allclose(result[sample, channel].numpy(), expected, atol=1e-5)


def test_noise_has_the_drawn_strength_in_all_channels():
    shape = (24, 30, 20)
    noisy = replace(NONE, noise_probability=1, noise_std_range=(0.05, 0.1))
    image, target, seeds = torch.zeros(3, 2, *shape), torch.zeros(3, *shape, dtype=torch.int16), np.array([5, 6, 5])

    noise, _ = augmentation(shape, noisy, channels=2)(image, target, seeds)

    for sample, seed in zip(noise, seeds, strict=True):
        std = np.random.default_rng(seed).uniform(size=2)[1] * 0.05 + 0.05  # the first number decides whether
        assert kstest((sample / std).flatten().numpy(), "norm").pvalue > 0.001
    assert torch.equal(noise[0], noise[2])
    pairs = [(noise[0, 0], noise[0, 1]), (noise[0, 0], noise[1, 0])]
    for first, second in pairs:
        assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.03


def test_result_depends_on_the_samples_seed_not_on_its_batch():
    image, target, seeds = make_batch((9, 12, 7), samples=6)
    change = augmentation((9, 12, 7), replace(OFTEN, noise_probability=0.5))

    together, labels = change(image, target, seeds)

    for sample in range(6):
        alone, alone_labels = change(
            image[sample : sample + 1], target[sample : sample + 1], seeds[sample : sample + 1]
        )
        torch.testing.assert_close(together[sample], alone[0], atol=1e-5, rtol=0)
        assert torch.equal(labels[sample], alone_labels[0])
    again, _ = change(image, target, seeds)
    assert torch.equal(again, together)


@pytest.mark.parametrize("shape", [(8, 9, 10), (12, 9)])
def test_masked_channel_is_zero_outside_and_labels_end_at_background(shape):
    image, target, seeds = make_batch(shape, channels=2)
    rules = replace(EVERY, noise_probability=1)

    result, labels = augmentation(shape, rules, channels=2, masked=(1,))(image, target, seeds)

    assert labels.dtype == torch.int16
    assert labels.min() == 0
    assert [(labels == label).sum() for label in (1, 2, 3)] == [(target == label).sum() for label in (1, 2, 3)]
    assert (result[:, 1] == 0).sum() == (target < 0).sum()
    assert (result[:, 1][labels > 0] != 0).all()
    assert (result[:, 0] != 0).all()


def test_label_maps_of_a_previous_configuration_are_only_mirrored():
    image, target, seeds = make_batch((9, 12, 7), samples=5, channels=4)
    image[:, 2:] = (image[:, 2:] > 1).float()
    change = augmentation((9, 12, 7), replace(EVERY, noise_probability=1), channels=2)

    result, _ = change(image, target, seeds)
    plain, _ = change(image[:, :2], target, seeds)

    torch.testing.assert_close(result[:, :2], plain, atol=1e-5, rtol=0)
    for sample, seed in enumerate(seeds):
        axes = change.draw(np.random.default_rng(seed), 3).mirrored_axes
        assert torch.equal(result[sample, 2:], image[sample, 2:].flip([axis + 1 for axis in axes]))


def test_mirroring_keeps_to_the_allowed_axes_and_takes_each_half_of_the_time():
    configuration = make_configuration((3, 4, 5), channels=1, mirror_axes=(0, 2))
    position = torch.arange(60, dtype=torch.int16).reshape(1, 3, 4, 5).repeat(400, 1, 1, 1)

    image, target = build_device_augmentation(configuration, replace(NONE, mirror_axis_probability=0.5))(
        position[:, None].float(), position, np.arange(400)
    )

    torch.testing.assert_close(image[:, 0], target.float())
    firsts, counts = np.unique(target[:, 0, 0, 0], return_counts=True)
    assert firsts.tolist() == [0, 4, 40, 44]
    assert (counts > 70).all()
    assert (target[:, :, 1] - target[:, :, 0] == 5).all()


def test_arguments_are_not_overwritten_and_layout_does_not_matter():
    image, target, seeds = make_batch((9, 12, 7), channels=2)
    before = image.clone(), target.clone()
    change = augmentation((9, 12, 7), EVERY, channels=2, masked=(0,))

    expected, labels = change(image, target, seeds)
    strided, strided_labels = change(image.to(memory_format=torch.channels_last_3d), target, seeds)

    assert torch.equal(image, before[0])
    assert torch.equal(target, before[1])
    assert expected.is_contiguous()
    assert strided.is_contiguous()
    assert torch.equal(strided, expected)
    assert torch.equal(strided_labels, labels)


def test_half_precision_and_gradients_stay_outside():
    image, target, seeds = make_batch((9, 12, 7))
    change = augmentation((9, 12, 7), EVERY)
    expected, _ = change(image, target, seeds)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, _ = change(image.requires_grad_(), target, seeds)

    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert torch.equal(result, expected)


def test_constant_channel_stays_as_it_is():
    rules = replace(EVERY, brightness_probability=0)

    result, _ = augmentation((8, 9, 10), rules)(
        torch.full((2, 3, 8, 9, 10), 3.5), torch.zeros(2, 8, 9, 10, dtype=torch.int16), np.array([1, 2])
    )

    torch.testing.assert_close(result, torch.full_like(result, 3.5), atol=1e-5, rtol=0)


def test_changes_are_as_frequent_as_nnunets():
    change = augmentation((40, 56, 40), None, channels=2)
    assert isinstance(change, DeviceAugmentation)

    drawn = [change.draw(np.random.default_rng(seed), 3) for seed in range(4000)]

    found = {
        "noise": np.mean([d.noise_std > 0 for d in drawn]),
        "blur": np.mean([len(d.blur_sigmas) for d in drawn]),
        "brightness": np.mean([len(d.brightness_factors) for d in drawn]),
        "contrast": np.mean([len(d.contrast_factors) for d in drawn]),
        "low resolution": np.mean([len(d.coarse_scales) for d in drawn]),
        "inverted gamma": np.mean([len(d.inverted_gammas) for d in drawn]),
        "gamma": np.mean([len(d.gammas) for d in drawn]),
        "mirror": np.mean([len(d.mirrored_axes) for d in drawn]),
    }
    # of 2 channels: both, or each with probability 1/2; of 3 axes: each with probability 1/2
    expected = {
        "noise": 0.1, "blur": 0.2, "brightness": 0.3, "contrast": 0.3,
        "low resolution": 0.25, "inverted gamma": 0.2, "gamma": 0.6, "mirror": 1.5,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=0.04)


def test_configuration_decides_about_masks_axes_and_slices():
    flat = build_device_augmentation(make_configuration((4, 16, 14), channels=3, masked=(0, 2), mirror_axes=(1, 2)))
    cube = build_device_augmentation(make_configuration((8, 9, 10), channels=1))

    assert (flat.num_channels, flat.masked_channels, flat.mirror_axes, flat.kept_axes) == (3, (0, 2), (1, 2), (0,))
    assert (cube.num_channels, cube.masked_channels, cube.mirror_axes, cube.kept_axes) == (1, (), (0, 1, 2), ())
    assert cube.rules == AugmentationRules()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(40, 56, 48), (64, 80)])
def test_gpu_gives_the_same_without_waiting(shape):
    image, target, seeds = make_batch(shape)
    change = augmentation(shape, EVERY, masked=(1,))
    expected, expected_labels = change(image, target, seeds)
    on_gpu = image.cuda(), target.cuda()
    change(*on_gpu, seeds)  # loads the libraries

    torch.cuda.set_sync_debug_mode("error")
    try:
        result, labels = change(*on_gpu, seeds)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    torch.testing.assert_close(result.cpu(), expected, atol=1e-3, rtol=0)
    assert torch.equal(labels.cpu(), expected_labels)


@pytest.mark.parametrize("shape", SHAPES)
def test_sides_change_places_as_on_the_cpu(shape):
    """With a cascade's channels of three labels after two of the image."""
    swap = SideSwap(axis=len(shape) - 1, labels=(0, 3, 2, 1, 4), heads=(0, 3, 2, 1))
    rules = replace(NONE, mirror_axis_probability=0.5)
    configuration = make_configuration(shape, channels=2)
    image, target, seeds = make_batch(shape, samples=8, channels=2)
    previous = torch.from_numpy(np.random.default_rng(5).integers(0, 4, size=target.shape).astype(np.int16))
    channels = torch.stack([previous == label for label in (1, 2, 3)], dim=1).float()

    result, labels = build_device_augmentation(configuration, rules, swap)(
        torch.cat([image, channels], dim=1), target.to(torch.int8), seeds
    )
    expected = compose_training_transforms(
        shape, masked_channels=(), mirror_axes=configuration.training.mirror_axes, rules=rules, swap=swap
    )(
        image=image.numpy().copy(), target=target.numpy().copy(), previous=previous.numpy().copy(), cases=[""] * 8,
        generators=[np.random.default_rng(seed) for seed in seeds],
    )  # fmt: skip

    assert not np.array_equal(labels.numpy(), np.maximum(target.numpy(), 0))
    np.testing.assert_array_equal(labels.numpy(), expected["target"])
    np.testing.assert_array_equal(result[:, :2].numpy(), expected["image"])
    for label in (1, 2, 3):
        np.testing.assert_array_equal(result[:, 1 + label].numpy() > 0, expected["previous"] == label)

    clicked = torch.cat([image[:, :1] * 0, channels], dim=1) / 2  # as if there were clicks all over the labels
    interactive = configuration.model_copy(update={"clicks": ClickSettings(reach_mm=3.0)})
    again, _ = build_device_augmentation(interactive, rules, swap)(
        torch.cat([image, clicked, channels], dim=1), target.to(torch.int8), seeds
    )
    assert torch.equal(again[:, 6:], result[:, 2:])
    assert torch.equal(again[:, 3:6], result[:, 2:] / 2)
    assert not again[:, 2].any()
