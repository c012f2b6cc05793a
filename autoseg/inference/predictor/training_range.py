"""Whether an image is like the images that a model was trained on, as far as size and intensities tell.

A network predicts something for any image. These rules say when to check the prediction; they never refuse an image.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import RecordError
from autoseg.imaging.formats.volume import FLAT_SLICE_FACTOR, SPACING_TOLERANCE
from autoseg.records.case import Grid, Spacing
from autoseg.records.contrast import ChannelContrast
from autoseg.records.files import read_record
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.network import NormalizationSpec

SPACING_FACTOR = 1.5
"""Tolerated factor beyond the training spacings. Training zooms images by 0.7 to 1.4, so the network has seen such
voxels; it has seen none beyond."""

FIELD_OF_VIEW_FACTOR = 2.0
"""Tolerated factor beyond the training fields of view. Half of the smallest one cuts structures off or shows others;
twice the largest shows parts of the body that no training image had, where false positives appear. Scanners and
protocols differ within that range anyway."""

INTENSITY_MARGIN = 0.1
"""Tolerated shift inwards, as a fraction of the width of all training intensities. Extremes vary with noise, metal and
padding; a wrong unit, a lost offset (CT from 0 instead of -1024) or values scaled to 0..1 shift them by more."""

MAX_INTENSITY_DISTANCE = 1.0
"""Tolerated distance of an extreme outside all training intensities, in widths of these: one bright implant does not
mean another unit."""

ABSOLUTE_SCHEMES = ("ct", "none")
"""Normalisations that keep the scale of intensities; the others scale each image by its own intensities."""

_AXIS_NAMES = {2: "(y, x)", 3: "(z, y, x)"}

Range = tuple[float, float]
"""Smallest and largest value."""


@dataclass(frozen=True)
class TrainingRange:
    """Spacings, fields of view and intensities of the training images, without naming any image."""

    spacings: tuple[Range, Range, Range]
    """Smallest and largest spacing in mm along each axis, (z, y, x)."""
    fields_of_view: tuple[Range, Range, Range]
    """Smallest and largest field of view in mm along each axis, (z, y, x): voxels times spacing, before any crop."""
    lowest: tuple[Range, ...]
    """Range of the images' smallest intensities, for each channel."""
    highest: tuple[Range, ...]
    """Range of the images' largest intensities, for each channel."""
    contrasts: tuple[ChannelContrast, ...] = ()
    """Contrast of each channel; empty: not known."""

    def describe_deviations(
        self,
        grid: Grid,
        intensities: Sequence[Range],
        channel_names: Sequence[str],
        normalization: Sequence[NormalizationSpec],
        missing: Collection[int] = (),
    ) -> tuple[str, ...]:
        """Deviations of an image from the training images, one sentence per kind of deviation; empty if there are none.

        Args:
            grid: Grid of the image in working orientation.
            intensities: Intensity range of each channel of the image; see `intensity_ranges`.
            channel_names: Channels of the model, as many as the image has.
            normalization: Normalisation of each channel; where images are scaled by their own intensities, only a
                constant channel is reported.
            missing: Numbers of channels that the image lacks and may lack; nothing is said of their intensities.
        """
        return (
            *_spacing_deviations(self, grid.spacing),
            *_field_of_view_deviations(self, grid),
            *_intensity_deviations(self, intensities, channel_names, normalization, missing),
        )


def read_training_range(fingerprint: Path) -> TrainingRange | None:
    """Training range from a model's fingerprint; None if the model has no fingerprint, or one without cases.

    Raises:
        RecordError: If the file is damaged.
    """
    if not fingerprint.is_file():
        return None
    content = read_record(Fingerprint, fingerprint)
    wrong = [case.case for case in content.cases if len(case.channel_ranges) != len(content.channel_names)]
    if wrong:
        raise RecordError(
            f"{fingerprint}: cases: channel_ranges of {wrong[0]} do not have one entry for each of channel_names, "
            f"{len(content.channel_names)}. Copy the file again, or plan the dataset again."
        )
    if content.contrasts and len(content.contrasts) != len(content.channel_names):
        raise RecordError(
            f"{fingerprint}: contrasts: {len(content.contrasts)} found, one for each of channel_names expected, "
            f"{len(content.channel_names)}. Copy the file again, or plan the dataset again."
        )
    return summarize_training(content) if content.cases else None


def summarize_training(fingerprint: Fingerprint) -> TrainingRange:
    """Training range of a fingerprint, which has at least one case."""
    spacings = np.array([case.spacing for case in fingerprint.cases])
    fields = spacings * np.array([case.shape for case in fingerprint.cases])
    extremes = [_ranges_of_channel(fingerprint.cases, channel) for channel in range(len(fingerprint.channel_names))]
    return TrainingRange(
        spacings=(_range(spacings[:, 0]), _range(spacings[:, 1]), _range(spacings[:, 2])),
        fields_of_view=(_range(fields[:, 0]), _range(fields[:, 1]), _range(fields[:, 2])),
        lowest=tuple(_range(channel[:, 0]) for channel in extremes),
        highest=tuple(_range(channel[:, 1]) for channel in extremes),
        contrasts=fingerprint.contrasts,
    )


def _ranges_of_channel(cases: Sequence[CaseFingerprint], channel: int) -> NDArray[np.float64]:
    """Smallest and largest intensity (N, 2) of the N cases that have a channel; of all where none has it."""
    having = [case for case in cases if channel not in case.absent_channels] or cases
    return np.array([case.channel_ranges[channel] for case in having])


def intensity_ranges(image: NDArray[np.float32]) -> tuple[Range, ...]:
    """Smallest and largest intensity of each channel of (C, Z, Y, X), without a copy."""
    return tuple((float(channel.min()), float(channel.max())) for channel in image)


def _spacing_deviations(training: TrainingRange, spacing: Spacing) -> Iterator[str]:
    first = _first_axis(training)
    usual = training.spacings[first:]
    if _is_outside(spacing[first:], usual, SPACING_FACTOR):
        found = f"{_product(spacing[first:])} mm {_AXIS_NAMES[len(usual)]}"
        yield f"the spacing {found} is unlike that of the training images, {_ranges(usual)} mm"


def _field_of_view_deviations(training: TrainingRange, grid: Grid) -> Iterator[str]:
    first = _first_axis(training)
    field = tuple(size * spacing for size, spacing in zip(grid.shape, grid.spacing, strict=True))[first:]
    usual = training.fields_of_view[first:]
    if _is_outside(field, usual, FIELD_OF_VIEW_FACTOR):
        are_pixels = len(usual) == 2 and {*grid.spacing[first:], *chain(*training.spacings[first:])} == {1.0}
        unit = "pixels" if are_pixels else "mm"
        found = f"{_product(field)} {unit} {_AXIS_NAMES[len(usual)]}"
        yield f"the field of view {found} is unlike that of the training images, {_ranges(usual)} {unit}"


def _first_axis(training: TrainingRange) -> int:
    """First axis that is compared: 1 where training images are 2D, so that their slice spacing is artificial."""
    across, *in_plane = (lowest for lowest, _ in training.spacings)
    is_flat = across >= FLAT_SLICE_FACTOR * max(in_plane) * (1 - SPACING_TOLERANCE)
    return int(is_flat)


def _is_outside(values: Sequence[float], ranges: Sequence[Range], factor: float) -> bool:
    return any(not low / factor <= value <= high * factor for value, (low, high) in zip(values, ranges, strict=True))


def _intensity_deviations(
    training: TrainingRange,
    intensities: Sequence[Range],
    names: Sequence[str],
    specs: Sequence[NormalizationSpec],
    missing: Collection[int],
) -> Iterator[str]:
    rules = zip(names, intensities, specs, training.lowest, training.highest, strict=True)
    constant, shifted = [], []
    for channel, (name, (low, high), spec, lowest, highest) in enumerate(rules):
        if channel in missing:
            continue
        if low == high:
            constant.append(f"{name} is {low:.6g} everywhere")
        elif spec.scheme in ABSOLUTE_SCHEMES and _is_shifted((low, high), lowest, highest):
            shifted.append(
                f"{name} from {low:.6g} to {high:.6g}, training images from {lowest[0]:.6g} to {highest[1]:.6g}"
            )
    if constant:
        yield f"the image is empty: channel {', '.join(constant)}"
    if shifted:
        yield f"the intensities are unlike those of the training images (another unit or offset?): {'; '.join(shifted)}"


def _is_shifted(found: Range, lowest: Range, highest: Range) -> bool:
    """Whether an extreme lies too far outside all training images, or too far inside every one of them."""
    width = highest[1] - lowest[0]
    inside, outside = INTENSITY_MARGIN * width, MAX_INTENSITY_DISTANCE * width
    low_fits = lowest[0] - outside <= found[0] <= lowest[1] + inside
    high_fits = highest[0] - inside <= found[1] <= highest[1] + outside
    return not (low_fits and high_fits)


def _range(values: NDArray[np.float64]) -> Range:
    return float(values.min()), float(values.max())


def _product(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _ranges(ranges: Sequence[Range]) -> str:
    return " x ".join(f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in ranges)
