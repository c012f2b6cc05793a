"""A figure of augmented training patches: one row per patch, one column per version of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from autoseg.records.files import replacing
from autoseg.report.charts.figures import COLOURS, VISIBLE_RANGE, CasePicture, Plane, draw_cases


@dataclass(frozen=True)
class PatchVersions:
    """One training patch, original and augmented."""

    title: str
    images: NDArray[np.float32]
    """Intensities of one channel, (V, Z, Y, X) or (V, Y, X); the first version is the original patch."""
    labels: NDArray[np.int16]
    """Label indices, same shape as `images`."""
    previous: NDArray[np.int16] | None
    """Label indices that the previous cascade step predicted; None outside cascades."""
    pixel_aspect: float
    """Height of a voxel divided by its width within the shown planes."""


def plot_versions(rows: Sequence[PatchVersions], label_names: Mapping[int, str], path: Path) -> None:
    """Draw the plane with most foreground of each version with contours of its labels; replace `path` atomically.

    All versions of a patch share one grey range, so that changes of brightness and contrast are visible. Contours of
    the labels of the previous cascade step are dashed.

    Args:
        rows: Patches to draw, at least one.
        label_names: Names by label index, from 1.
        path: PNG file to write.
    """
    figure = draw_cases([_make_row(row) for row in rows])
    lines = [Line2D([], [], color=COLOURS[(index - 1) % len(COLOURS)], linewidth=2) for index in label_names]
    figure.legend(
        lines, list(label_names.values()), loc="upper right", ncols=8, fontsize=9, frameon=False, labelcolor="white"
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _make_row(row: PatchVersions) -> CasePicture:
    low, high = np.percentile(row.images[0], VISIBLE_RANGE)
    shown = np.clip((row.images - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
    planes = []
    for version, labels in enumerate(row.labels):
        index = (version,) if labels.ndim == 2 else (version, _plane_with_most_foreground(labels))
        plane = Plane(
            name=f"version {version}",
            image=shown[index],
            reference=row.labels[index],
            prediction=np.zeros_like(row.labels[index]) if row.previous is None else row.previous[index],
            pixel_aspect=row.pixel_aspect,
        )
        planes.append(plane)
    return CasePicture(row.title, tuple(planes))


def _plane_with_most_foreground(labels: NDArray[np.int16]) -> int:
    """Position along the first axis; the middle where there is no foreground."""
    counts = np.count_nonzero(labels, axis=(1, 2))
    return int(counts.argmax()) if counts.any() else len(labels) // 2
