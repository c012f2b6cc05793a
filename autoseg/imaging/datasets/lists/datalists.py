"""MONAI's datalists: a JSON object with lists of cases under `training`, `validation` and `testing`.

    {"training": [{"image": "a.nii.gz", "label": "a_seg.nii.gz", "fold": 0}, ...], "testing": [{"image": "b.nii.gz"}]}

The Decathlon's dataset.json is of this form too. Paths are relative to the folder of the file. Channels, labels and the
name that the object declares are used.

Tested in tests/imaging/datasets/lists/test_datalists.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from autoseg.errors import DatasetError, RecordError
from autoseg.imaging.datasets.dataset_json import (
    declared_channels,
    declared_labels,
    parse_dataset_json,
)
from autoseg.imaging.datasets.labels.annotated_labels import with_declared
from autoseg.imaging.datasets.lists.case_lists import ListedCases, cases_of_table
from autoseg.imaging.datasets.lists.list_files import ListTable, table_of_entries
from autoseg.records.dataset import LabelValues
from autoseg.records.files import read_json

TRAINING = "training"
VALIDATION = ("validation", "val")
TESTING = ("testing", "test")

_DECLARATIONS = ("labels", "modality", "channel_names", "regions_class_order", "annotated")

Datalist = Mapping[str, object]
"""Content of the file."""


@dataclass(frozen=True)
class ListedDataset:
    """A datalist, before any image is opened."""

    listed: ListedCases
    name: str
    labels: dict[str, LabelValues] | None = None
    """Declared labels; None: not declared."""
    regions_class_order: tuple[int, ...] | None = None
    channel_names: tuple[str, ...] | None = None
    """Declared names; None: not declared."""


def find_datalist(path: Path) -> Datalist | None:
    """The content of a JSON file that is a datalist; None for any other list.

    Raises:
        DatasetError: If the file is JSON and cannot be read.
    """
    if path.suffix.lower() != ".json":
        return None
    try:
        content = read_json(path)
    except RecordError as error:
        raise DatasetError(str(error)) from error
    keys = (TRAINING, *VALIDATION, *TESTING)
    return content if isinstance(content, dict) and any(isinstance(content.get(key), list) for key in keys) else None


def has_no_other_form(folder: Path, content: Datalist) -> bool:
    """Whether dataset.json is a datalist of MONAI, and not of the Decathlon or nnU-Net, which have no folds.

    Args:
        folder: Its folder.
        content: What is in it, with a list of cases.
    """
    entries = [entry for entry in _list_of(content, (TRAINING,)) if isinstance(entry, dict)]
    if "labels" not in content:
        return bool(entries)
    has_folds = any("fold" in entry for entry in entries) or any(
        isinstance(entry, dict) and entry.get("label") for entry in _list_of(content, VALIDATION)
    )
    return has_folds and any((folder / str(entry.get("image"))).is_file() for entry in entries)


def read_datalist(path: Path, content: Datalist) -> ListedDataset:
    """The cases to train on: those under `training`, with their folds.

    Cases under `validation` are the validation set of the only fold, unless those under `training` have folds.

    Args:
        path: File, for its folder and for messages.
        content: What is in it.

    Raises:
        DatasetError: If entries are not understood, or none of the images exists.
    """
    training = _entries(path, content, (TRAINING,))
    validation = [entry for entry in _entries(path, content, VALIDATION) if entry.get("label")]
    has_folds = any(entry.get("fold") is not None for entry in training)
    used = [] if has_folds else [{**entry, "fold": 0} for entry in validation]
    table = table_of_entries(path, [*training, *used])
    declared = parse_dataset_json(
        {"labels": {}, **{key: content[key] for key in _DECLARATIONS if key in content}}, path
    )
    listed = cases_of_table(table, by_common_part=True)
    listed = replace(listed, cases=tuple(with_declared(listed.cases, declared.annotated, path)))
    num_tests = len(_entries(path, content, TESTING)) + len(validation) - len(used)
    return ListedDataset(
        listed=replace(listed, recognized=_describe(len(training), len(used), num_tests, listed)),
        name=str(content.get("name") or path.stem),
        labels=declared_labels(declared, path) if content.get("labels") else None,
        regions_class_order=None if declared.regions_class_order is None else tuple(declared.regions_class_order),
        channel_names=declared_channels(declared),
    )


def entries_to_predict(path: Path, content: Datalist) -> tuple[str, ListTable]:
    """The cases under `testing`, else those under `validation` or `training`; and the key that they stand under.

    Raises:
        DatasetError: If entries are not understood.
    """
    for key in (*TESTING, *VALIDATION, TRAINING):
        if entries := _entries(path, content, (key,)):
            return key, table_of_entries(path, entries)
    raise DatasetError(f"{path}: lists no cases")


def _entries(path: Path, content: Datalist, keys: tuple[str, ...]) -> list[dict[str, object]]:
    """Entries under the first of these keys that is there; a name alone is that of an image."""
    entries = [{"image": entry} if isinstance(entry, str) else entry for entry in _list_of(content, keys)]
    if not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(
            f'{path}: {keys[0]}: expected a list of {{"image": path or [paths], "label": path, "fold": number}}'
        )
    return [entry for entry in entries if isinstance(entry, dict) and not _is_resource_fork(entry)]


def _list_of(content: Datalist, keys: tuple[str, ...]) -> list[object]:
    """The first list under one of these keys that is not empty."""
    return next((value for key in keys if isinstance(value := content.get(key), list) and value), [])


def _is_resource_fork(entry: Mapping[str, object]) -> bool:
    """Whether an entry names a file that macOS leaves beside another one, as in the lists of the Decathlon."""
    image = entry.get("image")
    return isinstance(image, str) and PurePosixPath(image).name.startswith("._")


def _describe(num_training: int, num_validation: int, num_tests: int, listed: ListedCases) -> str:
    folds = sorted({files.fold for files in listed.cases if files.fold is not None})
    what = f"recognised a MONAI datalist: {num_training} cases under training"
    if num_validation:
        what += f", {num_validation} under validation, which are validated in the only fold"
    elif folds:
        what += f" with the folds {', '.join(map(str, folds))}"
    return f"{what}; {num_tests} others are not used" if num_tests else what
