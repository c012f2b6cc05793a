"""A recognised dataset as a CSV list, which can be checked, edited and planned in place of the folder.

Tested in tests/imaging/datasets/test_list_writing.py.
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.imaging.datasets.lists.list_columns import is_channel_column, mask_label
from autoseg.records.dataset import CaseFiles
from autoseg.records.files import real_path, relative_path, replacing, write_text
from autoseg.text import format_cell


def write_case_list(found: FoundDataset, path: Path) -> None:
    """Write a row for each case: `case`, its images, `label`; what else lists may have where there is any.

    Columns that may be added: `group`, `fold`, `annotated`, `instances`.

    Columns of images are called like the channels if these are known and can be told from other columns, else `image`,
    or `image_0`, `image_1`, ...; they are empty where a case has another number of images than most. Paths are relative
    to the folder of the list. UTF-8, lines end in LF, names are no formulas (`text.format_cell`).

    Args:
        found: The dataset, with its images in the order of the channels.
        path: File that ends in .csv.

    Raises:
        UsageError: If the file exists, has another ending, or label maps of the dataset are not files of their own.
    """
    if path.suffix.lower() != ".csv":
        raise UsageError(f"--write-list {path}: the name of the list must end in .csv")
    if path.exists():
        raise UsageError(f"--write-list {path}: the file already exists; choose another name, or delete it")
    columns, labels = image_columns(found), _mask_labels(found)
    has_groups, has_folds = any(files.group for files in found.cases), any(f.fold is not None for f in found.cases)
    has_annotated = any(files.annotated is not None for files in found.cases)
    has_instances = any(files.instances for files in found.cases)
    header = [
        "case",
        *columns,
        *([f"mask_{label}" for label in labels] or ["label"]),
        *["group"] * has_groups,
        *["fold"] * has_folds,
        *["annotated"] * has_annotated,
        *["instances"] * has_instances,
    ]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(format_cell, header))
        for files in found.cases:
            fold = "" if files.fold is None else str(files.fold)
            images = [_listed_path(found, image, path) for image in files.images]
            for channel in files.absent_channels:
                images.insert(channel, "")
            images = images if len(images) == len(columns) else [""] * len(columns)
            references = [_listed_path(found, file, path) if file else "" for file in _label_cells(files, labels)]
            texts = [files.case, *images, *references, *[files.group] * has_groups, *[fold] * has_folds]
            texts += ["; ".join(files.annotated or ())] * has_annotated
            texts += [_listed_path(found, files.instances, path) if files.instances else ""] * has_instances
            writer.writerow(map(format_cell, texts))


def write_datalist(found: FoundDataset, path: Path) -> None:
    """Write a datalist of MONAI: name, labels and channels, and under `training` an object for each case.

    Args:
        found: The dataset, with its images in the order of the channels.
        path: File that ends in .json.
    """
    columns = image_columns(found)
    about: dict[str, object] = {"name": found.name, "labels": found.labels, "channel_names": found.channel_names}
    if found.regions_class_order is not None:
        about["regions_class_order"] = found.regions_class_order
    entries = []
    for files in found.cases:
        images = [_listed_path(found, image, path) for image in files.images]
        for channel in files.absent_channels:
            images.insert(channel, "")
        entry: dict[str, object] = {"case": files.case}
        entry |= dict(zip(columns, images, strict=True)) if len(images) == len(columns) else {"image": images}
        entry["label"] = _listed_path(found, files.label, path)
        entry |= {"group": files.group} if files.group else {}
        entry |= {"fold": files.fold} if files.fold is not None else {}
        entry |= {"annotated": files.annotated} if files.annotated is not None else {}
        entries.append(entry)
    write_text(json.dumps({**about, "training": entries}, indent=2) + "\n", path)


def image_columns(found: FoundDataset) -> list[str]:
    """Columns of the images of a dataset: the names of the channels where a list can be read with them."""
    number = _num_images(found.cases)
    names = found.channel_names or found.channel_words or ()
    if len(names) == number and len(set(map(str.casefold, names))) == number and all(map(is_channel_column, names)):
        return list(names)
    return ["image"] if number == 1 else [f"image_{index}" for index in range(number)]


def _mask_labels(found: FoundDataset) -> list[str]:
    """Labels with masks of their own; none where each case has a label map.

    Raises:
        UsageError: If a case has several masks of one label, or a label's name cannot be that of a column.
    """
    parts = [part for files in found.cases for part in files.parts or ()]
    labels = list(dict.fromkeys(part.label for part in parts))
    is_single = all(
        len({part.label for part in files.parts}) == len(files.parts) for files in found.cases if files.parts
    )
    if parts and (not is_single or any(mask_label(f"mask_{label}") != label for label in labels)):
        raise UsageError(
            f"--write-list: {found.folder} has several masks of one label in a case, or labels whose names cannot be "
            "those of columns; such a dataset cannot be a list. Plan the folder itself."
        )
    return labels if len(labels) > 1 else []


def _label_cells(files: CaseFiles, labels: Sequence[str]) -> list[str]:
    """Label map of a case, or its masks in the order of the labels; empty where there is none."""
    masks = {part.label: part.file for part in files.parts or ()}
    return [masks.get(label, "") for label in labels] or [files.label]


def _num_images(cases: tuple[CaseFiles, ...]) -> int:
    """Number of image files that most cases have, with those that a case lacks."""
    counts = Counter(len(files.images) + len(files.absent_channels) for files in cases if files.images)
    return counts.most_common(1)[0][0] if counts else 1


def _listed_path(found: FoundDataset, file: str, path: Path) -> str:
    """Path of a file relative to the folder of the list."""
    absolute = found.folder / file
    return relative_path(real_path(absolute.parent) / absolute.name, real_path(path.absolute().parent))
