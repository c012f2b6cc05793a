"""The order of the transforms, for training, with or without a part on the device, and for validation.

Rotation and scaling come before everything here: the loader applies them while it reads (`spatial.read_patch`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose

from autoseg.records.plan import Configuration, count_slices, masked_channels
from autoseg.records.sides import SideSwap
from autoseg.training.data.augmentation.channel_dropout import DropChannels
from autoseg.training.data.augmentation.clicks import AppendClickMaps
from autoseg.training.data.augmentation.intensity import (
    ChangeImages,
    add_noise,
    blur,
    change_brightness,
    change_contrast,
    change_gamma,
    lower_resolution,
)
from autoseg.training.data.augmentation.parameters import AugmentationRules, is_dummy_2d
from autoseg.training.data.augmentation.previous_labels import AppendPreviousLabels, DistortPreviousLabels
from autoseg.training.data.augmentation.random_contrast import change_contrast_randomly
from autoseg.training.data.augmentation.spatial import Mirror
from autoseg.training.data.batch import DrawnBatch


class ZeroOutsideMask(AbstractTransform):  # type: ignore[misc]  # batchgenerators has no type hints
    """Set channels to 0 where the label is -1: blur and noise must not reach outside the nonzero mask."""

    def __init__(self, channels: Sequence[int]) -> None:
        self.channels = tuple(channels)

    def __call__(self, **batch: Unpack[DrawnBatch]) -> DrawnBatch:
        """Overwrite images."""
        is_outside = batch["target"] < 0
        for channel in self.channels:
            batch["image"][:, channel][is_outside] = 0
        return batch


class OutsideToBackground(AbstractTransform):  # type: ignore[misc]  # batchgenerators has no type hints
    """Turn the label -1 into background, which the loss knows."""

    def __call__(self, **batch: Unpack[DrawnBatch]) -> DrawnBatch:
        """Overwrite targets."""
        np.maximum(batch["target"], 0, out=batch["target"])
        return batch


class DrawSeeds(AbstractTransform):  # type: ignore[misc]  # batchgenerators has no type hints
    """Give each sample the seed from which the device draws what happens to it."""

    def __call__(self, **batch: Unpack[DrawnBatch]) -> DrawnBatch:
        """Add `seeds`."""
        largest = np.iinfo(np.int64).max
        batch["seeds"] = np.array([generator.integers(largest) for generator in batch["generators"]], dtype=np.int64)
        return batch


def compose_transforms(
    configuration: Configuration,
    rules: AugmentationRules | None,
    *,
    num_previous_labels: int = 0,
    intensity_on_device: bool = False,
    swap: SideSwap | None = None,
) -> Compose:
    """Everything between reading a batch and handing it over.

    Args:
        configuration: Patch, mirror axes, channels with a mask; whether images may lack channels.
        rules: Probabilities and ranges; None: no augmentation, as in validation.
        num_previous_labels: Foreground labels of the cascade's previous configuration; 0: no cascade.
        intensity_on_device: The device continues with `DeviceAugmentation`.
        swap: Labels that change places where its axis is mirrored; None: none do.
    """
    augmenting = _compose_with_all_channels(configuration, rules, num_previous_labels, intensity_on_device, swap)
    if not configuration.channel_presence:
        return augmenting
    probability = 0.0 if rules is None else configuration.training.channel_dropout
    return Compose([augmenting, DropChannels(probability, count_slices(configuration))])


def _compose_with_all_channels(
    configuration: Configuration,
    rules: AugmentationRules | None,
    num_previous_labels: int,
    intensity_on_device: bool,
    swap: SideSwap | None,
) -> Compose:
    clicks = _click_transforms(configuration, num_previous_labels)
    if rules is None:
        return compose_validation_transforms(num_previous_labels=num_previous_labels, clicks=clicks)
    if intensity_on_device:
        return compose_transforms_before_device(rules=rules, num_previous_labels=num_previous_labels, clicks=clicks)
    return compose_training_transforms(
        configuration.patch_size,
        masked_channels=masked_channels(configuration),
        mirror_axes=configuration.training.mirror_axes,
        rules=rules,
        num_previous_labels=num_previous_labels,
        clicks=clicks,
        swap=swap,
    )


def compose_training_transforms(
    patch_size: Sequence[int],
    *,
    masked_channels: Sequence[int],
    mirror_axes: Sequence[int],
    rules: AugmentationRules,
    num_previous_labels: int = 0,
    clicks: Sequence[AppendClickMaps] = (),
    swap: SideSwap | None = None,
) -> Compose:
    """Everything between reading a training batch and the loss.

    Args:
        patch_size: Voxels, (z, y, x) or (y, x).
        masked_channels: Channels that were normalised inside the nonzero mask, and are 0 outside.
        mirror_axes: Spatial axes of the patch that may be mirrored.
        rules: Probabilities and ranges.
        num_previous_labels: Foreground labels of the cascade's previous configuration; 0: no cascade.
        clicks: What draws clicks that correct its label map, if anything does.
        swap: Labels that change places where its axis is mirrored; None: none do.

    References:
        nnU-Net v2 (order, probabilities and ranges as published).
    """
    return Compose(
        [
            *_random_contrasts(rules),
            *_intensity_transforms(patch_size, rules),
            Mirror(mirror_axes, probability=rules.mirror_axis_probability, swap=swap),
            ZeroOutsideMask(masked_channels),
            OutsideToBackground(),
            *_previous_label_transforms(num_previous_labels, rules, clicks),
        ]
    )


def compose_transforms_before_device(
    *, rules: AugmentationRules, num_previous_labels: int = 0, clicks: Sequence[AppendClickMaps] = ()
) -> Compose:
    """What is done to a training batch before the device continues with `DeviceAugmentation`.

    A cascade's label maps are appended before they are mirrored there, which gives the same distribution.

    Args:
        rules: Probabilities and ranges.
        num_previous_labels: Foreground labels of the cascade's previous configuration; 0: no cascade.
        clicks: What draws clicks that correct its label map, if anything does.
    """
    previous = _previous_label_transforms(num_previous_labels, rules, clicks)
    return Compose([*_random_contrasts(rules), *previous, DrawSeeds()])


def compose_validation_transforms(*, num_previous_labels: int = 0, clicks: Sequence[AppendClickMaps] = ()) -> Compose:
    """Everything between reading a validation batch and the loss: no augmentation.

    Args:
        num_previous_labels: Foreground labels of the cascade's previous configuration; 0: no cascade.
        clicks: What draws clicks that correct its label map, if anything does.
    """
    return Compose([OutsideToBackground(), *_previous_label_transforms(num_previous_labels, None, clicks)])


def _click_transforms(configuration: Configuration, num_labels: int) -> list[AppendClickMaps]:
    if configuration.clicks is None or num_labels == 0:
        return []
    return [AppendClickMaps(num_labels, configuration.spacing, configuration.clicks)]


def _previous_label_transforms(
    num_labels: int, rules: AugmentationRules | None, clicks: Sequence[AppendClickMaps]
) -> list[AbstractTransform]:
    if num_labels == 0:
        return []
    if clicks:  # the mistakes are those that a user will see; others would teach what to do about others
        return [*clicks, AppendPreviousLabels(num_labels)]
    distortions = [] if rules is None else [DistortPreviousLabels(num_labels, rules)]
    return [*distortions, AppendPreviousLabels(num_labels)]


def _random_contrasts(rules: AugmentationRules) -> list[ChangeImages]:
    probability = rules.random_contrast_probability
    return [ChangeImages(change_contrast_randomly, probability=probability)] if probability else []


def _intensity_transforms(patch_size: Sequence[int], rules: AugmentationRules) -> list[ChangeImages]:
    resolution = partial(
        lower_resolution,
        channel_probability=rules.low_resolution_channel_probability,
        scale_range=rules.low_resolution_range,
        kept_axes=(0,) if is_dummy_2d(patch_size) else (),
    )
    smoothing = partial(blur, channel_probability=rules.blur_channel_probability, sigma_range=rules.blur_sigma_range)
    gamma = partial(change_gamma, exponent_range=rules.gamma_range)
    return [
        ChangeImages(partial(add_noise, std_range=rules.noise_std_range), probability=rules.noise_probability),
        ChangeImages(smoothing, probability=rules.blur_probability),
        ChangeImages(
            partial(change_brightness, factor_range=rules.brightness_range), probability=rules.brightness_probability
        ),
        ChangeImages(
            partial(change_contrast, factor_range=rules.contrast_range), probability=rules.contrast_probability
        ),
        ChangeImages(resolution, probability=rules.low_resolution_probability),
        ChangeImages(partial(gamma, inverted=True), probability=rules.inverted_gamma_probability),
        ChangeImages(gamma, probability=rules.gamma_probability),
    ]
