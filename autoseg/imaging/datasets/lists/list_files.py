"""CSV and JSON lists as tables: columns in the order of the file, and cells by column for each row.

Tested in tests/imaging/datasets/lists/test_case_lists.py.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import DatasetError, RecordError
from autoseg.records.files import describe_special, read_json
from autoseg.text import parse_cell

LIST_ENDINGS = (".csv", ".tsv", ".json")
"""Endings of list files, lower case."""

EXPECTED_JSON = 'expected a list of {"case": ..., "image": path or [paths], "label": path}'

_SEPARATORS = ",;\t"

Cell = str | tuple[str, ...]
"""Content of a cell without outer blanks, empty where there is none; several paths in JSON only."""


@dataclass(frozen=True)
class ListTable:
    """A list of cases as it is in the file."""

    path: Path
    columns: tuple[str, ...]
    """Names of the columns as written, without outer blanks; in JSON all keys, in the order of their first use."""
    rows: tuple[Mapping[str, Cell], ...]
    """Rows that are not blank; a cell that is missing is empty."""


def is_list_file(path: Path) -> bool:
    """Whether a path is, by its ending, a list of cases, and there."""
    return path.suffix.lower() in LIST_ENDINGS and path.exists() and not path.is_dir()


def read_list_table(path: Path) -> ListTable:
    """Read a CSV file with a header, separated by comma, semicolon or tab, or a JSON list of objects.

    Raises:
        DatasetError: If the file cannot be read, a row has more cells than the header, a column occurs twice, or an
            entry is not an object.
    """
    return read_json_table(path) if path.suffix.lower() == ".json" else _read_csv_table(path)


def read_json_table(path: Path) -> ListTable:
    """Read a JSON list of objects.

    Raises:
        DatasetError: If the file cannot be read or is no such list.
    """
    try:
        return table_of_entries(path, read_json(path))
    except RecordError as error:
        raise DatasetError(str(error)) from error


def table_of_entries(path: Path, entries: object) -> ListTable:
    """A table of JSON objects.

    Args:
        path: File that they come from, for messages.
        entries: Content of the list.

    Raises:
        DatasetError: If this is not a list of objects.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f"{path}: {EXPECTED_JSON}")
    columns = tuple(dict.fromkeys(str(key) for entry in entries for key in entry))
    rows = [{str(key): _json_cell(value) for key, value in entry.items()} for entry in entries]
    return ListTable(path, columns, tuple({name: row.get(name, "") for name in columns} for row in rows))


def _json_cell(value: object) -> Cell:
    """Text or several texts; numbers are written out, null is empty, anything else stays as it is in the file."""
    if isinstance(value, list):
        return tuple(_json_text(part) for part in value)
    return _json_text(value)


def _json_text(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list | dict) else str(value).strip()


def _read_csv_table(path: Path) -> ListTable:
    lines = [[parse_cell(cell.strip()) for cell in row] for row in _csv_rows(path)]
    filled = [(number, cells) for number, cells in enumerate(lines, start=1) if any(cells)]
    if not filled:
        raise DatasetError(f"{path}: the file is empty; expected a header such as case,image,label")
    _, columns = filled[0]
    while columns and not columns[-1]:
        columns = columns[:-1]  # a separator at the end of the line
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DatasetError(f"{path}: the column {twice[0] or 'without name'} occurs twice; give each its own name")
    rows = []
    for number, cells in filled[1:]:
        if any(cells[len(columns) :]):
            raise DatasetError(
                f"{path}: row {number} has {len(cells)} cells, the header {len(columns)}: {', '.join(cells)}. Quote "
                'names that have the separator in them: "a,b.nii.gz".'
            )
        rows.append(dict(zip(columns, [*cells, *[""] * len(columns)], strict=False)))
    return ListTable(path, tuple(columns), tuple(rows))


def _csv_rows(path: Path) -> list[list[str]]:
    if kind := describe_special(path):
        raise DatasetError(f"{path}: cannot be read as CSV: it is {kind}, expected a regular file")
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        text = content.decode(encoding)
        first, _, rest = text.partition("\n")
        if first.strip().lower().startswith("sep="):  # Excel's own way to say how cells are separated
            return list(csv.reader(io.StringIO(rest, newline=""), delimiter=first.strip()[4:] or ","))
        header = next((line for line in text.splitlines() if line.strip()), "")
        separator = max(_SEPARATORS, key=lambda mark: _count_unquoted(header, mark))
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: cannot be read as CSV: {error}. Save it as UTF-8.") from error
    except (OSError, csv.Error, TypeError) as error:
        raise DatasetError(f"{path}: cannot be read as CSV: {error}") from error


def _count_unquoted(line: str, mark: str) -> int:
    return sum(part.count(mark) for part in line.split('"')[::2])
