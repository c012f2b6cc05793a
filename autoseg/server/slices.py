"""Slices of a result for a browser: grey values of the image with contours of the labels, one PNG for each slice.

The process that has the models writes two arrays beside the label map, in canonical orientation; the server draws what
is asked for from them, and reads no more of them than that slice.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.arrays.display import Window, through_plane_axis
from autoseg.imaging.formats.volume import Volume, canonical_orientation, orient_array, orient_grid
from autoseg.inference.files.overlays import draw_slice
from autoseg.inference.models.label_colors import LabelColor
from autoseg.records.case import Spacing, Triple

GREY_FILE, LABEL_FILE, FACTS_FILE = "slices_grey.npy", "slices_labels.npy", "slices.json"

MAX_SAMPLES = 1_000_000
"""Voxels that the displayed range of intensities is taken from."""

PERCENTILES = (0.5, 99.5)
"""Displayed range without a window."""


@dataclass(frozen=True)
class SliceFacts:
    """What a browser needs to know to ask for slices; triples are (z, y, x), canonical."""

    shape: Triple
    spacing: Spacing
    axis: int
    """Axis across the acquired slices."""
    best: Triple
    """Slice along each axis that has most of the labels; the middle one without any."""


def write_slices(volume: Volume, labels: NDArray[np.integer], window: Window | None, folder: Path) -> None:
    """Write the arrays that slices are drawn from.

    Args:
        volume: The image, (C, Z, Y, X) in stored order; its first channel is shown.
        labels: Label values, (Z, Y, X) in stored order.
        window: Range of intensities that is shown; None: their percentiles.
        folder: Folder of the job.
    """
    orientation = canonical_orientation(volume.grid)
    image, values = orient_array(volume.array[:1], orientation)[0], orient_array(labels, orientation)
    spacing = orient_grid(volume.grid, orientation).spacing
    low, high = window or _displayed_range(image)
    grey = np.lib.format.open_memmap(folder / GREY_FILE, mode="w+", dtype=np.uint8, shape=image.shape)
    for z, plane in enumerate(image):
        grey[z] = np.clip((plane - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    np.save(folder / LABEL_FILE, np.ascontiguousarray(values))
    shape: Triple = values.shape[0], values.shape[1], values.shape[2]
    facts = SliceFacts(shape, spacing, through_plane_axis(shape, spacing), find_best_slices(values))
    (folder / FACTS_FILE).write_text(json.dumps(asdict(facts)), encoding="utf-8")


def read_slice_facts(folder: Path) -> SliceFacts:
    """What `write_slices` wrote about the arrays.

    Raises:
        OSError: If there are none.
    """
    found = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    return SliceFacts(tuple(found["shape"]), tuple(found["spacing"]), found["axis"], tuple(found["best"]))


def draw_png(folder: Path, axis: int, index: int, names: Sequence[LabelColor], *, outlined: bool = True) -> bytes:
    """One slice as PNG.

    Args:
        folder: Folder of the job.
        axis: 0, 1 or 2 for z, y, x.
        index: Place along that axis, from 0.
        names: Colours of the label values.
        outlined: Whether labels are drawn.

    Raises:
        OSError: If the job wrote no arrays.
        IndexError: If there is no such slice.
    """
    facts = read_slice_facts(folder)
    grey, labels = (np.load(folder / name, mmap_mode="r") for name in (GREY_FILE, LABEL_FILE))
    if not (0 <= axis < grey.ndim and 0 <= index < grey.shape[axis]):
        raise IndexError(f"there is no slice {index} along axis {axis}; the shape is {facts.shape}")
    shown = np.asarray(np.take(grey, index, axis=axis), dtype=np.float32) / np.float32(255)
    values = np.asarray(np.take(labels, index, axis=axis))
    rows, columns = (facts.spacing[other] for other in range(3) if other != axis)
    picture = draw_slice(axis, shown, values if outlined else np.zeros_like(values), names, rows / columns)
    with io.BytesIO() as stream:
        picture.save(stream, format="PNG")
        return stream.getvalue()


def find_best_slices(labels: NDArray[np.integer]) -> Triple:
    """Slice along each axis that has most labelled voxels; the middle one where there are none."""
    counts = [np.zeros(size, dtype=np.int64) for size in labels.shape]
    for z, plane in enumerate(labels):
        mask = plane != 0
        counts[0][z] = np.count_nonzero(mask)
        counts[1] += mask.sum(axis=1)
        counts[2] += mask.sum(axis=0)
    z, y, x = (int(count.argmax()) if count.any() else len(count) // 2 for count in counts)
    return z, y, x


def _displayed_range(image: NDArray[np.float32]) -> Window:
    """Percentiles of evenly spaced voxels."""
    flat = image.ravel()
    sample = flat[:: max(1, flat.size // MAX_SAMPLES)]
    low, high = np.percentile(sample, PERCENTILES)
    return float(low), float(high)
