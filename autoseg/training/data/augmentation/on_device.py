"""Intensity changes and mirroring of a whole batch on the training device, so that workers only read and rotate.

Drawing and applying are apart. What happens to a sample is drawn on the CPU from the sample's own seed: the same
decisions in the same order as the transforms of `compose` take from a generator with that seed. All channels that a
change is due for are then changed together by a few tensor operations, none of which waits for the device.

Blur and lost resolution are linear along each axis, so both are one matrix product per axis, with a matrix per channel:
widths and sizes may differ from channel to channel, and no convolution is tuned again for every number of channels.

Worked example: of 2 samples with 3 channels, sample 1 is blurred in its channels 0 and 2. These are rows 3 and 5 of the
6 channels of the batch; a patch (40, 56, 48) takes three products, with matrices (2, 40, 40), (2, 56, 56), (2, 48, 48).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from autoseg.networks.device_types import device_type
from autoseg.records.plan import Configuration, count_presence_planes, count_slices, masked_channels
from autoseg.records.sides import SideSwap
from autoseg.training.data.augmentation.intensity import MIN_RANGE, Range, draw_factor
from autoseg.training.data.augmentation.parameters import AugmentationRules, is_dummy_2d
from autoseg.training.data.sampling import OUTSIDE_LABEL

Value = TypeVar("Value")

ByChannel = dict[int, Value]
"""What a change needs, by the channels that it is due for."""

Matrices = list[NDArray[np.float32]]
"""One per spatial axis, (N, N) for an axis of N voxels: the weights of the old voxels (columns) in the new ones."""


@dataclass(frozen=True)
class DrawnChanges:
    """What happens to one sample, in the order of the fields."""

    noise_std: float
    """0: no noise."""
    blur_sigmas: ByChannel[NDArray[np.float64]]
    """Voxels, one width per axis."""
    brightness_factors: ByChannel[float]
    contrast_factors: ByChannel[float]
    coarse_scales: ByChannel[float]
    """Size of the coarse grid over the size of the patch."""
    inverted_gammas: ByChannel[float]
    gammas: ByChannel[float]
    mirrored_axes: tuple[int, ...]


@dataclass(frozen=True)
class DeviceAugmentation:
    """Everything between reading a training batch and the loss.

    References:
        nnU-Net v2 (order, probabilities and ranges as published).
    """

    rules: AugmentationRules
    num_channels: int
    """Image channels; later ones, label maps of a cascade's previous configuration and clicks, are mirrored and nothing
    else."""
    masked_channels: tuple[int, ...]
    """Channels of the patch itself that were normalised inside the nonzero mask, and are 0 outside."""
    mirror_axes: tuple[int, ...]
    """Spatial axes of the patch that may be mirrored."""
    kept_axes: tuple[int, ...]
    """Spatial axes that keep their resolution."""
    swap: SideSwap | None = None
    """Labels that change places where its axis is mirrored; None: none do."""
    num_planes: int = 0
    """Planes at the end, one for each image channel of a slice: where one is 0, its channel becomes 0; 0: none are."""
    has_clicks: bool = False
    """Whether there are channels of clicks before those of the previous configuration's labels."""

    @torch.no_grad()
    def __call__(self, image: Tensor, target: Tensor, seeds: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Change a batch; the arguments are not overwritten.

        Args:
            image: (B, C, Z, Y, X) or (B, C, Y, X), float32, in any memory layout.
            target: Label indices, (B, Z, Y, X) or (B, Y, X), int16; -1 outside the nonzero mask.
            seeds: One per sample, not negative; what happens to a sample depends on its seed alone.

        Returns:
            Image, contiguous, and target, in which -1 has become background.
        """
        drawn = [self.draw(np.random.default_rng(seed), image.ndim - 2) for seed in seeds]
        image = image.clone(memory_format=torch.contiguous_format)
        target = target.clone()
        for sample, changes, seed in zip(image, drawn, seeds, strict=True):
            if changes.noise_std > 0:
                _add_noise(sample[: self.num_channels], changes.noise_std, int(seed))
        # in half precision the matrix products would round intensities to three digits
        with torch.autocast(image.device.type, enabled=False):
            _change_channels(image.flatten(0, 1), drawn, image.shape[1], self.kept_axes)
        mirrored_axes = [changes.mirrored_axes for changes in drawn]
        _mirror((image, target), mirrored_axes, image.ndim - 2)
        if self.swap is not None:
            swapped = [sample for sample, axes in enumerate(mirrored_axes) if self.swap.axis in axes]
            appended = image[:, self.num_channels : image.shape[1] - self.num_planes]
            _swap_sides(appended, target, swapped, self.swap, has_clicks=self.has_clicks)
        for channel in self.masked_channels:
            image[:, channel].masked_fill_(target < 0, 0.0)
        for plane in range(self.num_planes):
            image[:, plane : self.num_channels : self.num_planes] *= image[:, plane - self.num_planes].unsqueeze(1)
        return image, target.clamp_(min=0)

    def draw(self, generator: np.random.Generator, num_axes: int) -> DrawnChanges:
        """Decide what happens to one sample.

        Args:
            generator: Source of randomness. The noise does not come from it, only the noise's strength.
            num_axes: Spatial axes of the patch, 2 or 3.
        """
        rules = self.rules

        def factors(probability: float, factor_range: Range) -> ByChannel[float]:
            return self._draw_by_channel(generator, probability, lambda: draw_factor(generator, factor_range))

        is_noisy = generator.random() < rules.noise_probability
        return DrawnChanges(
            noise_std=generator.uniform(*rules.noise_std_range) if is_noisy else 0.0,
            blur_sigmas=self._draw_by_channel(
                generator,
                rules.blur_probability,
                lambda: generator.uniform(*rules.blur_sigma_range, size=num_axes),
                rules.blur_channel_probability,
            ),
            brightness_factors=factors(rules.brightness_probability, rules.brightness_range),
            contrast_factors=factors(rules.contrast_probability, rules.contrast_range),
            coarse_scales=self._draw_by_channel(
                generator,
                rules.low_resolution_probability,
                lambda: generator.uniform(*rules.low_resolution_range),
                rules.low_resolution_channel_probability,
            ),
            inverted_gammas=factors(rules.inverted_gamma_probability, rules.gamma_range),
            gammas=factors(rules.gamma_probability, rules.gamma_range),
            mirrored_axes=tuple(
                axis for axis in self.mirror_axes if generator.random() < rules.mirror_axis_probability
            ),
        )

    def _draw_by_channel(
        self,
        generator: np.random.Generator,
        probability: float,
        draw_value: Callable[[], Value],
        channel_probability: float | None = None,
    ) -> ByChannel[Value]:
        """A value for all channels, or for some by chance, if the change is due at all."""
        if generator.random() >= probability:
            return {}
        return {
            channel: draw_value()
            for channel in range(self.num_channels)
            if channel_probability is None or generator.random() < channel_probability
        }


def build_device_augmentation(
    configuration: Configuration, rules: AugmentationRules | None = None, swap: SideSwap | None = None
) -> DeviceAugmentation:
    """The device's part of a configuration's training augmentation.

    Args:
        configuration: Patch, mirror axes, channels with a mask.
        rules: Probabilities and ranges; None: nnU-Net's.
        swap: Labels that change places where its axis is mirrored; None: none do.
    """
    return DeviceAugmentation(
        rules=rules or AugmentationRules(),
        num_channels=count_slices(configuration) * len(configuration.normalization),
        masked_channels=masked_channels(configuration),
        mirror_axes=configuration.training.mirror_axes,
        kept_axes=(0,) if is_dummy_2d(configuration.patch_size) else (),
        swap=swap,
        num_planes=count_presence_planes(configuration),
        has_clicks=configuration.clicks is not None,
    )


def _add_noise(image: Tensor, std: float, seed: int) -> None:
    generator = torch.Generator(image.device).manual_seed(seed)
    image.add_(torch.randn(image.shape, generator=generator, device=image.device), alpha=std)


def _change_channels(
    rows: Tensor, drawn: Sequence[DrawnChanges], total_channels: int, kept_axes: Sequence[int]
) -> None:
    """Everything from blur to gamma.

    Args:
        rows: All channels of the batch, (B * C, *S); overwritten.
        drawn: Drawn parameters of each sample.
        total_channels: C, channels that no change is drawn for included.
        kept_axes: Spatial axes that keep their resolution.
    """

    def by_row(by_sample: Iterable[ByChannel[Value]]) -> dict[int, Value]:
        return {
            sample * total_channels + channel: value
            for sample, by_channel in enumerate(by_sample)
            for channel, value in by_channel.items()
        }

    shape = tuple(rows.shape[1:])
    blurs = by_row(changes.blur_sigmas for changes in drawn)
    _multiply_axes(rows, {row: blur_matrices(shape, sigmas) for row, sigmas in blurs.items()})
    _apply(rows, by_row(changes.brightness_factors for changes in drawn), torch.mul)
    _apply(rows, by_row(changes.contrast_factors for changes in drawn), _stretch)
    scales = by_row(changes.coarse_scales for changes in drawn)
    _multiply_axes(rows, {row: coarsening_matrices(shape, scale, kept_axes) for row, scale in scales.items()})
    _apply(rows, by_row(changes.inverted_gammas for changes in drawn), lambda old, gamma: -_power(-old, gamma))
    _apply(rows, by_row(changes.gammas for changes in drawn), _power)


def blur_matrices(shape: Sequence[int], sigmas: Iterable[float]) -> Matrices:
    """Gaussian smoothing along each axis, mirrored at the border voxels.

    Args:
        shape: Shape of the patch, voxels.
        sigmas: One width per axis, voxels.
    """
    return [
        ndimage.gaussian_filter1d(np.eye(edge, dtype=np.float32), sigma, mode="mirror").T
        for edge, sigma in zip(shape, sigmas, strict=True)
    ]


def coarsening_matrices(shape: Sequence[int], scale: float, kept_axes: Sequence[int]) -> Matrices:
    """Sampling on a coarser grid (nearest voxel) and back (linearly) along each axis.

    Args:
        shape: Shape of the patch, voxels.
        scale: Size of the coarse grid over that of the patch.
        kept_axes: Axes that keep their resolution.
    """
    matrices = []
    for axis, edge in enumerate(shape):
        coarse_edge = edge if axis in kept_axes else max(1, round(edge * scale))
        coarse = F.interpolate(torch.eye(edge)[None], size=coarse_edge, mode="nearest-exact")
        matrices.append(F.interpolate(coarse, size=edge, mode="linear", align_corners=False)[0].T.numpy())
    return matrices


def _multiply_axes(rows: Tensor, matrices: Mapping[int, Matrices]) -> None:
    """Replace some rows, (*S), by their products with one matrix per axis."""
    if not matrices:
        return
    chosen = _to_device(np.array(list(matrices)), rows.device)
    changed = rows[chosen]
    for of_axis in zip(*matrices.values(), strict=True):
        # takes the first axis away and appends the new one: after all products the order is the old one again
        product = changed.flatten(2).mT @ _to_device(np.stack(of_axis), rows.device).mT  # (R, rest, N)
        changed = product.view(len(product), *changed.shape[2:], -1)
    rows[chosen] = changed


def _apply(rows: Tensor, values: Mapping[int, float], change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace some rows by `change` of their voxels, (R, V), and their values, (R, 1)."""
    if not values:
        return
    chosen = _to_device(np.array(list(values)), rows.device)
    column = _to_device(np.array(list(values.values()), dtype=np.float32), rows.device)[:, None]
    old = rows[chosen]
    rows[chosen] = change(old.flatten(1), column).view_as(old)


def _stretch(old: Tensor, factor: Tensor) -> Tensor:
    """Contrast: about the mean, clipped to the old range."""
    lowest, highest = old.amin(dim=1, keepdim=True), old.amax(dim=1, keepdim=True)
    return torch.lerp(old.mean(dim=1, keepdim=True), old, factor).clamp_(lowest, highest)


def _power(old: Tensor, exponent: Tensor) -> Tensor:
    """Gamma: scaled to [0, 1], raised to a power, mean and standard deviation restored."""
    mean = old.mean(dim=1, keepdim=True)
    changed = old - mean
    std = _root_mean_square(changed)
    changed -= changed.amin(dim=1, keepdim=True)
    changed /= changed.amax(dim=1, keepdim=True).clamp_(min=MIN_RANGE)
    changed.pow_(exponent)
    changed -= changed.mean(dim=1, keepdim=True)
    changed *= std / _root_mean_square(changed).clamp_(min=MIN_RANGE)
    return changed.add_(mean)


def _root_mean_square(centred: Tensor) -> Tensor:
    """Standard deviation by row, (R, 1); torch's norm and std are less exact or slower on millions of voxels."""
    return centred.square().mean(dim=1, keepdim=True).sqrt_()


def _mirror(tensors: Iterable[Tensor], axes_by_sample: Sequence[tuple[int, ...]], num_axes: int) -> None:
    """Mirror samples in place; those with the same axes together."""
    samples_by_axes: dict[tuple[int, ...], list[int]] = {}
    for sample, axes in enumerate(axes_by_sample):
        samples_by_axes.setdefault(axes, []).append(sample)
    samples_by_axes.pop((), None)
    for tensor in tensors:
        for axes, samples in samples_by_axes.items():
            chosen = _to_device(np.array(samples), tensor.device)
            tensor[chosen] = tensor[chosen].flip([axis - num_axes for axis in axes])


def _swap_sides(previous: Tensor, target: Tensor, samples: Sequence[int], swap: SideSwap, *, has_clicks: bool) -> None:
    """Let the labels of some samples change places, in place.

    Args:
        previous: Channels of a cascade's previous labels, one for each label index from 1, (B, N, *S); N may be 0. In
            front of them those of clicks, if there are any, one for each label index from 0.
        target: Label indices, -1 outside the nonzero mask, (B, *S).
        samples: Positions in the batch.
        swap: What changes places.
        has_clicks: Whether there are channels of clicks.
    """
    if not samples:
        return
    chosen = _to_device(np.array(samples), target.device)
    after = _to_device(np.array([*swap.labels, OUTSIDE_LABEL]), target.device).to(target.dtype)
    target[chosen] = after[target[chosen].long()]  # the index -1 is that of the last one
    num_labels = previous.shape[1] // 2 if has_clicks else previous.shape[1]
    clicks = swap.labels[: num_labels + 1] if has_clicks else ()
    labels = [len(clicks) + label - 1 for label in swap.labels[1 : num_labels + 1]]
    sources = _to_device(np.array([*clicks, *labels], dtype=np.int64), target.device)
    previous[chosen] = previous[chosen][:, sources]


def _to_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy that does not wait for the device: for a GPU from pinned memory."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device_type(device).has_streams else tensor.to(device)
