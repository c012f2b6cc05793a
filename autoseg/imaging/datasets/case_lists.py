"""CSV and JSON lists of files: one case per row or entry, paths relative to the list.

Prediction reads the rows of its lists, which have no labels, with the same functions.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from autoseg.errors import DatasetError, RecordError
from autoseg.imaging.formats.volume import split_channel, split_ending
from autoseg.records.dataset import CaseFiles, Fault
from autoseg.records.files import describe_special, read_json, real_path, relative_path
from autoseg.records.names import is_file_name

NO_NAME = "(no name)"
"""Placeholder for the missing id of a case; always a fault."""

_IMAGE_COLUMN = re.compile(r"image(?:_(\d+))?")
_EXPECTED_JSON = 'expected a list of {"case": ..., "image": path or [paths], "label": path}'


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: str | list[str]
    case: str = ""
    label: str = ""


def read_case_list(path: Path) -> tuple[tuple[CaseFiles, ...], tuple[Fault, ...]]:
    """Read a list of cases.

    CSV: a header with `image`, or `image_0`, `image_1`, ... for channels in separate files, `label`, and optionally
    `case`; separated by comma, semicolon or tab. JSON: a list of {"case": ..., "image": path or [paths],
    "label": path}. Without `case`, the case is named after its image file.

    Args:
        path: List file; its cases' paths become relative to its folder, symbolic links resolved.

    Returns:
        Cases sorted by id, and faults: rows without label, names used twice, names that cannot name a file.

    Raises:
        DatasetError: If the list cannot be read or lacks the columns.
    """
    is_csv = path.suffix.lower() == ".csv"
    entries = _csv_entries(path) if is_csv else _json_entries(path)
    cases = []
    for entry in entries:
        images = [entry.image] if isinstance(entry.image, str) else entry.image
        cases.append(listed_case(path.parent, entry.case or _name_from_images(images), images, entry.label))
    cases.sort(key=lambda files: files.case)
    return tuple(cases), tuple(listing_faults(cases))


def listed_case(folder: Path, case_id: str, images: list[str], label: str) -> CaseFiles:
    """A case from listed paths, absolute or relative to the dataset folder; empty paths are left out."""
    return CaseFiles(
        case=case_id or NO_NAME,
        images=tuple(_relative_path(folder, image) for image in images if image),
        label=_relative_path(folder, label) if label else "",
    )


def listing_faults(cases: list[CaseFiles]) -> list[Fault]:
    """Faults of listed cases that show before any file is opened: names, and files that are not listed."""
    count = Counter(files.case for files in cases)
    channels = Counter(len(files.images) for files in cases if files.images)
    expected = channels.most_common(1)[0][0] if channels else 0
    faults = []
    for files in cases:
        what = []
        if not files.images:
            what.append("no image is listed for this case")
        elif len(files.images) != expected:
            what.append(f"{len(files.images)} image files are listed, most cases have {expected}")
        if not files.label:
            what.append("no label map is listed for this case")
        if count[files.case] > 1:
            what.append("several cases have this name; give each its own name (in lists: in the column `case`)")
        if files.case == NO_NAME or not is_file_name(files.case) or "\\" in files.case:
            what.append("the name of a case must be usable as a file name")
        file = files.images[0] if files.images else files.label
        faults += [Fault(severity="error", case=files.case, file=file, what=sentence) for sentence in what]
    return faults


def case_name(image: str) -> str:
    """The case id: the name of the image file without its ending."""
    return split_ending(PurePath(image).name)[0]


def _relative_path(folder: Path, path: str) -> str:
    """A path relative to the dataset folder, POSIX separators, `./` left out; `..` where it lies outside."""
    listed = Path(path)
    if listed.is_absolute():
        # `..` leads to the parent of a link's target: relative paths hold only between folders without links.
        return relative_path(real_path(listed.parent) / listed.name, real_path(folder))
    return listed.as_posix()


def read_csv_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file with a header, separated by comma, semicolon or tab, without outer blanks.

    Raises:
        DatasetError: If the file cannot be read.
    """
    if kind := describe_special(path):
        raise DatasetError(f"{path}: cannot be read as CSV: it is {kind}, expected a regular file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        header = lines[0] if lines else ""
        delimiter = next((mark for mark in ",;\t" if mark in header), ",")
        rows = [
            {(key or "").strip(): (value or "").strip() for key, value in row.items() if isinstance(value, str)}
            for row in csv.DictReader(lines, delimiter=delimiter)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as CSV: {error}") from error
    return [name.strip() for name in header.split(delimiter)], rows


def read_json_rows(path: Path) -> list[dict[str, object]]:
    """Entries of a JSON list of objects.

    Raises:
        DatasetError: If the file cannot be read, or is not a list of objects.
    """
    try:
        rows = read_json(path)
    except RecordError as error:
        raise DatasetError(str(error)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{path}: {_EXPECTED_JSON}")
    return rows


def image_columns(names: Iterable[str]) -> list[str]:
    """The names among these that hold images: `image`, or `image_0`, `image_1`, ... in the order of channels."""
    numbers = {name: int(match[1] or 0) for name in names if (match := _IMAGE_COLUMN.fullmatch(name))}
    return sorted(numbers, key=numbers.__getitem__)


def _csv_entries(path: Path) -> list[_Entry]:
    columns, rows = read_csv_rows(path)
    images = image_columns(columns)
    if not images or "label" not in columns:
        expected = "image (or image_0, image_1, ...) and label"
        raise DatasetError(f"{path}: expected the columns {expected}, found {', '.join(columns)}")
    return [
        _Entry(
            case=row.get("case", ""), image=[row[name] for name in images if row.get(name)], label=row.get("label", "")
        )
        for row in rows
        if any(row.values())
    ]


def _json_entries(path: Path) -> list[_Entry]:
    try:
        return TypeAdapter(list[_Entry]).validate_python(read_json_rows(path))
    except ValidationError as error:
        wrong = "\n".join(f"  entry {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise DatasetError(f"{path}: {_EXPECTED_JSON}:\n{wrong}") from error


def _name_from_images(images: list[str]) -> str:
    """CASE for CASE_0000, CASE_0001, ...; the stem for a single image."""
    if not images:
        return ""
    stem = case_name(images[0])
    channel = split_channel(stem) if len(images) > 1 else None
    return channel[0] if channel else stem
