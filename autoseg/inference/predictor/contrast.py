"""An image's contrast beside that of the training images: what to warn of, and how to match its intensities to theirs.

Rules that few images of the same kind fail, because a warning that comes often is not read: on images like those of
training there was no false alarm in 465 of five data sets, each judged by others of its own data set.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.arrays.contrast import ChannelMeasurements, measure_contrast, measure_distance, measure_sign
from autoseg.imaging.arrays.intensity_maps import IntensityMap, match_quantiles
from autoseg.inference.predictor.training_range import ABSOLUTE_SCHEMES, TrainingRange, intensity_ranges
from autoseg.records.case import Grid
from autoseg.records.contrast import Adaptation, ChannelContrast
from autoseg.records.network import NormalizationSpec

MIN_CASES = 5
"""Training cases that are needed to judge an image."""

DISTANCE_FACTOR = 1.5
"""Tolerated factor beyond the largest distance among the training images. Other images of the five data sets reach
1.2; hippocampi under a gamma of 2.5 have 2.4, under a gamma of 0.4 (which costs no Dice) 1.6."""

FEW_CASES_FACTOR = 5.0
"""Divided by the number of cases, and added to the factor: the largest distance among few images is too small."""

MIN_DISTANCE = 0.05
"""Tolerated distance in standard deviations, however equal the training images are."""

MAX_SIGN_SPREAD = 0.25
"""Deviation of the sign among training images from which on it says nothing; photographs have 0.5."""

INVERTED_BELOW = -0.25
"""Sign of an inverted image; training images have 1, with a deviation of MAX_SIGN_SPREAD or less."""

PHOTOGRAPH_LIMITS = (0.0, 255.0)
"""Intensities of channels that are scaled as those of photographs, which no others may have."""


ENDINGS: Mapping[Adaptation, str] = MappingProxyType(
    {
        "none": "to match them: --adapt histogram",
        "histogram": "matched to them before prediction",
        "statistics": "the networks take statistics from the image",
    }
)
"""What is done about an image with another contrast, by adaptation."""


@dataclass(frozen=True)
class Adapting:
    """How the model and an image are brought together, and for which images."""

    adaptation: Adaptation = "none"
    only_unlike: bool = False
    """Whether only images with another contrast than the training images are adapted."""


NO_ADAPTING = Adapting()


@dataclass(frozen=True)
class Comparison:
    """An image beside the training images."""

    warnings: tuple[str, ...] = ()
    """Deviations, one sentence each."""
    maps: tuple[IntensityMap | None, ...] = ()
    """Curve for each channel, before normalisation; empty: none for any."""
    takes_statistics: bool = False
    """Whether networks take statistics of normalisation from this image."""


@dataclass(frozen=True)
class ChannelVerdict:
    """One channel beside the training images."""

    is_inverted: bool
    distance: float
    """Distance of its standard quantiles from those of the training images."""
    tolerance: float
    """Largest distance that is not reported."""

    @property
    def is_unlike(self) -> bool:
        """Whether the channel has another contrast."""
        return self.is_inverted or self.distance > self.tolerance


def compare_with_training(
    training: TrainingRange | None,
    image: NDArray[np.float32],
    grid: Grid,
    channel_names: Sequence[str],
    normalization: Sequence[NormalizationSpec],
    adapting: Adapting = NO_ADAPTING,
    missing: Sequence[int] = (),
) -> Comparison:
    """Compare an image with the training images.

    Args:
        training: What is known of them; None: nothing.
        image: (C, Z, Y, X) in working orientation.
        grid: Its grid.
        channel_names: Channels of the model.
        normalization: Normalisation of each channel.
        adapting: How, and which images are adapted.
        missing: Numbers of the channels that the image lacks and may lack.
    """
    takes_statistics = adapting.adaptation == "statistics"
    if training is None:
        return Comparison(takes_statistics=takes_statistics)
    deviations = training.describe_deviations(grid, intensity_ranges(image), channel_names, normalization, missing)
    if not training.contrasts:
        return Comparison(deviations, takes_statistics=takes_statistics)
    measured = measure_contrast(image)
    verdicts = [judge_channel(*channel) for channel in zip(measured, training.contrasts, strict=True)]
    is_adapted = not adapting.only_unlike or any(verdict.is_unlike for verdict in verdicts)
    adaptation = adapting.adaptation if is_adapted else "none"
    warnings = (*deviations, *_describe(verdicts, channel_names, ENDINGS[adaptation]))
    if adaptation != "histogram":
        return Comparison(warnings, takes_statistics=adaptation == "statistics")
    return Comparison(
        warnings,
        tuple(
            _match(found, contrast, spec, inverted=verdict.is_inverted)
            for found, contrast, spec, verdict in zip(
                measured, training.contrasts, normalization, verdicts, strict=True
            )
        ),
    )


def judge_channel(found: ChannelMeasurements, training: ChannelContrast) -> ChannelVerdict:
    """Whether a channel is inverted, or its intensities are distributed unlike those of any training image."""
    distance = measure_distance(found.standard_quantiles, np.array(training.standard_quantiles))
    if training.num_cases < MIN_CASES or found.quantiles[0] == found.quantiles[-1]:
        return ChannelVerdict(is_inverted=False, distance=distance, tolerance=np.inf)
    factor = DISTANCE_FACTOR + FEW_CASES_FACTOR / training.num_cases
    sign = measure_sign(found.signs, np.array(training.signs), np.array(training.sign_deviations))
    return ChannelVerdict(
        is_inverted=training.sign_spread <= MAX_SIGN_SPREAD and sign < INVERTED_BELOW,
        distance=distance,
        tolerance=max(MIN_DISTANCE, factor * training.largest_distance),
    )


def _match(
    found: ChannelMeasurements, training: ChannelContrast, spec: NormalizationSpec, *, inverted: bool
) -> IntensityMap | None:
    """Curve to the intensities of training, or, where each image is scaled by its own, to their shape."""
    is_photograph = spec.scheme == "rgb_0_1"
    wanted = training.quantiles if is_photograph or spec.scheme in ABSOLUTE_SCHEMES else training.standard_quantiles
    curve = match_quantiles(found.quantiles, np.array(wanted), inverted=inverted)
    return replace(curve, limits=PHOTOGRAPH_LIMITS) if is_photograph and curve is not None else curve


def _describe(verdicts: Sequence[ChannelVerdict], names: Sequence[str], ending: str) -> Iterator[str]:
    inverted = [name for name, verdict in zip(names, verdicts, strict=True) if verdict.is_inverted]
    shifted = [
        f"{name} differs by {verdict.distance:.2f} standard deviations, {verdict.tolerance:.2f} are usual"
        for name, verdict in zip(names, verdicts, strict=True)
        if verdict.is_unlike and not verdict.is_inverted
    ]
    if inverted:
        yield (
            f"the intensities are unlike those of the training images: bright and dark are swapped in "
            f"{', '.join(inverted)} ({ending})"
        )
    if shifted:
        yield (
            f"the intensities are unlike those of the training images: the distribution of {'; '.join(shifted)} "
            f"({ending})"
        )
