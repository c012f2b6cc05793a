"""Tables that a run over files writes beside its label maps: `statistics.csv` and `instances.csv`.

`statistics.csv` has volume, mean intensity and, where it is known, expected Dice of each label of each case: one row
per case and label, in the order of case names and, within a case, of the model's labels. A region has a row like a
label and counts every voxel whose value belongs to it, so that nested regions count a voxel more than once.
`instances.csv` has position, size and mean probability of each instance: one row per case and instance, in the order of
case names and of the numbers in the instance map. Rows of earlier runs stay until a run replaces those of the same
case.

Tested in tests/inference/files/test_label_statistics.py and tests/inference/files/test_instance_table.py.
"""

import csv
import io
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import UsageError
from autoseg.imaging.formats.reading import Volume
from autoseg.imaging.formats.volume import voxel_mm3
from autoseg.records.confidence import ExpectedDice
from autoseg.records.dataset import BACKGROUND, IGNORE, LabelValues
from autoseg.records.files import describe_special, write_text
from autoseg.records.prediction import Instance
from autoseg.text import distinct_names, format_cell, parse_cell

SECONDS_BETWEEN_WRITES = 30.0
"""Each write replaces the whole table, which is too slow after every one of thousands of cases. A killed run loses
at most the rows of this time, and measures these cases again when it is resumed."""


class CaseTable:
    """The rows of a CSV file for many cases, old and new ones; the first column is the case."""

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        what: str,
        *,
        optional: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the rows that the file has already.

        Args:
            path: The CSV file; need not exist.
            columns: Names of the columns, `case` first.
            what: Content of the table for messages, such as `statistics`.
            optional: Names of further columns, which the file has only if some row has a value there.
            clock: Time in seconds.

        Raises:
            UsageError: If the file exists and is not a table with these columns.
        """
        self._path = path
        self._columns = (*columns, *optional)
        self._required = tuple(columns)
        self._what = what
        self._clock = clock
        self._written = clock()
        self._rows = self._read(path)

    def __contains__(self, case: str) -> bool:
        """Whether there are rows of this case."""
        return case in self._rows

    def take_over(self, cases: Iterable[str], others: Iterable[Path]) -> None:
        """Copy missing rows of these cases from other tables, such as those of the parts of a run.

        Raises:
            UsageError: If one of the files is not a table with these columns.
        """
        wanted = set(cases) - set(self._rows)
        for path in others:
            self._rows |= {case: rows for case, rows in self._read(path).items() if case in wanted}

    def put(self, case: str, rows: Sequence[Sequence[str]]) -> None:
        """Set the rows of one case; they are on disk at the latest after `SECONDS_BETWEEN_WRITES` and the next case.

        Args:
            case: Case id.
            rows: Cells in the order of the columns, the case id first; a case may have no rows.
        """
        self._rows[case] = [dict(zip(self._columns, cells, strict=True)) for cells in rows]
        if self._clock() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Replace the file."""
        text = io.StringIO()
        columns = self._written_columns()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        quoting = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)  # csv misses \r
        writer.writerow({column: format_cell(column) for column in columns})
        for _, rows in sorted(self._rows.items()):
            for row in rows:
                cells = {column: format_cell(row[column]) for column in columns}
                (quoting if any("\r" in cell for cell in cells.values()) else writer).writerow(cells)
        write_text(text.getvalue(), self._path)
        self._written = self._clock()

    def _written_columns(self) -> tuple[str, ...]:
        optional = self._columns[len(self._required) :]
        is_used = any(row[column] for rows in self._rows.values() for row in rows for column in optional)
        return self._columns if is_used else self._required

    def _read(self, path: Path) -> dict[str, list[dict[str, str]]]:
        if not path.exists():
            return {}
        if kind := describe_special(path):
            raise UsageError(f"{path}: is {kind}, expected a table of {self._what}. Move it away")
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [[parse_cell(cell) for cell in row] for row in csv.reader(file, strict=True) if row]
            found, lines = tuple(rows[0] if rows else ()), rows[1:]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path}: cannot be read as a table of {self._what} ({error}). Move it away") from error
        if found not in (self._required, self._columns):
            raise UsageError(
                f"{path}: has the columns {', '.join(found) or '(none)'}, expected {', '.join(self._required)}; "
                "another model or program wrote it. Move it away, or choose another output folder"
            )
        by_case: dict[str, list[dict[str, str]]] = {}
        for number, cells in enumerate(lines, start=1):
            if len(cells) != len(found):
                raise UsageError(
                    f"{path}: row {number} has {len(cells)} cells, expected {len(found)}; the table of "
                    f"{self._what} is damaged. Move it away"
                )
            empty = [""] * (len(self._columns) - len(found))
            by_case.setdefault(cells[0], []).append(dict(zip(self._columns, [*cells, *empty], strict=True)))
        return by_case


@contextmanager
def written_at_the_end(table: CaseTable) -> Iterator[CaseTable]:
    """A table that is written at the end, also when the run is stopped by an error or by Ctrl-C."""
    try:
        yield table
    finally:
        table.write()


STATISTICS_FILE = "statistics.csv"

_STATISTICS_COLUMNS = ("case", "label", "values", "voxels", "volume_ml")
_EXPECTED_COLUMNS = ("expected_dice", "expected_dice_low", "expected_dice_high")


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
    expected_dice: ExpectedDice | None = None
    """Dice that the label is expected to have; None: not known, or no voxels."""


def measure_labels(
    case: str,
    label_map: NDArray[np.integer],
    volume: Volume,
    labels: Mapping[str, LabelValues],
    absent_channels: Collection[int] = (),
) -> tuple[LabelStatistics, ...]:
    """Measure all labels of one case, slice by slice: memory beyond image and label map is that of one slice.

    Args:
        case: Case id.
        label_map: Label values (Z, Y, X) on the image's grid.
        volume: The image, (C, Z, Y, X), with the values of its file.
        labels: Value of each label, or all values of a region, by name; `background` and `ignore` are left out.
        absent_channels: Numbers of the channels that the case lacks, which have no mean intensities.

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
        means = tuple(
            float(total) / voxels if voxels and channel not in absent_channels else None
            for channel, total in enumerate(totals)
        )
        rows.append(LabelStatistics(case, name, values, voxels, None if voxel_ml is None else voxels * voxel_ml, means))
    return tuple(rows)


def _voxel_ml(volume: Volume) -> float | None:
    if volume.template.file_dimensions == 2:
        return None
    return voxel_mm3(volume.grid) / 1000


def statistics_table(
    path: Path, channel_names: Sequence[str], *, clock: Callable[[], float] = time.monotonic
) -> CaseTable:
    """The table of statistics in a file, which need not exist.

    The last columns are the expected Dice and its bounds, once a row has them.

    Args:
        path: The CSV file.
        channel_names: Channels of the model; each has a column, with the channel's number where names are equal.
        clock: Time in seconds.

    Raises:
        UsageError: If the file exists and is not a table of these channels.
    """
    columns = (*_STATISTICS_COLUMNS, *(f"mean_{name}" for name in distinct_names(channel_names)))
    return CaseTable(path, columns, "statistics", optional=_EXPECTED_COLUMNS, clock=clock)


def statistics_rows(rows: Sequence[LabelStatistics]) -> list[tuple[str, ...]]:
    """Cells of the rows of one case."""
    return [(*_statistics_cells(row), *_expected_cells(row)) for row in rows]


def _expected_cells(row: LabelStatistics) -> tuple[str, ...]:
    expected = row.expected_dice
    if expected is None:
        return ("",) * len(_EXPECTED_COLUMNS)
    return tuple(f"{value:.4f}" for value in (expected.value, expected.low, expected.high))


def _statistics_cells(row: LabelStatistics) -> tuple[str, ...]:
    return (
        row.case,
        row.label,
        " ".join(map(str, row.values)),
        str(row.voxels),
        "" if row.volume_ml is None else f"{row.volume_ml:.6f}",
        *("" if mean is None else f"{mean:.7g}" for mean in row.mean_intensities),
    )


INSTANCES_FILE = "instances.csv"

_INSTANCE_COLUMNS = (
    "case", "id", "label", "value", "voxels", "volume_mm3", "mean_probability", "touches_border",
    "center_z", "center_y", "center_x", "center_x_mm", "center_y_mm", "center_z_mm",
    "start_z", "start_y", "start_x", "stop_z", "stop_y", "stop_x",
)  # fmt: skip


def instance_table(path: Path) -> CaseTable:
    """The table of instances in a file, which need not exist; its last column is the score, once a row has one.

    Raises:
        UsageError: If the file exists and is not a table of instances.
    """
    return CaseTable(path, _INSTANCE_COLUMNS, "instances", optional=("score",))


def instance_rows(case: str, instances: Sequence[Instance]) -> list[tuple[str, ...]]:
    """Cells of the rows of one case."""
    return [_instance_cells(case, instance) for instance in instances]


def _instance_cells(case: str, instance: Instance) -> tuple[str, ...]:
    world = instance.center_mm
    return (
        case,
        str(instance.id),
        instance.label,
        str(instance.value),
        str(instance.voxels),
        "" if instance.volume_mm3 is None else f"{instance.volume_mm3:.7g}",
        "" if instance.mean_probability is None else f"{instance.mean_probability:.4f}",
        "yes" if instance.touches_border else "no",
        *(f"{position:.2f}" for position in instance.center),
        *(("",) * 3 if world is None else (f"{position:.3f}" for position in world)),
        *map(str, instance.start),
        *map(str, instance.stop),
        "" if instance.score is None else f"{instance.score:.4f}",
    )
