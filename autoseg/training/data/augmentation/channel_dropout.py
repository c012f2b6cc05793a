"""Samples that lose channels, so that networks learn to do without, and the planes that say which ones are there."""

from typing import Unpack

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray

from autoseg.training.data.batch import DrawnBatch


class DropChannels(AbstractTransform):  # type: ignore[misc]  # batchgenerators has no type hints
    """Take channels away at random, set absent ones to 0 and append a constant plane for each channel."""

    def __init__(self, probability: float, num_slices: int) -> None:
        """Nothing is drawn yet.

        Args:
            probability: That a sample loses channels; 0: those that its case has stay.
            num_slices: Slices whose channels a sample has, one after the other.
        """
        self.probability = probability
        self.num_slices = num_slices

    def __call__(self, **batch: Unpack[DrawnBatch]) -> DrawnBatch:
        """Replace `image`; it has (num_slices + 1) * C channels and the label maps of a cascade then."""
        presence = np.stack([
            drop_channels(present, self.probability, generator)
            for present, generator in zip(batch["presence"], batch["generators"], strict=True)
        ])  # fmt: skip
        for image, present in zip(batch["image"], presence, strict=True):
            image[: self.num_slices * len(present)][np.tile(~present, self.num_slices)] = 0
        spatial = batch["image"].shape[2:]
        planes = presence.reshape(*presence.shape, *[1] * len(spatial))
        planes = np.broadcast_to(planes, (*presence.shape, *spatial))
        batch["image"] = np.concatenate([batch["image"], planes], axis=1, dtype=np.float32)
        return batch


def drop_channels(present: NDArray[np.bool_], probability: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which channels of a sample stay.

    Args:
        present: Whether the case has each channel, (C,).
        probability: That it loses any. How many of its n channels stay is drawn from 1 to n - 1, then which.
        generator: Source of randomness.

    Returns:
        (C,); at least one channel stays.
    """
    channels = np.flatnonzero(present)
    if probability == 0 or len(channels) < 2 or generator.random() >= probability:
        return present
    stays = np.zeros_like(present)
    stays[generator.choice(channels, size=generator.integers(1, len(channels)), replace=False)] = True
    return stays
