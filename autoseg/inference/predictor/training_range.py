"""Whether an image is like the images that a model was trained on, as far as size and intensities tell.

A network answers any image. These rules say when there is reason to look at the answer twice; they never refuse.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.records.case import Grid, Spacing
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NormalizationSpec

SPACING_FACTOR = 1.5
"""Training zooms images by 0.7 to 1.4, so up to there the network has seen such voxels; beyond it has not."""

FIELD_OF_VIEW_FACTOR = 2.0
"""Half of the smallest field of view cuts structures off or shows other ones; twice the largest shows parts of the body
that no training image had, where false alarms come from. Within it, scanners and protocols differ anyway."""

INTENSITY_MARGIN = 0.1
"""Of the width of all training intensities. Extremes vary with noise, metal and padding; a wrong unit, a lost offset
(CT from 0 instead of -1024) or values scaled to 0..1 shift them by more."""

FARTHEST_INTENSITY = 1.0
"""Widths of all training intensities by which an extreme may lie outside them: one bright implant is no other unit."""

_ABSOLUTE_SCHEMES = ("ct", "none")
"""Normalisations that leave the scale of intensities as it is; the others make each image's own scale 1."""

Range = tuple[float, float]
"""Smallest and largest value."""


@dataclass(frozen=True)
class TrainingRange:
    """What the training images had, without a word of which image had it."""

    spacings: tuple[Range, Range, Range]
    """mm, by axis (z, y, x)."""
    fields_of_view: tuple[Range, Range, Range]
    """mm, by axis (z, y, x): voxels times spacing, before any crop."""
    lowest: tuple[Range, ...]
    """By channel: range of the images' smallest intensities."""
    highest: tuple[Range, ...]
    """By channel: range of the images' largest intensities."""


def read_training_range(fingerprint: Path) -> TrainingRange | None:
    """The range from a model's fingerprint; None when the model came without one.

    Raises:
        RecordError: If the file is damaged.
    """
    return summarize_training(read_record(Fingerprint, fingerprint)) if fingerprint.is_file() else None


def summarize_training(fingerprint: Fingerprint) -> TrainingRange:
    """The range of a fingerprint, which has at least one case."""
    spacings = np.array([case.spacing for case in fingerprint.cases])
    fields = spacings * np.array([case.shape for case in fingerprint.cases])
    extremes = np.array([case.channel_ranges for case in fingerprint.cases])  # (cases, C, 2)
    return TrainingRange(
        spacings=(_range(spacings[:, 0]), _range(spacings[:, 1]), _range(spacings[:, 2])),
        fields_of_view=(_range(fields[:, 0]), _range(fields[:, 1]), _range(fields[:, 2])),
        lowest=tuple(_range(channel[:, 0]) for channel in extremes.swapaxes(0, 1)),
        highest=tuple(_range(channel[:, 1]) for channel in extremes.swapaxes(0, 1)),
    )


def intensity_ranges(image: NDArray[np.float32]) -> tuple[Range, ...]:
    """Smallest and largest intensity of each channel of (C, Z, Y, X), without a copy."""
    return tuple((float(channel.min()), float(channel.max())) for channel in image)


def describe_deviations(
    training: TrainingRange,
    grid: Grid,
    intensities: Sequence[Range],
    channel_names: Sequence[str],
    normalization: Sequence[NormalizationSpec],
) -> tuple[str, ...]:
    """How an image departs from the training images, one sentence per kind of departure; empty when it does not.

    Args:
        training: Of the model.
        grid: The image's, in the orientation that the model works in.
        intensities: Of the image, by channel: see `intensity_ranges`.
        channel_names: Of the model, as many as the image has channels.
        normalization: By channel; where each image is scaled by itself, only a constant channel is told.
    """
    return (
        *_spacing_deviations(training, grid.spacing),
        *_field_of_view_deviations(training, grid),
        *_intensity_deviations(training, intensities, channel_names, normalization),
    )


def _spacing_deviations(training: TrainingRange, spacing: Spacing) -> Iterator[str]:
    if _is_outside(spacing, training.spacings, SPACING_FACTOR):
        yield (
            f"the spacing {_product(spacing)} mm (z, y, x) is unlike that of the training images, "
            f"{_ranges(training.spacings)} mm"
        )


def _field_of_view_deviations(training: TrainingRange, grid: Grid) -> Iterator[str]:
    field = tuple(size * spacing for size, spacing in zip(grid.shape, grid.spacing, strict=True))
    if _is_outside(field, training.fields_of_view, FIELD_OF_VIEW_FACTOR):
        yield (
            f"the field of view {_product(field)} mm (z, y, x) is unlike that of the training images, "
            f"{_ranges(training.fields_of_view)} mm"
        )


def _is_outside(values: Sequence[float], ranges: Sequence[Range], factor: float) -> bool:
    return any(not low / factor <= value <= high * factor for value, (low, high) in zip(values, ranges, strict=True))


def _intensity_deviations(
    training: TrainingRange, intensities: Sequence[Range], names: Sequence[str], specs: Sequence[NormalizationSpec]
) -> Iterator[str]:
    rules = zip(names, intensities, specs, training.lowest, training.highest, strict=True)
    constant, shifted = [], []
    for name, (low, high), spec, lowest, highest in rules:
        if low == high:
            constant.append(f"{name} is {low:.6g} everywhere")
        elif spec.scheme in _ABSOLUTE_SCHEMES and _is_shifted((low, high), lowest, highest):
            shifted.append(
                f"{name} from {low:.6g} to {high:.6g}, training images from {lowest[0]:.6g} to {highest[1]:.6g}"
            )
    if constant:
        yield f"there is nothing to see: channel {', '.join(constant)}"
    if shifted:
        yield f"the intensities are unlike those of the training images (another unit or offset?): {'; '.join(shifted)}"


def _is_shifted(found: Range, lowest: Range, highest: Range) -> bool:
    """Whether an end lies outside all training images, or too far inside for every one of them."""
    width = highest[1] - lowest[0]
    inside, outside = INTENSITY_MARGIN * width, FARTHEST_INTENSITY * width
    low_fits = lowest[0] - outside <= found[0] <= lowest[1] + inside
    high_fits = highest[0] - inside <= found[1] <= highest[1] + outside
    return not (low_fits and high_fits)


def _range(values: NDArray[np.float64]) -> Range:
    return float(values.min()), float(values.max())


def _product(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _ranges(ranges: Sequence[Range]) -> str:
    return " x ".join(f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in ranges)
