"""Names of labels in files: labels.json, tables of ITK-SNAP, 3D Slicer, FreeSurfer and BIDS, and CSV tables.

    {"liver": 1, "tumour": 2}   {"1": "liver"}   {"labels": {"whole": [1, 2], ...}, ...}   labels.json, dataset.json
    1  255 0 0  1  1 1  "liver"                                                            ITK-SNAP
    1  liver  255 0 0 255                                                                  3D Slicer, FreeSurfer
    index <TAB> name                                                                       BIDS; also CSV

JSON declares labels, regions and the ignore label. The other tables name values, and those that occur become labels.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from autoseg.errors import DatasetError, RecordError
from autoseg.imaging.arrays.labels import choose_region_order
from autoseg.imaging.datasets.dataset_json import DatasetJson, declared_channels, declared_labels
from autoseg.imaging.formats.label_values import MAX_LABEL_VALUE
from autoseg.records.dataset import LabelValues
from autoseg.records.files import read_json

TABLE_ENDINGS = (".json", ".txt", ".ctbl", ".label", ".lut", ".tsv", ".csv")
"""Endings of files that name labels."""

_ITK_SNAP = re.compile(r'(?P<value>\d{1,9})(?:\s+\d+){3}\s+[\d.eE+-]+\s+[01]\s+[01]\s+"(?P<name>[^"]*)"')
_COLOR_TABLE = re.compile(r"(?P<value>\d{1,9})\s+(?P<name>\S.*?)(?:\s+\d+){4}")
_DELIMITED = re.compile(r"(?P<value>\d{1,9})\s*[,;\t]\s*\"?(?P<name>[^,;\t\"]+?)\"?\s*(?:[,;\t].*)?")

_VALUE_COLUMNS = ("index", "value", "labelvalue", "label_value", "id", "label_id", "idx", "number")
_NAME_COLUMNS = ("name", "label_name", "labelname", "structure", "label", "class", "description")

_USUAL_NAMES = re.compile(
    r"label[_-]?(names|map)?s?\.(json|txt|tsv|csv)|labels?[_-]?desc\w*\.txt|dseg\.tsv|.+\.(ctbl|label|lut)|.*lut\.txt",
    re.IGNORECASE,
)
"""Names of files beside a dataset that are taken as tables of its labels."""


@dataclass(frozen=True)
class LabelNames:
    """Names of labels, as the user or a file gives them."""

    labels: dict[str, LabelValues] | None = None
    """Declared labels; None: `value_names` names values, of which those that occur are labels."""
    regions_class_order: tuple[int, ...] | None = None
    channel_names: tuple[str, ...] | None = None
    """Channels that the file names too; None: it does not."""
    value_names: Mapping[int, str] | None = None
    source: Path | None = None
    """The file; None: the user gave the names."""


def given_labels(labels: Mapping[str, LabelValues]) -> LabelNames:
    """Names that the user gives, regions from the largest to the smallest."""
    return LabelNames(dict(labels), choose_region_order(labels))


def read_label_names(path: Path) -> LabelNames:
    """Read the names of labels from a file.

    Raises:
        DatasetError: If the file cannot be read, or is no table of labels.
    """
    if path.suffix.lower() == ".json":
        return _read_json_names(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text: {error}") from error
    names: dict[int, str] = {}
    for value, name in _rows_with_header(lines) or _rows(lines, path):
        if names.setdefault(value, name) != name:
            raise DatasetError(f"{path}: the value {value} is called {names[value]!r} and {name!r}; give it one name")
    if not names:
        raise DatasetError(f"{path}: names no labels; {_EXPECTED}")
    return LabelNames(value_names={value: name for value, name in names.items() if value}, source=path)


def find_label_names(folder: Path) -> LabelNames | None:
    """Names of labels in a file beside a dataset, such as labels.json, labels.txt or one that ends in .ctbl.

    Returns:
        The names; None where no such file is a table of labels.

    Raises:
        DatasetError: If several files name labels, and not all alike.
    """
    found: list[LabelNames] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and _USUAL_NAMES.fullmatch(path.name):
            try:
                found.append(read_label_names(path))
            except DatasetError:
                continue  # a file of this name that is no table belongs to something else
    declared = [names for names in found if names.labels is not None]
    chosen = declared or found
    if any((names.labels, names.value_names) != (chosen[0].labels, chosen[0].value_names) for names in chosen):
        files = ", ".join(names.source.name for names in chosen if names.source is not None)
        raise DatasetError(
            f"{folder}: several files name labels, and not alike: {files}. Give the right one with --label-names FILE"
        )
    return chosen[0] if chosen else None


_EXPECTED = (
    'expected {"liver": 1, "tumour": 2} or {"labels": {...}} in JSON; a table of ITK-SNAP (1 255 0 0 1 1 1 "liver"), '
    "of 3D Slicer or FreeSurfer (1 liver 255 0 0 255); or columns such as index and name, separated by tabs or commas"
)


def _read_json_names(path: Path) -> LabelNames:
    try:
        content = read_json(path)
        if isinstance(content, list):
            content = {"labels": _labels_of_list(content)}
        elif isinstance(content, dict) and not isinstance(content.get("labels"), dict | list):
            content = {"labels": content}
        elif isinstance(content, dict) and isinstance(content["labels"], list):
            content = {**content, "labels": _labels_of_list(content["labels"])}
        declared = DatasetJson.model_validate(content)
    except (RecordError, ValidationError, TypeError, KeyError) as error:
        raise DatasetError(f"{path}: is no table of labels; {_EXPECTED}") from error
    labels = declared_labels(declared, path)
    order = declared.regions_class_order
    return LabelNames(
        labels,
        tuple(order) if order is not None else choose_region_order(labels),
        declared_channels(declared),
        source=path,
    )


def _labels_of_list(entries: list[object]) -> dict[str, object]:
    """Values by name, from a list of names, or of objects with a value and a name."""
    labels: dict[str, object] = {}
    for position, entry in enumerate(entries):
        if isinstance(entry, dict):
            keys = {str(key).lower(): value for key, value in entry.items()}
            value_key = next((name for name in _VALUE_COLUMNS if name in keys), _VALUE_COLUMNS[0])
            name_key = next((name for name in _NAME_COLUMNS if name in keys), _NAME_COLUMNS[0])
            labels[str(keys[name_key])] = keys[value_key]
        else:
            labels[str(entry)] = position
    return labels


def _rows_with_header(lines: list[str]) -> list[tuple[int, str]]:
    """Values and names of a table whose first line names its columns; empty for a file without such a line."""
    header = lines[0].lower() if lines else ""
    delimiter = next((mark for mark in "\t;," if mark in header), ",")
    columns = [cell.strip() for cell in header.split(delimiter)]
    value_column = next((name for name in _VALUE_COLUMNS if name in columns), None)
    name_column = next((name for name in _NAME_COLUMNS if name in columns), None)
    if value_column is None or name_column is None:
        return []
    rows = [
        dict(zip(columns, (cell.strip() for cell in row), strict=False))
        for row in csv.reader(lines[1:], delimiter=delimiter)
    ]
    return [
        (int(row[value_column]), row[name_column])
        for row in rows
        if row.get(value_column, "").isdecimal() and row.get(name_column, "n/a") not in ("", "n/a")
    ]


def _rows(lines: list[str], path: Path) -> Iterator[tuple[int, str]]:
    """Values and names of a table without header; lines that begin with # are comments."""
    for line in lines:
        if not line or line.startswith("#"):
            continue
        match = next((found for form in _FORMS if (found := form.fullmatch(line))), None)
        if match is None or int(match["value"]) > MAX_LABEL_VALUE:
            raise DatasetError(f"{path}: the line {line[:60]!r} names no label; {_EXPECTED}")
        yield int(match["value"]), match["name"].strip()


_FORMS = (_ITK_SNAP, _COLOR_TABLE, _DELIMITED)
