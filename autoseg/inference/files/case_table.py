"""A CSV file with rows for many cases, which a run over files keeps beside its results.

Rows of earlier runs stay until a run replaces those of the same case.

Tested in tests/inference/files/test_label_statistics.py and tests/inference/files/test_instance_table.py.
"""

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.records.files import write_text

SECONDS_BETWEEN_WRITES = 30.0
"""Each write replaces the whole table, which is too slow after every one of thousands of cases. A killed run loses
at most the rows of this time, and measures these cases again when it is resumed."""


class CaseTable:
    """The rows of a CSV file, old and new ones; the first column is the case."""

    def __init__(
        self, path: Path, columns: Sequence[str], what: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the rows that the file has already.

        Args:
            path: The CSV file; need not exist.
            columns: Names of the columns, `case` first.
            what: Content of the table for messages, such as `statistics`.
            clock: Time in seconds.

        Raises:
            UsageError: If the file exists and is not a table with these columns.
        """
        self._path = path
        self._columns = tuple(columns)
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
            raise UsageError(f"{path}: cannot be read as a table of {self._what} ({error}). Move it away") from error
        if found != self._columns:
            raise UsageError(
                f"{path}: has the columns {', '.join(found) or '(none)'}, expected {', '.join(self._columns)}; another "
                "model or program wrote it. Move it away, or choose another output folder"
            )
        by_case: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            by_case.setdefault(row["case"], []).append(row)
        return by_case


@contextmanager
def written_at_the_end(table: CaseTable) -> Iterator[CaseTable]:
    """A table that is written at the end, also when the run is stopped by an error or by Ctrl-C."""
    try:
        yield table
    finally:
        table.write()
