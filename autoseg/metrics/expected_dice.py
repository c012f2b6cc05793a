"""Dice that a label map is expected to have without its reference: a small regression with conformal intervals.

    probabilities --> promised overlap, volume, entropy --corrected by held-out cases--> expected Dice, interval

The promised overlap is the Dice that follows if the probabilities are true. Held-out cases say how far off it is, and
whether volume and entropy tell more. Both are logits here, so that nothing leaves [0, 1]; the correction is shrunk
towards a shift of the promised overlap, so that a dozen cases are enough.

Tested in tests/metrics/test_expected_dice.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from autoseg.records.confidence import Correction, DiceModel, ExpectedDice

MIN_CASES = 10
"""With fewer cases no interval of this coverage exists: one in n + 1 cases exceeds the largest of n residuals."""
COVERAGE = 0.9
"""Fraction of cases whose Dice is to lie in the interval."""
RIDGE = 20.0
"""Number of cases that the assumption weighs that the promised overlap needs a shift and no other correction."""
LARGEST = 0.98
"""Largest Dice and overlap that are told apart, and one minus the smallest, so that logits are finite."""
MAX_DEVIATIONS = 3.0
"""Volume and entropy count up to this many standard deviations from the mean: nothing is known beyond."""
SPREAD_FLOOR = 0.02
"""Smallest spread of residuals: reference label maps are not that exact."""
MIN_DEVIATION = 1e-6
"""Smallest standard deviation, for measurements that do not vary."""


@dataclass(frozen=True)
class LabelSums:
    """Sums over the voxels of a case for one label or region; see `inference.sinks.label_sums`."""

    predicted_voxels: float
    """Voxels that the networks decide for."""
    predicted_sum: float
    """Sum of their probabilities."""
    probability_sum: float
    """Sum of the probabilities of all likely voxels."""
    entropy_sum: float
    """Sum of the binary entropies of all likely voxels, nats."""
    voxel_mm3: float
    """Volume of a voxel; pixels of 2D images without spacing count 1."""

    @property
    def measurements(self) -> tuple[float, float, float]:
        """Promised overlap, logarithm of the volume, entropy per predicted voxel; NaN if nothing is predicted.

        The overlap is 2 sum(p over M) / (|M| + sum(p)) of the predicted voxels M: the ratio of the expectations of
        both parts of the Dice, which is close to the expectation of the ratio for more than a few voxels.
        """
        if not self.predicted_voxels:
            return math.nan, math.nan, math.nan
        return (
            2 * self.predicted_sum / (self.predicted_voxels + self.probability_sum),
            math.log(self.predicted_voxels * self.voxel_mm3),
            self.entropy_sum / self.predicted_voxels,
        )


def fit_dice_model(measurements: NDArray[np.float64], dice: NDArray[np.float64]) -> DiceModel | None:
    """Learn how the Dice of a label follows from the measurements of a case.

    Args:
        measurements: (n, 3) as `LabelSums.measurements`; finite.
        dice: (n,) in [0, 1].

    Returns:
        The model; None with fewer than MIN_CASES cases.

    References:
        Hoerl and Kennard 1970, ridge regression. Interval: Papadopoulos et al. 2008, normalised conformal prediction,
        with residuals of models that were fitted without the case (Barber et al. 2021, jackknife).
    """
    if len(dice) < MIN_CASES:
        return None
    model = _fit(measurements, dice)
    scores = []
    for place in range(len(dice)):
        others = np.arange(len(dice)) != place
        expected = expect_dice(_fit(measurements[others], dice[others]), measurements[place]).value
        scores.append(abs(dice[place] - expected) / spread(expected))
    rank = math.ceil((len(scores) + 1) * COVERAGE) - 1
    return model.model_copy(update={"interval_factor": sorted(scores)[rank]})


def expect_dice(model: DiceModel, measurements: Sequence[float] | NDArray[np.float64]) -> ExpectedDice:
    """Expected Dice of a label of a case, with its interval, both within [0, 1]; measurements (3,) are finite."""
    overlap, volume, entropy = map(float, measurements)
    promised = float(_logits(np.array(overlap)))
    corrected = promised + model.offset + _add(model.overlap, promised, math.inf)
    corrected += _add(model.volume, volume, MAX_DEVIATIONS) + _add(model.entropy, entropy, MAX_DEVIATIONS)
    value = float(expit(corrected))
    half = model.interval_factor * spread(value)
    return ExpectedDice(value=value, low=max(value - half, 0.0), high=min(value + half, 1.0))


def spread(expected: float) -> float:
    """Typical size of a residual, up to a factor: the worse a case is expected to be, the less is known of it."""
    return 1 - expected + SPREAD_FLOOR


def leave_out(groups: Sequence[str]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks (n,) of the cases to learn from and of those to test on, for each group in turn.

    Args:
        groups: Name of the group of each case, such as its fold. A single group is divided into tenths.
    """
    names = np.array(groups)
    if len(set(groups)) < 2:
        names = np.arange(len(groups)) % 10
    for name in np.unique(names):
        yield names != name, names == name


def _fit(measurements: NDArray[np.float64], dice: NDArray[np.float64]) -> DiceModel:
    """Ridge regression of the logit of the Dice less that of the promised overlap; intervals have no width yet."""
    values = np.column_stack([_logits(measurements[:, 0]), measurements[:, 1:]])
    means = values.mean(axis=0)
    deviations = np.maximum(values.std(axis=0), MIN_DEVIATION)
    standard = (values - means) / deviations
    residuals = _logits(dice) - values[:, 0]
    offset = residuals.mean()
    gram = standard.T @ standard + RIDGE * np.eye(3)
    slopes = np.linalg.solve(gram, standard.T @ (residuals - offset))
    slopes[0] = max(slopes[0], -deviations[0])  # a smaller promised overlap never makes a larger expected Dice
    overlap, volume, entropy = (
        Correction(mean=float(mean), deviation=float(deviation), slope=float(slope))
        for mean, deviation, slope in zip(means, deviations, slopes, strict=True)
    )
    return DiceModel(
        num_cases=len(dice), offset=float(offset), overlap=overlap, volume=volume, entropy=entropy, interval_factor=0.0
    )


def _logits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(values, 1 - LARGEST, LARGEST)
    return np.log(clipped / (1 - clipped))


def _add(correction: Correction, value: float, limit: float) -> float:
    standard = (value - correction.mean) / correction.deviation
    return correction.slope * min(max(standard, -limit), limit)
