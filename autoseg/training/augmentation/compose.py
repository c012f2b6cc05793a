"""The order of the transforms, for training and for validation.

Rotation and scaling come before everything here: the loader applies them while it reads (`spatial.read_patch`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose

from autoseg.training.augmentation.intensity import (
    ChangeImages,
    add_noise,
    blur,
    change_brightness,
    change_contrast,
    change_gamma,
    lower_resolution,
)
from autoseg.training.augmentation.parameters import AugmentationRules, is_dummy_2d
from autoseg.training.augmentation.spatial import Mirror
from autoseg.training.batch import DrawnBatch


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


def compose_training_transforms(
    patch_size: Sequence[int], *, masked_channels: Sequence[int], mirror_axes: Sequence[int], rules: AugmentationRules
) -> Compose:
    """Everything between reading a training batch and the loss.

    Args:
        patch_size: Voxels, (z, y, x) or (y, x).
        masked_channels: Channels that were normalised inside the nonzero mask, and are 0 outside.
        mirror_axes: Spatial axes of the patch that may be mirrored.
        rules: Probabilities and ranges.

    References:
        nnU-Net v2 (order, probabilities and ranges as published).
    """
    return Compose(
        [
            *_intensity_transforms(patch_size, rules),
            Mirror(mirror_axes, probability=rules.mirror_axis_probability),
            ZeroOutsideMask(masked_channels),
            OutsideToBackground(),
        ]
    )


def compose_validation_transforms() -> Compose:
    """Everything between reading a validation batch and the loss: no augmentation."""
    return Compose([OutsideToBackground()])


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
