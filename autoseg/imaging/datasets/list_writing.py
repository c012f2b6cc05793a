"""A recognised dataset as a CSV list, which can be checked, edited and planned in place of the folder.

Tested in tests/imaging/datasets/test_list_writing.py.
"""

import csv
from collections import Counter
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.datasets.layouts import FoundDataset
from autoseg.imaging.datasets.list_columns import is_channel_column
from autoseg.records.dataset import CaseFiles
from autoseg.records.files import real_path, relative_path, replacing


def write_case_list(found: FoundDataset, path: Path) -> None:
    """Write a row for each case: `case`, its images, `label`, and `group` and `fold` where the dataset has them.

    Columns of images are called like the channels if these are known and can be told from other columns, else `image`,
    or `image_0`, `image_1`, ...; they are empty where a case has another number of images than most. Paths are relative
    to the folder of the list. UTF-8, lines end in LF.

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
    if any(files.parts is not None for files in found.cases):
        raise UsageError(
            f"--write-list: {found.folder} has a mask for each label; lists hold one label map for each case"
        )
    columns = image_columns(found)
    has_groups, has_folds = any(files.group for files in found.cases), any(f.fold is not None for f in found.cases)
    header = ["case", *columns, "label", *["group"] * has_groups, *["fold"] * has_folds]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for files in found.cases:
            fold = "" if files.fold is None else str(files.fold)
            images = [_listed_path(found, image, path) for image in files.images]
            images = images if len(images) == len(columns) else [""] * len(columns)
            label = _listed_path(found, files.label, path) if files.label else ""
            writer.writerow([files.case, *images, label, *[files.group] * has_groups, *[fold] * has_folds])


def image_columns(found: FoundDataset) -> list[str]:
    """Columns of the images of a dataset: the names of the channels where a list can be read with them."""
    number = _num_images(found.cases)
    names = found.channel_names or found.channel_words or ()
    if len(names) == number and len(set(map(str.casefold, names))) == number and all(map(is_channel_column, names)):
        return list(names)
    return ["image"] if number == 1 else [f"image_{index}" for index in range(number)]


def _num_images(cases: tuple[CaseFiles, ...]) -> int:
    """Number of image files that most cases have."""
    counts = Counter(len(files.images) for files in cases if files.images)
    return counts.most_common(1)[0][0] if counts else 1


def _listed_path(found: FoundDataset, file: str, path: Path) -> str:
    """Path of a file relative to the folder of the list."""
    absolute = found.folder / file
    return relative_path(real_path(absolute.parent) / absolute.name, real_path(path.absolute().parent))
