"""Changes of intensity: noise, blur, brightness, contrast, lost resolution, gamma.

Every change is a function that overwrites one image, (C, Z, Y, X) or (C, Y, X) float32, and draws what it needs from
the generator; `ChangeImages` applies one of them to some samples of a batch. Rules: nnU-Net v2's default augmentation.
"""

from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
import torch
import torch.nn.functional as F
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.training.data.batch import DrawnBatch

Image = NDArray[np.float32]
Range = tuple[float, float]

MIN_RANGE = 1e-7
"""Intensity range or standard deviation below which a channel counts as constant; keeps divisions finite."""

_UPSAMPLING = {2: "bilinear", 3: "trilinear"}


class ChangeImages(AbstractTransform):  # type: ignore[misc]  # batchgenerators has no type hints
    """Apply a change to the image of each sample with some probability."""

    def __init__(self, change: Callable[[Image, np.random.Generator], None], *, probability: float) -> None:
        self.change = change
        self.probability = probability

    def __call__(self, **batch: Unpack[DrawnBatch]) -> DrawnBatch:
        """Change images in place."""
        for image, generator in zip(batch["image"], batch["generators"], strict=True):
            if generator.random() < self.probability:
                self.change(image, generator)
        return batch


def add_noise(image: Image, generator: np.random.Generator, *, std_range: Range) -> None:
    """Add Gaussian noise of one strength to all channels."""
    std = generator.uniform(*std_range)
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(std)
    image += noise


def blur(image: Image, generator: np.random.Generator, *, channel_probability: float, sigma_range: Range) -> None:
    """Smooth some channels with a Gaussian, its width (voxels) drawn per channel and axis."""
    for channel in image:
        if generator.random() < channel_probability:
            sigma = generator.uniform(*sigma_range, size=channel.ndim)
            # scipy's "mirror" is what torch and nnU-Net call "reflect": the border voxel is not repeated
            ndimage.gaussian_filter(channel, sigma, mode="mirror", output=channel)


def change_brightness(image: Image, generator: np.random.Generator, *, factor_range: Range) -> None:
    """Multiply each channel by a factor of its own."""
    for channel in image:
        channel *= np.float32(draw_factor(generator, factor_range))


def change_contrast(image: Image, generator: np.random.Generator, *, factor_range: Range) -> None:
    """Stretch each channel about its mean, and clip to its old range."""
    for channel in image:
        factor = draw_factor(generator, factor_range)
        mean, lowest, highest = channel.mean(), channel.min(), channel.max()
        channel -= mean
        channel *= np.float32(factor)
        channel += mean
        np.clip(channel, lowest, highest, out=channel)


def lower_resolution(
    image: Image,
    generator: np.random.Generator,
    *,
    channel_probability: float,
    scale_range: Range,
    kept_axes: Sequence[int] = (),
) -> None:
    """Sample some channels on a coarser grid (nearest voxel) and back (linearly).

    Args:
        image: Overwritten.
        generator: Source of randomness.
        channel_probability: Probability that a channel is changed.
        scale_range: Size of the coarse grid over size of the fine one, drawn per channel, the same for all axes.
        kept_axes: Spatial axes that keep their resolution.
    """
    for channel in image:
        if generator.random() < channel_probability:
            scale = generator.uniform(*scale_range)
            coarse_shape = [
                edge if axis in kept_axes else max(1, round(edge * scale)) for axis, edge in enumerate(channel.shape)
            ]
            fine = torch.from_numpy(channel)[None, None]
            coarse = F.interpolate(fine, size=coarse_shape, mode="nearest-exact")
            fine.copy_(F.interpolate(coarse, size=channel.shape, mode=_UPSAMPLING[channel.ndim], align_corners=False))


def change_gamma(
    image: Image, generator: np.random.Generator, *, exponent_range: Range, inverted: bool = False
) -> None:
    """Raise each channel, scaled to [0, 1], to a power of its own, and restore its mean and standard deviation.

    Args:
        image: Overwritten; a constant channel stays as it is.
        generator: Source of randomness.
        exponent_range: Drawn per channel.
        inverted: Apply it to the negative image.
    """
    for channel in image:
        exponent = draw_factor(generator, exponent_range)
        if inverted:
            np.negative(channel, out=channel)
        _apply_gamma(channel, exponent)
        if inverted:
            np.negative(channel, out=channel)


def _apply_gamma(channel: Image, exponent: float) -> None:
    mean, std = channel.mean(), channel.std()
    lowest = channel.min()
    channel -= lowest
    channel /= max(channel.max(), MIN_RANGE)
    np.power(channel, np.float32(exponent), out=channel)
    # mean and standard deviation are restored next, so scaling back to the old range first would change nothing
    channel -= channel.mean()
    channel *= std / max(channel.std(), MIN_RANGE)
    channel += mean


def draw_factor(generator: np.random.Generator, factor_range: Range) -> float:
    """A factor from a range around 1: below 1 or above it with equal probability, if both are possible.

    Args:
        generator: Source of randomness.
        factor_range: Smallest and largest factor, positive.
    """
    smallest, largest = factor_range
    if smallest < 1 and generator.random() < 0.5:
        return float(generator.uniform(smallest, 1))
    return float(generator.uniform(max(smallest, 1), largest))
