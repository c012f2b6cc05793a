"""Slices of cases for the page: small images with contours as vector paths on top, sharp at any size."""

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from autoseg.records.case import Spacing, Triple

MAX_EDGE = 320
"""Pixels of the longer edge of an embedded image; bounds the size of the page."""
CONTOUR_TOLERANCE = 0.25
"""Pixels that a contour may deviate from the pixel-exact one; saves most of its points."""
QUALITY = 82
"""WebP quality. WebP takes half the bytes of JPEG at the same look, and a tenth of PNG on noisy images."""
MAX_BYTE = 255
"""Largest value of 2D images with 8 bits per channel."""
THICK_SLICES = 1.2
"""Factor of the spacing along z above which another axis is the one with the thick slices."""
MIN_MARGIN = 0.1
"""Margin around the foreground as a fraction of the image; small structures need their surroundings."""
NUM_LABEL_COLOURS = 21
"""Classes `l0` to `l20` in style.css: seven hues, plain, light and dark."""

Labels = NDArray[np.integer]

Window = tuple[float, float]
"""Intensities that are shown black and white."""


class Outline(NamedTuple):
    """Contours of one label in one slice."""

    label: int
    """Position of its colour class, 0 to NUM_LABEL_COLOURS - 1."""
    path: str
    """SVG path data in pixels of the slice."""


@dataclass(frozen=True)
class SliceImage:
    """One slice with its contours, ready for the page."""

    caption: str
    description: str
    """Text for screen readers."""
    source: str
    """Image as a data URL."""
    width: int
    """Pixels of the slice before it was reduced: the units of the contours."""
    height: int
    aspect: float
    """Width divided by height as displayed, from the spacing."""
    reference: tuple[Outline, ...]
    prediction: tuple[Outline, ...]


def make_slice(
    caption: str,
    description: str,
    image: NDArray[np.float32],
    reference: Labels,
    prediction: Labels | None,
    pixel_aspect: float,
) -> SliceImage:
    """Encode a slice and trace its labels.

    Args:
        caption: Text below the image.
        description: Text for screen readers.
        image: Intensities in [0, 1], (Y, X) or (Y, X, 3).
        reference: Label indices, (Y, X).
        prediction: Label indices, (Y, X); None: only the reference is shown.
        pixel_aspect: Height of a pixel divided by its width.
    """
    height, width = reference.shape
    return SliceImage(
        caption=caption,
        description=description,
        source=encode_image(image),
        width=width,
        height=height,
        aspect=width / (height * pixel_aspect),
        reference=trace_labels(reference),
        prediction=() if prediction is None else trace_labels(prediction),
    )


def encode_image(image: NDArray[np.float32], largest_edge: int = MAX_EDGE) -> str:
    """WebP data URL of an image in [0, 1], (Y, X) or (Y, X, 3), reduced where it is larger than the edge."""
    reduced = Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))
    reduced.thumbnail((largest_edge, largest_edge), Image.Resampling.BOX)
    buffer = BytesIO()
    reduced.save(buffer, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode("ascii")


def trace_labels(labels: Labels) -> tuple[Outline, ...]:
    """Contours of every label, along the borders of its pixels."""
    values = np.unique(labels)
    return tuple(
        Outline((int(value) - 1) % NUM_LABEL_COLOURS, path)
        for value in values[values != 0]
        if (path := trace_mask(labels == value))
    )


def trace_mask(mask: NDArray[np.bool_]) -> str:
    """SVG path data of a mask's contours; a structure that is cut by the border is closed there."""
    parts = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        points = approximate_polygon(contour, CONTOUR_TOLERANCE) - 0.5  # pixel centres lie at one half
        corners = " ".join(f"{x:.1f},{y:.1f}" for y, x in points[:-1])
        parts.append(f"M{corners}Z")
    return "".join(parts).replace(".0", "")


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
