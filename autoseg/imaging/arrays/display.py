"""Slices of images as people look at them: which slice, which part of it, and which range of intensities."""

import numpy as np
from numpy.typing import NDArray

from autoseg.records.case import Spacing, Triple
from autoseg.records.plan import Plan

MAX_BYTE = 255
"""Largest value of 2D images with 8 bits per channel."""

THICK_SLICES = 1.2
"""Factor of the spacing along z above which another axis is the one with the thick slices."""

MIN_MARGIN = 0.1
"""Margin around the foreground as a fraction of the image; small structures need their surroundings."""

HALF_WIDTH_HU = 200.0
"""Half of the width of the usual soft-tissue window, 400 HU."""

MIN_RANGE_HU = 20.0
"""Range of the labels' intensities below which a channel that is called CT does not hold Hounsfield units: the noise
of a scan alone has more."""

Window = tuple[float, float]
"""Intensities that are shown black and white."""


def choose_window(plan: Plan | None) -> Window | None:
    """Soft-tissue window around the mean of the labels, wider where the labels' own intensities are.

    Only where the plan treats the first channel, which is the one that slices show, as CT; None for the percentiles of
    each slice.
    """
    if plan is None or not plan.configurations:
        return None
    channel = next(iter(plan.configurations.values())).normalization[0]
    if channel.scheme != "ct" or channel.upper - channel.lower < MIN_RANGE_HU:
        return None
    return min(channel.mean - HALF_WIDTH_HU, channel.lower), max(channel.mean + HALF_WIDTH_HU, channel.upper)


def to_unit_range(image: NDArray[np.float32], percentiles: tuple[float, float] = (0.5, 99.5)) -> NDArray[np.float32]:
    """Map the percentiles of the values to 0 and 1."""
    low, high = (float(bound) for bound in np.percentile(image, percentiles))
    return within_window(image, (low, high))


def within_window(image: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """Map the bounds of the window to 0 and 1; values beyond them are cut off."""
    low, high = window
    grey: NDArray[np.float32] = np.clip((image - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
    return grey


def display_grey(image: NDArray[np.float32], window: Window | None) -> NDArray[np.float32]:
    """Intensities of any shape as displayed, in [0, 1]: within the window, without one within their percentiles."""
    return to_unit_range(image) if window is None else within_window(image, window)


def display_image(image: NDArray[np.float32], *, in_colour: bool, window: Window | None = None) -> NDArray[np.float32]:
    """A slice (C, Y, X) as displayed, in [0, 1]: three channels as colour if `in_colour`, else the first channel."""
    if not in_colour or len(image) != 3:
        return display_grey(image[0], window)
    colours = np.moveaxis(image, 0, -1)
    low, high = float(colours.min()), float(colours.max())
    if low >= 0 and high <= MAX_BYTE:
        return colours / np.float32(MAX_BYTE if high > 1 else 1)
    return to_unit_range(colours)


def through_plane_axis(shape: Triple, spacing: Spacing) -> int:
    """Axis across the slices: the one with thick slices, else z; the axis without depth in a 2D image."""
    if 1 in shape:
        return shape.index(1)
    return spacing.index(max(spacing)) if max(spacing) > THICK_SLICES * spacing[0] else 0


def describe_slice(axis: int, place: int, count: int) -> str:
    """Orientation and number of a slice, counted from 1."""
    return "slice" if count == 1 else f"{('axial', 'coronal', 'sagittal')[axis]} slice {place + 1} of {count}"


def box_around(foreground: NDArray[np.bool_]) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """Slices of the foreground with a margin of half its size, and the median voxel of the foreground."""
    box: list[slice] = []
    middle: list[int] = []
    for axis, size in enumerate(foreground.shape):
        others = tuple(other for other in range(3) if other != axis)
        counts = foreground.sum(axis=others)
        found = np.flatnonzero(counts)
        if len(found) == 0:
            box.append(slice(0, size))
            middle.append(size // 2)
            continue
        first, last = int(found[0]), int(found[-1])
        margin = max((last + 1 - first) // 2, round(MIN_MARGIN * size), 1)
        box.append(slice(max(first - margin, 0), min(last + 1 + margin, size)))
        middle.append(int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)))
    return tuple(box), tuple(middle)
