"""Slices of cases for the page: small images with contours as vector paths on top, sharp at any size."""

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

MAX_EDGE = 320
"""Pixels of the longer edge of an embedded image; bounds the size of the page."""
CONTOUR_TOLERANCE = 0.25
"""Pixels that a contour may deviate from the pixel-exact one; saves most of its points."""
QUALITY = 82
"""WebP quality. WebP takes half the bytes of JPEG at the same look, and a tenth of PNG on noisy images."""
NUM_LABEL_COLOURS = 21
"""Classes `l0` to `l20` in style.css: seven hues, plain, light and dark."""

Labels = NDArray[np.integer]


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
