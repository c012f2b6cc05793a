"""`statistics.csv`: how large each label of each case is, and how bright.

One row per case and label, in the order of case names and, within a case, of the model's labels. A region has a row
like a label and counts every voxel whose value belongs to it, so that nested regions count a voxel more than once.
"""

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import UsageError
from autoseg.imaging.labels import BACKGROUND, IGNORE
from autoseg.imaging.reading import Volume
from autoseg.records.dataset import LabelValues
from autoseg.records.files import write_text

STATISTICS_FILE = "statistics.csv"

SECONDS_BETWEEN_WRITES = 30.0
"""The whole table is replaced at a time, so not after every case of thousands; a killed run loses no more than this,
and measures it again when it goes on."""

_COLUMNS = ("case", "label", "values", "voxels", "volume_ml")


@dataclass(frozen=True)
class LabelStatistics:
    """One label or region of one case."""

    case: str
    label: str
    values: tuple[int, ...]
    """Of its voxels in the label map."""
    voxels: int
    volume_ml: float | None
    """From the affine; None for a two-dimensional image, which has no thickness."""
    mean_intensities: tuple[float | None, ...]
    """By channel, in the image as it was given; None without voxels."""


def measure_labels(
    case: str, label_map: NDArray[np.integer], volume: Volume, labels: Mapping[str, LabelValues]
) -> tuple[LabelStatistics, ...]:
    """Measure all labels of one case, slice by slice: memory beyond image and label map is that of one slice.

    Args:
        case: Name of the case.
        label_map: (Z, Y, X), values as in files, on the image's grid.
        volume: The image, (C, Z, Y, X), with the values of its file.
        labels: Name -> value, or all values of a region; `background` and `ignore` are left out.

    Returns:
        In the order of `labels`; a label that is absent has 0 voxels.
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


class StatisticsTable:
    """The rows of a file, old and new ones."""

    def __init__(
        self, path: Path, channel_names: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take over the rows that the file has already.

        Args:
            path: The CSV file; need not exist.
            channel_names: Of the model; each has a column.
            clock: Seconds.

        Raises:
            UsageError: If the file is there, and is no table of these channels.
        """
        self._path = path
        self._columns = (*_COLUMNS, *(f"mean_{name}" for name in channel_names))
        self._clock = clock
        self._written = clock()
        self._rows = self._read(path)

    def __contains__(self, case: str) -> bool:
        """Whether there are rows of this case."""
        return case in self._rows

    def take_over(self, cases: Iterable[str], others: Iterable[Path]) -> None:
        """Take rows of these cases from other tables, such as those of the parts of a run; what is known stays.

        Raises:
            UsageError: As on opening.
        """
        wanted = set(cases) - set(self._rows)
        for path in others:
            self._rows |= {case: rows for case, rows in self._read(path).items() if case in wanted}

    def add(self, rows: Sequence[LabelStatistics]) -> None:
        """Take in one case, in place of what was known of it; the file follows within `SECONDS_BETWEEN_WRITES`."""
        if not rows:
            return
        self._rows[rows[0].case] = [dict(zip(self._columns, _cells(row), strict=True)) for row in rows]
        if self._clock() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Replace the file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        for _, rows in sorted(self._rows.items()):
            writer.writerows(rows)
        write_text(text.getvalue(), self._path)
        self._written = self._clock()

    def _read(self, path: Path) -> dict[str, list[dict[str, str]]]:
        if not path.exists():
            return {}
        try:
            reader = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True)
            found = tuple(reader.fieldnames or ())
            rows = [*reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path}: cannot be read as a table of statistics ({error}); move it away") from error
        if found != self._columns:
            raise UsageError(
                f"{path}: has the columns {', '.join(found) or '(none)'}, expected {', '.join(self._columns)}; it is "
                "of another model or program. Move it away, or choose another output folder"
            )
        by_case: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            by_case.setdefault(row["case"], []).append(row)
        return by_case


@contextmanager
def open_statistics(path: Path, channel_names: Sequence[str]) -> Iterator[StatisticsTable]:
    """A table that is written at the end, also when the run is stopped by an error or by Ctrl-C."""
    table = StatisticsTable(path, channel_names)
    try:
        yield table
    finally:
        table.write()


def _cells(row: LabelStatistics) -> tuple[str, ...]:
    return (
        row.case,
        row.label,
        " ".join(map(str, row.values)),
        str(row.voxels),
        "" if row.volume_ml is None else f"{row.volume_ml:.6f}",
        *("" if mean is None else f"{mean:.7g}" for mean in row.mean_intensities),
    )
