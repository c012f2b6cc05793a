"""Lists of files: one case per row or entry, paths relative to the list.

Prediction reads the rows of its lists, which need no labels, with the same functions.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.labels.annotated_labels import read_annotated
from autoseg.imaging.datasets.lists.case_names import name_cases, name_channels_of
from autoseg.imaging.datasets.lists.list_columns import SPLIT_FOLDS, ListColumns, cell_parts, find_columns
from autoseg.imaging.datasets.lists.list_files import Cell, ListTable, read_list_table
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.volume import split_ending
from autoseg.records.dataset import CaseFiles, Fault, LabelPart
from autoseg.records.files import real_path, relative_path
from autoseg.records.names import is_file_name

NO_NAME = "(no name)"
"""Placeholder for the missing id of a case; always a fault."""

_FOLD = re.compile(r"(?:fold[_ -]?)?([0-9]{1,9})(?:\.0{0,9})?", re.IGNORECASE)


@dataclass(frozen=True)
class ListedCases:
    """Cases of a list, before any image is opened."""

    cases: tuple[CaseFiles, ...]
    """Cases sorted by id."""
    faults: tuple[Fault, ...] = ()
    channel_words: tuple[str, ...] | None = None
    """Channels that the columns name, in the order of each case's images; None: they name none."""
    recognized: str = ""
    """What was recognised, for a note; empty where the list needs none."""
    notes: tuple[str, ...] = ()
    """What is not used, one sentence each."""


def read_case_list(path: Path) -> ListedCases:
    """Read a list of cases: CSV (separated by comma, semicolon or tab) with a header, or a JSON list of objects.

    Columns, or keys: `image` (in JSON one path, or one for each channel), `image_0`, `image_1`, ... or a column for
    each channel that is called like it; `label`, under any of its usual names; and, where they are wanted, `case`,
    `group` (cases that stay in one fold), `fold` (the fold whose validation set the case belongs to), `annotated`
    (labels that were looked for in the case; empty: all) and `instances` (map with a number for each object). Without
    `case`, cases are named after their groups if each case has its own, else after their files and folders.

    Args:
        path: List file; its cases' paths become relative to its folder, symbolic links resolved.

    Returns:
        Cases and faults: rows without image or label, names used twice, names that cannot name a file.

    Raises:
        DatasetError: If the list cannot be read, lacks the columns, or none of its image files exists.
    """
    return cases_of_table(read_list_table(path))


def cases_of_table(table: ListTable, *, by_common_part: bool = False) -> ListedCases:
    """The cases of a list that was read.

    Args:
        table: The list.
        by_common_part: Whether cases with several images in one column are named by what the names have in common, and
            channels by what they differ in.

    Raises:
        DatasetError: If columns are missing, or none of the image files exists.
    """
    columns, folder = find_columns(table), table.path.parent
    rows = [row for row in table.rows if _fold_word(row, columns) != "test"]
    images = [row_images(row, columns, folder) for row in rows]
    _check_any_exists(table, images)
    names = name_cases(images, by_common_part=by_common_part or columns.channels is not None)
    groups = [_text(row, columns.group) for row in rows]
    if columns.group and all(groups) and len(set(groups)) == len(groups):
        names = groups
    filled = filled_columns(rows, columns)
    cases, faults = [], []
    for row, files, name in zip(rows, images, names, strict=True):
        label = [part for column in _label_columns(columns) for part in cell_parts(row[column])]
        listed = listed_case(folder, _text(row, columns.case) or name, files, label[0] if label else "")
        listed = listed.model_copy(update={"absent_channels": find_absent(row, filled)})
        fold, fault = read_fold(_fold_word(row, columns))
        faults += [*_error(listed, fault), *_missing_images(listed, filled)]
        if len(label) > max(1, len(columns.masks)):
            faults += _error(listed, "several label maps are listed; expected one")
        masks = _read_masks(row, columns, folder)
        about = {"group": _text(row, columns.group), "fold": fold, "parts": masks}
        annotated = read_annotated(row[columns.annotated]) if columns.annotated else None
        numbers = cell_parts(row[columns.instances])[:1] if columns.instances else ()
        numbered = _relative_path(folder, numbers[0]) if numbers else ""
        cases.append(listed.model_copy(update={**about, "annotated": annotated, "instances": numbered}))
    cases.sort(key=lambda files: files.case)
    faults += [*listing_faults(cases), *fold_faults(cases)]
    notes = tuple(_unused(columns, len(table.rows) - len(rows)))
    channels = columns.channels or (name_channels_of(images) if by_common_part else None)
    return ListedCases(tuple(cases), tuple(faults), channels, _recognized(table, columns), notes)


def _label_columns(columns: ListColumns) -> list[str]:
    return [column for column, _ in columns.masks] or [columns.label]


def _read_masks(row: Mapping[str, Cell], columns: ListColumns, folder: Path) -> tuple[LabelPart, ...] | None:
    """The masks of a case by label, without those that it lacks; None for a list of label maps."""
    parts = tuple(
        LabelPart(label=label, file=_relative_path(folder, cell_parts(row[column])[0]))
        for column, label in columns.masks
        if cell_parts(row[column])
    )
    return parts or None


def row_images(row: Mapping[str, Cell], columns: ListColumns, folder: Path) -> list[str]:
    """Image files of a row in the order of the columns, POSIX separators; cells without a name are left out."""
    return [_posix(folder, part) for name in columns.images for part in cell_parts(row[name])]


def listed_case(folder: Path, case_id: str, images: Sequence[str], label: str) -> CaseFiles:
    """A case from listed paths, absolute or relative to the dataset folder; empty paths are left out."""
    return CaseFiles(
        case=case_id or NO_NAME,
        images=tuple(_relative_path(folder, image) for image in images if image),
        label=_relative_path(folder, label) if label else "",
    )


def listing_faults(cases: list[CaseFiles]) -> list[Fault]:
    """Faults of listed cases that show before any file is opened: names, and files that are not listed."""
    count = Counter(files.case for files in cases)
    channels = Counter(len(files.images) + len(files.absent_channels) for files in cases if files.images)
    expected = channels.most_common(1)[0][0] if channels else 0
    faults = []
    for files in cases:
        what = []
        if not files.images:
            what.append("no image is listed for this case")
        elif len(files.images) + len(files.absent_channels) != expected:
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


def _text(row: Mapping[str, Cell], column: str) -> str:
    """Text of a cell; empty without that column."""
    return " ".join(cell_parts(row[column])) if column else ""


def _fold_word(row: Mapping[str, Cell], columns: ListColumns) -> str:
    """The fold that a row names, `test` for a row that no fold has, empty where it names none."""
    split = _text(row, columns.split).casefold()
    if SPLIT_FOLDS.get(split) == "test":
        return "test"
    return _text(row, columns.fold) if columns.fold else SPLIT_FOLDS.get(split, split)


def read_fold(word: str) -> tuple[int | None, str]:
    """Number of a fold, None for an empty word; and what is wrong with it."""
    match = _FOLD.fullmatch(word)
    if match is None and word:
        return None, (
            f"the fold {word!r} is not a whole number from 0 on; leave the cell empty for a case that every fold "
            "trains on"
        )
    return (int(match[1]) if match else None), ""


def fold_faults(cases: Sequence[CaseFiles]) -> Iterator[Fault]:
    """Groups that are divided between folds, and a fold that leaves no case to train on."""
    folds: dict[str, set[int | None]] = {}
    for files in cases:
        folds.setdefault(files.group, set()).add(files.fold)
    for group, numbers in folds.items():
        if group and len(numbers) > 1:
            listed = ", ".join(sorted("none" if number is None else str(number) for number in numbers))
            what = f"cases of the group {group!r} are in different folds ({listed}); give them the same fold"
            yield Fault(severity="error", case="", file="", what=what)
    named = {files.fold for files in cases}
    if len(named) == 1 and None not in named:
        what = f"all cases are in fold {named.pop()}, which leaves none to train on; expected several folds"
        yield Fault(severity="error", case="", file="", what=what)


def filled_columns(rows: Sequence[Mapping[str, Cell]], columns: ListColumns) -> tuple[str, ...]:
    """Columns of images without the last ones, where these are empty in every row and so are no channels."""
    last = [number for number, name in enumerate(columns.images) if any(cell_parts(row[name]) for row in rows)]
    return columns.images[: max(last, default=-1) + 1]


def find_absent(row: Mapping[str, Cell], columns: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the channels that a row has no image of, ascending: its empty cells, or the empty parts of its cell.

    Args:
        row: Cells by column.
        columns: Column of each channel, empty for a channel without one; or one column for all of them.

    A row without any image lacks none: that is a fault of its own.
    """
    if len(columns) == 1:
        cell = row.get(columns[0], "")
        parts = [bool(part) for part in cell] if isinstance(cell, tuple) else []
    else:
        parts = [bool(cell_parts(row.get(name, ""))) for name in columns]
    return tuple(number for number, part in enumerate(parts) if not part) if any(parts) else ()


def _missing_images(files: CaseFiles, columns: Sequence[str]) -> list[Fault]:
    """The fault of a row that has images of some channels only."""
    absent = files.absent_channels
    if not absent:
        return []
    where = ", ".join(columns[number] if len(columns) > 1 else f"{columns[0]}[{number}]" for number in absent)
    what = f"no image is listed in the column {where}"
    return [Fault(severity="error", case=files.case, file=files.images[0], what=what, is_missing_channel=True)]


def _error(files: CaseFiles, what: str) -> list[Fault]:
    file = files.images[0] if files.images else files.label
    return [Fault(severity="error", case=files.case, file=file, what=what)] if what else []


def _check_any_exists(table: ListTable, images: Sequence[Sequence[str]]) -> None:
    listed = [file for files in images for file in files[:1]]
    folder = table.path.parent
    if listed and not any(read_address(folder / file).path.exists() for file in listed):
        raise DatasetError(
            f"{table.path}: none of the {len(listed)} listed images exists, the first is {folder / listed[0]}; paths "
            "are absolute, or relative to the folder of the list. Correct them, or put the list where its paths begin."
        )


def _recognized(table: ListTable, columns: ListColumns) -> str:
    """What was recognised in the columns of a list, beyond an image and a label map in columns called so."""
    held = {
        f"channels {', '.join(columns.images)}": columns.channels is not None,
        f"label maps in {columns.label}": columns.label.casefold() not in ("", "label"),
        f"masks of {', '.join(label for _, label in columns.masks)}": bool(columns.masks),
        f"groups in {columns.group}": bool(columns.group),
        f"folds in {columns.fold or columns.split}": bool(columns.fold or columns.split),
        f"labels that were looked for in {columns.annotated}": bool(columns.annotated),
        f"numbers of objects in {columns.instances}": bool(columns.instances),
    }
    recognized = [what for what, is_held in held.items() if is_held]
    return f"recognised a list of {len(table.rows)} cases: {', '.join(recognized)}" if recognized else ""


def _unused(columns: ListColumns, num_test: int) -> Iterator[str]:
    if columns.unused:
        yield f"columns of the list that are not used: {', '.join(name or '(no name)' for name in columns.unused)}"
    if num_test:
        yield f"{num_test} cases of the list are not used: {columns.split} says that they are for testing"


def _relative_path(folder: Path, path: str) -> str:
    """A path relative to the dataset folder, POSIX separators, `./` left out; `..` where it lies outside."""
    listed = Path(_posix(folder, path))
    if listed.is_absolute():
        # `..` leads to the parent of a link's target: relative paths hold only between folders without links.
        return relative_path(real_path(listed.parent) / listed.name, real_path(folder))
    return listed.as_posix()


def _posix(folder: Path, path: str) -> str:
    """A listed path with POSIX separators; a backslash stays only in the name of a file that exists."""
    return path.replace("\\", "/") if "\\" in path and not (folder / path).exists() else path
