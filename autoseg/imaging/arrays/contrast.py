"""Contrast of images: how intensities are distributed, and where an image is bright and dark.

Both are measured on a coarse grid, in a fraction of a second for any size: quantiles of its voxels, and signs. A sign
is a number that changes its sign where bright and dark are swapped, and that no curve of intensity changes which keeps
their order (a gamma, a gain, an offset), because it is computed from ranks. One number by itself varies between
images; several together, each as far as it is the same in all training images, say whether an image is inverted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from autoseg.imaging.arrays.cropping import nonzero_mask
from autoseg.records.contrast import CONTRAST_LEVELS, ChannelContrast

MAX_EDGE = 48
"""Cells of the coarse grid along the longest axis; shorter axes have fewer."""

MIN_CELLS = 64
"""Nonzero cells that are needed; the whole grid is measured where there are fewer."""

BLUR_SIGMAS = (0.7, 1.4, 2.8, 5.6)
"""Cells; each sign of detail is of the difference between a blur and one twice as wide."""

SIGN_FLOOR = 0.1
"""Added in quadrature to the deviation of a sign, so that few equal cases do not make it certain."""

MIN_DEVIATION = 1e-9
"""Divisors are at least this, so that a constant channel stays finite."""


@dataclass(frozen=True)
class ChannelMeasurements:
    """One channel of one image."""

    quantiles: NDArray[np.float64]
    """Intensities at CONTRAST_LEVELS, ascending."""
    standard_quantiles: NDArray[np.float64]
    """The same of intensities of mean 0 and standard deviation 1."""
    signs: NDArray[np.float64]
    """(NUM_SIGNS,)."""


def measure_contrast(image: NDArray[np.float32]) -> tuple[ChannelMeasurements, ...]:
    """Measure every channel within the nonzero part of an image.

    Args:
        image: (C, Z, Y, X), axes in working orientation; not changed, and not copied.
    """
    factors = [max(1, -(-size // MAX_EDGE)) for size in image.shape[1:]]
    cells = [size // factor for size, factor in zip(image.shape[1:], factors, strict=True)]
    thinned = np.ascontiguousarray(
        image[
            (
                slice(None),
                *(slice(factor // 2, factor * count, factor) for factor, count in zip(factors, cells, strict=True)),
            )
        ]
    )
    mask = nonzero_mask(thinned)
    if np.count_nonzero(mask) < MIN_CELLS:
        mask = np.ones_like(mask)
    return tuple(
        _measure_channel(values, _mean_of_blocks(channel, factors, cells), mask)
        for values, channel in zip(thinned, image, strict=True)
    )


def summarize_contrasts(cases: Sequence[Sequence[ChannelMeasurements | None]]) -> tuple[ChannelContrast, ...]:
    """Summarise the training images, channel by channel.

    Args:
        cases: Channels of every image, in the order of the cases; None for one that an image lacks, and at least one
            image has each.
    """
    return tuple(
        _summarize_channel([channel for channel in channels if channel is not None])
        for channels in zip(*cases, strict=True)
    )


def measure_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Mean absolute difference of standard quantiles: how far one distribution must be moved to become the other."""
    return float(np.abs(first - second).mean())


def measure_sign(signs: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> float:
    """Sign of a contrast: about 1 for an image like those with that mean, about -1 where bright and dark are swapped.

    References:
        Fisher's linear discriminant between images with the mean and those with its negative, for independent signs;
        scaled so that the mean itself has 1.
    """
    weights = mean / (deviation**2 + SIGN_FLOOR**2)
    return float(signs @ weights / max(float(mean @ weights), MIN_DEVIATION))


def _measure_channel(
    values: NDArray[np.float32], means: NDArray[np.float64], mask: NDArray[np.bool_]
) -> ChannelMeasurements:
    inside = values[mask].astype(np.float64)
    quantiles = np.quantile(inside, CONTRAST_LEVELS)
    standard = (quantiles - inside.mean()) / max(float(inside.std()), MIN_DEVIATION)
    return ChannelMeasurements(quantiles, standard, _measure_signs(means, mask))


def _mean_of_blocks(channel: NDArray[np.float32], factors: Sequence[int], cells: Sequence[int]) -> NDArray[np.float64]:
    """Means of the blocks of voxels that become one cell each; one layer of blocks in memory at a time."""
    (depth, height, width), (rows, columns) = factors, cells[1:]
    means = np.empty(tuple(cells), dtype=np.float64)
    for index in range(cells[0]):
        layer = channel[index * depth : (index + 1) * depth, : rows * height, : columns * width].mean(axis=0)
        means[index] = layer.reshape(rows, height, columns, width).mean(axis=(1, 3), dtype=np.float64)
    return means


def _measure_signs(means: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Details, as skewness and mean of differences of blurs; then where it is bright: towards the border, along axes.

    Args:
        means: Intensities on the coarse grid, (Z, Y, X).
        mask: Nonzero cells, (Z, Y, X).
    """
    ranks = np.zeros(means.shape)
    ranks[mask] = 2 * stats.rankdata(means[mask]) / np.count_nonzero(mask) - 1
    ranks[mask] -= ranks[mask].mean()
    signs = []
    for sigma in BLUR_SIGMAS:
        detail = (_blur(ranks, mask, sigma) - _blur(ranks, mask, 2 * sigma))[mask]
        width = max(float(np.sqrt(np.mean(detail**2))), MIN_DEVIATION)
        signs += [float(np.mean(detail**3)) / width**3, float(detail.mean()) / width]
    places = np.meshgrid(
        *(np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in means.shape), indexing="ij"
    )
    radius = np.linalg.norm(places, axis=0)
    signs += [_correlate(place[mask], ranks[mask]) for place in (radius, *places)]
    return np.array(signs)


def _blur(ranks: NDArray[np.float64], mask: NDArray[np.bool_], sigma: float) -> NDArray[np.float64]:
    """Gaussian mean of the cells inside the mask."""
    sigmas = [sigma if size > 1 else 0.0 for size in ranks.shape]
    weights = ndimage.gaussian_filter(mask.astype(np.float64), sigmas)
    blurred: NDArray[np.float64] = ndimage.gaussian_filter(ranks, sigmas) / np.maximum(weights, MIN_DEVIATION)
    return blurred


def _correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's correlation; 0 where one of them is constant."""
    first, second = first - first.mean(), second - second.mean()
    width = float(np.sqrt((first**2).mean() * (second**2).mean()))
    return float((first * second).mean()) / width if width > MIN_DEVIATION else 0.0


def _summarize_channel(cases: Sequence[ChannelMeasurements]) -> ChannelContrast:
    standard = np.array([case.standard_quantiles for case in cases])
    signs = np.array([case.signs for case in cases])
    has_others = len(cases) > 1
    distances = np.abs(standard - _mean_of_others(standard)).mean(axis=1) if has_others else np.zeros(1)
    return ChannelContrast(
        quantiles=_as_tuple(np.mean([case.quantiles for case in cases], axis=0)),
        standard_quantiles=_as_tuple(standard.mean(axis=0)),
        largest_distance=float(distances.max()),
        signs=_as_tuple(signs.mean(axis=0)),
        sign_deviations=_as_tuple(signs.std(axis=0)),
        sign_spread=float(np.std(_signs_by_others(signs))) if has_others else 0.0,
        num_cases=len(cases),
    )


def _signs_by_others(signs: NDArray[np.float64]) -> list[float]:
    """Sign of each case (N, S), measured by all other cases."""
    means = _mean_of_others(signs)
    deviations = np.sqrt(np.maximum(_mean_of_others(signs**2) - means**2, 0))
    return [measure_sign(*case) for case in zip(signs, means, deviations, strict=True)]


def _mean_of_others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the other rows, for every row of (N, S), N > 1."""
    mean: NDArray[np.float64] = (values.sum(axis=0) - values) / (len(values) - 1)
    return mean


def _as_tuple(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
