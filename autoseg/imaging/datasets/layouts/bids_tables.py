"""Tables of the Brain Imaging Data Structure.

    dseg.tsv            index, name                    names of label values
    participants.tsv    participant_id, annotated      labels that were looked for in a subject

Tested in tests/imaging/datasets/layouts/test_bids.py.

References:
    BIDS specification 1.9, common derivatives (segmentations) and the inheritance principle.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.labels.annotated_labels import read_annotated
from autoseg.imaging.datasets.layouts.bids_names import BidsFile, read_name
from autoseg.records.files import real_path


@dataclass
class ValueNames:
    """Names of the values of all label maps, with the tables that give them."""

    names: dict[int, str] = field(default_factory=dict)
    """Without the background."""
    tables: list[Path] = field(default_factory=list)


def find_value_names(folder: Path, root: Path, files: Iterable[BidsFile]) -> ValueNames:
    """Read the tables that belong to label maps.

    A table belongs to the label maps in its folder and below whose names have all of its entities. The nearest folder
    counts, and in it the table with most entities.

    Args:
        folder: Folder to which the paths of the files are relative.
        root: Topmost folder of the dataset.
        files: Label maps.

    Raises:
        DatasetError: If a table is damaged, or two of them name a value differently.
    """
    found = ValueNames()
    tables: dict[Path, list[Path]] = {}
    for file in files:
        table = _find_table(file, (folder / file.path).parent, root, tables)
        if table is None or table in found.tables:
            continue
        for value, name in _read_table(table).items():
            if found.names.setdefault(value, name) != name:
                raise DatasetError(
                    f"{table}: calls the value {value} {name!r}, and {found.tables[0]} calls it "
                    f"{found.names[value]!r}. Give one value one name in all tables"
                )
        found.tables.append(table)
    return found


def find_annotated(root: Path) -> dict[str, tuple[str, ...]]:
    """Labels that were looked for, by subject (`01` for `sub-01`), from the column `annotated` of participants.tsv.

    Args:
        root: Topmost folder of the dataset.

    Returns:
        Empty where there is no such table or column; subjects with an empty cell, or `n/a`, have all labels.

    Raises:
        DatasetError: If the table is damaged.
    """
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    try:
        rows = _read_rows(path)
        cells = {row["participant_id"]: row["annotated"] for row in rows if row.get("annotated", "n/a") != "n/a"}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DatasetError(
            f"{path}: is no table of subjects ({error}); expected the column participant_id, separated by tabs"
        ) from error
    named = {subject.removeprefix("sub-"): read_annotated(cell) for subject, cell in cells.items()}
    return {subject: names for subject, names in named.items() if names is not None}


def _find_table(file: BidsFile, start: Path, root: Path, tables: dict[Path, list[Path]]) -> Path | None:
    """The table of a label map; `tables` remembers those of each folder."""
    start, root = real_path(start), real_path(root)
    for folder in (start, *start.parents):
        if folder not in tables:
            tables[folder] = sorted(folder.glob("*.tsv"))
        fitting = [path for path in tables[folder] if _is_table_of(path, file)]
        if fitting:
            return max(fitting, key=lambda path: len(read_name(path.name.removesuffix(".tsv")).entities))
        if folder == root:
            return None
    return None


def _is_table_of(path: Path, file: BidsFile) -> bool:
    table = read_name(path.name.removesuffix(".tsv"))
    return table.suffix in ("dseg", file.suffix) and table.entities.items() <= file.entities.items()


def _read_table(path: Path) -> dict[int, str]:
    try:
        rows = _read_rows(path)
        names = {int(row["index"]): row["name"] for row in rows if row["name"] not in ("", "n/a")}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
        raise DatasetError(
            f"{path}: is no table of labels ({error}); expected the columns index (whole numbers) and name, separated "
            "by tabs"
        ) from error
    if len(names) < sum(row["name"] not in ("", "n/a") for row in rows):
        raise DatasetError(f"{path}: names a value twice; give each index one row")
    return {value: name for value, name in names.items() if value}


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [_lower_keys(row) for row in csv.DictReader(file, delimiter="\t")]


def _lower_keys(row: Mapping[str | None, str | None]) -> dict[str, str]:
    return {(key or "").strip().lower(): (value or "").strip() for key, value in row.items() if key is not None}
