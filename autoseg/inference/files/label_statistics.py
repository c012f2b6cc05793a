"""`statistics.csv`: volume and mean intensity of each label of each case.

One row per case and label, in the order of case names and, within a case, of the model's labels. A region has a row
like a label and counts every voxel whose value belongs to it, so that nested regions count a voxel more than once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.formats.reading import Volume
from autoseg.inference.files.case_table import CaseTable
from autoseg.records.dataset import BACKGROUND, IGNORE, LabelValues

STATISTICS_FILE = "statistics.csv"

_COLUMNS = ("case", "label", "values", "voxels", "volume_ml")


@dataclass(frozen=True)
class LabelStatistics:
    """Measurements of one label or region of one case."""

    case: str
    label: str
    values: tuple[int, ...]
    """Values of its voxels in the label map."""
    voxels: int
    volume_ml: float | None
    """Volume in ml by the affine; None for a two-dimensional image, which has no thickness."""
    mean_intensities: tuple[float | None, ...]
    """Mean of each channel of the image as it was given; None without voxels."""


def measure_labels(
    case: str, label_map: NDArray[np.integer], volume: Volume, labels: Mapping[str, LabelValues]
) -> tuple[LabelStatistics, ...]:
    """Measure all labels of one case, slice by slice: memory beyond image and label map is that of one slice.

    Args:
        case: Case id.
        label_map: Label values (Z, Y, X) on the image's grid.
        volume: The image, (C, Z, Y, X), with the values of its file.
        labels: Value of each label, or all values of a region, by name; `background` and `ignore` are left out.

    Returns:
        One record per label, in the order of `labels`; a label that is absent has 0 voxels.
    """
    groups = {
        name: tuple(sorted({value})) if isinstance(value, int) else tuple(sorted(set(value)))
        for name, value in labels.items()
        if name not in (BACKGROUND, IGNORE)
    }
    size = 1 + max(int(label_map.max(initial=0)), *(values[-1] for values in groups.values()))
    counts, sums = np.zeros(size, dtype=np.int64), np.zeros((len(volume.array), size))
    for z, plane in enumerate(label_map):
        flat = plane.ravel()
        counts += np.bincount(flat, minlength=size)
        for channel_sums, channel in zip(sums, volume.array, strict=True):
            channel_sums += np.bincount(flat, weights=channel[z].ravel(), minlength=size)
    voxel_ml = _voxel_ml(volume)
    rows = []
    for name, values in groups.items():
        voxels = int(counts[list(values)].sum())
        totals = sums[:, list(values)].sum(axis=1)
        means = tuple(float(total) / voxels if voxels else None for total in totals)
        rows.append(LabelStatistics(case, name, values, voxels, None if voxel_ml is None else voxels * voxel_ml, means))
    return tuple(rows)


def _voxel_ml(volume: Volume) -> float | None:
    if volume.template.file_dimensions == 2:
        return None
    return abs(float(np.linalg.det(np.array(volume.grid.affine)[:3, :3]))) / 1000


def statistics_table(
    path: Path, channel_names: Sequence[str], *, clock: Callable[[], float] = time.monotonic
) -> CaseTable:
    """The table of statistics in a file, which need not exist.

    Args:
        path: The CSV file.
        channel_names: Channels of the model; each has a column.
        clock: Time in seconds.

    Raises:
        UsageError: If the file exists and is not a table of these channels.
    """
    columns = (*_COLUMNS, *(f"mean_{name}" for name in channel_names))
    return CaseTable(path, columns, "statistics", clock=clock)


def statistics_rows(rows: Sequence[LabelStatistics]) -> list[tuple[str, ...]]:
    """Cells of the rows of one case."""
    return [_cells(row) for row in rows]


def _cells(row: LabelStatistics) -> tuple[str, ...]:
    return (
        row.case,
        row.label,
        " ".join(map(str, row.values)),
        str(row.voxels),
        "" if row.volume_ml is None else f"{row.volume_ml:.6f}",
        *("" if mean is None else f"{mean:.7g}" for mean in row.mean_intensities),
    )
