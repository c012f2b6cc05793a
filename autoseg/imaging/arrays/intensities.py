"""Intensities of cases: their statistics over a dataset, and the normalisation of one image.

Statistics take one pass and bounded memory: moments, and quantiles by a sketch of fixed size. Each case hands over an
`IntensitySummary`; an `IntensityPool` merges the summaries with equal weight per case, as if the same number of voxels
had been drawn from every case. Example: a case of 10 voxels and a case of 10 million count the same, and 100,000 cases
need no more memory than 100.

Normalisation works channel by channel, at native resolution. The plan says which scheme; `normalize_image` applies it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import DatasetError
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.network import NormalizationSpec

SKETCH_POINTS = 2001
"""Quantiles kept per case: the 0.5 percentile of a case lies on its 10th smallest of them."""
POOL_POINTS = 16_384
"""Quantiles the pool is thinned to; each thinning moves a rank by at most 1 / 32,768."""
MAX_POOL_POINTS = 64 * SKETCH_POINTS
"""The pool is thinned when it holds more points than this."""

MIN_DIVISOR = 1e-8
"""Smallest divisor, so that a constant image stays finite."""


@dataclass(frozen=True)
class Moments:
    """Mean and population variance of values that together have a weight."""

    weight: float
    mean: float
    variance: float

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both together.

        References:
            Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", pairwise update.
        """
        weight = self.weight + other.weight
        if weight == 0:
            return self
        fraction = other.weight / weight
        difference = other.mean - self.mean
        variance = (
            (1 - fraction) * self.variance + fraction * other.variance + fraction * (1 - fraction) * difference**2
        )
        return Moments(weight, self.mean + fraction * difference, variance)


@dataclass(frozen=True)
class IntensitySummary:
    """The foreground intensities of one channel of one case, in a few kilobytes."""

    moments: Moments
    """Mean and variance with weight 1: every case counts the same."""
    minimum: float
    maximum: float
    quantiles: NDArray[np.float32]
    """Intensities in ascending order, (Q,), Q <= SKETCH_POINTS; each stands for 1 / Q of the voxels."""


def compute_moments(parts: Iterable[NDArray[np.float32]]) -> Moments:
    """Moments of all values of all parts, accumulated in float64; the weight is the number of values.

    Only one part at a time is held in float64. Weight, mean and variance are 0 without any value.
    """
    moments = Moments(0.0, 0.0, 0.0)
    for part in parts:
        if part.size:
            values = part.astype(np.float64)
            moments = moments.merged(Moments(float(values.size), float(values.mean()), float(values.var())))
    return moments


def summarize_intensities(values: NDArray[np.float32]) -> IntensitySummary:
    """Summarise the foreground of one channel of one case.

    Args:
        values: Intensities, (N,), N > 0, finite.

    Returns:
        The summary; with up to SKETCH_POINTS values it keeps them all.
    """
    ordered = np.sort(values)
    moments = compute_moments(np.array_split(ordered, 1 + ordered.size // 1_000_000))
    if ordered.size > SKETCH_POINTS:
        levels = (np.arange(SKETCH_POINTS) + 0.5) / SKETCH_POINTS
        quantiles = ordered[(levels * ordered.size).astype(np.int64)]
    else:
        quantiles = ordered
    return IntensitySummary(
        Moments(1.0, moments.mean, moments.variance), float(ordered[0]), float(ordered[-1]), quantiles
    )


class IntensityPool:
    """Summaries of cases merged with equal weight; the result depends on their order, so add them in a fixed one."""

    def __init__(self) -> None:
        self._moments = Moments(0.0, 0.0, 0.0)
        self._minimum = np.inf
        self._maximum = -np.inf
        self._values: list[NDArray[np.float32]] = []
        self._weights: list[NDArray[np.float64]] = []
        self._num_points = 0

    def add(self, summary: IntensitySummary) -> None:
        """Add one case."""
        self._moments = self._moments.merged(summary.moments)
        self._minimum = min(self._minimum, summary.minimum)
        self._maximum = max(self._maximum, summary.maximum)
        self._keep(summary.quantiles, np.full(summary.quantiles.size, 1 / summary.quantiles.size))
        if self._num_points > MAX_POOL_POINTS:
            self._thin()

    def is_empty(self) -> bool:
        """Whether no case has been added."""
        return self._num_points == 0

    def statistics(self) -> IntensityStatistics:
        """Statistics of the pool.

        Raises:
            ValueError: If no case was added.
        """
        if self.is_empty():
            raise ValueError("the pool is empty: there are no intensities to compute statistics of")
        low, median, high = self._quantiles(np.array([0.005, 0.5, 0.995]))
        return IntensityStatistics(
            mean=self._moments.mean,
            median=float(median),
            std=float(np.sqrt(self._moments.variance)),
            minimum=self._minimum,
            maximum=self._maximum,
            percentile_00_5=float(low),
            percentile_99_5=float(high),
        )

    def _keep(self, values: NDArray[np.float32], weights: NDArray[np.float64]) -> None:
        self._values.append(values)
        self._weights.append(weights)
        self._num_points += values.size

    def _thin(self) -> None:
        total = sum(float(weights.sum()) for weights in self._weights)
        values = self._quantiles((np.arange(POOL_POINTS) + 0.5) / POOL_POINTS)
        self._values, self._weights, self._num_points = [], [], 0
        self._keep(values.astype(np.float32), np.full(POOL_POINTS, total / POOL_POINTS))

    def _quantiles(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted quantiles: a point of weight w lies in the middle of its w ranks."""
        values, weights = np.concatenate(self._values), np.concatenate(self._weights)
        order = np.argsort(values, kind="stable")
        values, weights = values[order], weights[order]
        ranks = (np.cumsum(weights) - weights / 2) / weights.sum()
        return np.interp(levels, ranks, values)


def normalize_image(
    image: NDArray[np.float32], inside: NDArray[np.bool_] | None, specs: Sequence[NormalizationSpec]
) -> None:
    """Normalise every channel; overwrites `image`.

    Args:
        image: (C, Z, Y, X).
        inside: The nonzero mask on the same grid, (Z, Y, X); None is enough when no spec uses it.
        specs: One normalisation per channel.

    Raises:
        DatasetError: If there is not one spec per channel, or a channel called RGB has values outside 0..255.

    References:
        nnU-Net v2 (Isensee et al. 2021, Nature Methods), intensity normalisation: z-score per case, CT by the
        dataset's foreground statistics. Differs: a case without any voxel inside the mask becomes zeros, not NaN.
    """
    if len(specs) != image.shape[0]:
        raise DatasetError(
            f"the image has {image.shape[0]} channel(s), but the plan normalises {len(specs)}. "
            "Give the channels that the plan was made for, in its order"
        )
    for index, (channel, spec) in enumerate(zip(image, specs, strict=True)):
        match spec.scheme:
            case "zscore":
                _standardize(channel, inside if spec.use_mask else None)
            case "ct":
                np.clip(channel, spec.lower, spec.upper, out=channel)
                channel -= spec.mean
                channel /= max(spec.std, MIN_DIVISOR)
            case "rescale_0_1":
                channel -= channel.min()
                channel /= max(float(channel.max()), MIN_DIVISOR)
            case "rgb_0_1":
                _check_picture_range(channel, index)
                channel /= 255
            case "none":
                pass


def _standardize(channel: NDArray[np.float32], inside: NDArray[np.bool_] | None) -> None:
    """Subtract the mean and divide by the population standard deviation; voxels outside the mask become 0."""
    if inside is None:
        moments = compute_moments(channel)
    else:
        moments = compute_moments(plane[kept] for plane, kept in zip(channel, inside, strict=True))
    channel -= moments.mean
    channel /= max(float(np.sqrt(moments.variance)), MIN_DIVISOR)
    if inside is not None:
        channel[~inside] = 0


def _check_picture_range(channel: NDArray[np.float32], index: int) -> None:
    lowest, highest = float(channel.min()), float(channel.max())
    if lowest < 0 or highest > 255:
        raise DatasetError(
            f"channel {index}: values from {lowest:g} to {highest:g} found, but RGB must stay within 0..255; "
            "rename the channel (any other name gives z-score) and plan again"
        )
