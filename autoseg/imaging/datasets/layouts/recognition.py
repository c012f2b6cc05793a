"""Recognition of the layout of a dataset on disk, without conversion.

A dataset is a Medical Segmentation Decathlon folder, an nnU-Net v2 raw folder, a CSV or JSON list of files, one of
MONAI's datalists, or a folder in one of the layouts of `folders`, where images and label maps are paired by their
names. No image is opened here.

Tested in tests/imaging/datasets/layouts/test_recognition.py and tests/stages/test_describe.py.
"""

from dataclasses import replace
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.dataset_json import (
    DatasetJson,
    declared_channels,
    declared_labels,
    read_dataset_json,
)
from autoseg.imaging.datasets.labels.annotated_labels import with_declared
from autoseg.imaging.datasets.layouts.declared_folders import (
    as_declared,
    declared_regions,
    is_left_over_list,
    list_decathlon,
    list_nnunet,
)
from autoseg.imaging.datasets.layouts.folders import FOLDER_LAYOUTS, find_cases
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset, order_images
from autoseg.imaging.datasets.layouts.pattern_cases import find_pattern_cases
from autoseg.imaging.datasets.layouts.patterns import FilePatterns, channel_words
from autoseg.imaging.datasets.layouts.readings import find_other_readings
from autoseg.imaging.datasets.layouts.unknown_layout import describe_unknown_layout
from autoseg.imaging.datasets.lists.case_lists import read_case_list
from autoseg.imaging.datasets.lists.datalists import (
    Datalist,
    ListedDataset,
    find_datalist,
    has_no_other_form,
    read_datalist,
)
from autoseg.imaging.datasets.lists.list_files import is_list_file
from autoseg.records.files import real_path

_EXPECTED = "\n  ".join([
    "expected one of",
    'a Medical Segmentation Decathlon folder: dataset.json that lists the training files under "training"',
    "an nnU-Net v2 raw folder: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz",
    *(layout.pattern for layout in FOLDER_LAYOUTS),
    'a datalist of MONAI: a .json file with {"training": [{"image": ..., "label": ..., "fold": 0}, ...]}',
    "a .csv, .tsv or .json list: columns case, image (or image_0, image_1, ..., or one for each channel), label",
])  # fmt: skip


def find_dataset(path: Path, patterns: FilePatterns | None = None, *, missing_channels: bool = False) -> FoundDataset:
    """Recognise the layout of a dataset and list its cases.

    Args:
        path: Dataset folder (or the dataset.json in it), or a CSV or JSON list.
        patterns: Names of its files, as the user gives them; None: the layout is recognised.
        missing_channels: Whether cases may lack channels, so that BIDS keeps those that most cases have.

    Raises:
        DatasetError: If the path does not exist, has no known layout, or its JSON or CSV is damaged.
    """
    path = path.absolute()
    path = path.parent if path.name == "dataset.json" else path
    if patterns is not None:
        return _find_by_patterns(path, patterns)
    if is_list_file(path):
        return _listed(path, find_datalist(path))
    if not path.is_dir():
        what = "is neither a folder nor a .csv, .tsv or .json list" if path.exists() else "does not exist"
        raise DatasetError(f"{path}: {what}; {_EXPECTED}")
    if (path / "dataset.json").exists() or (path / "dataset.json").is_symlink():  # what cannot be read is refused
        content = find_datalist(path / "dataset.json")
        if content is not None and has_no_other_form(path, content):
            return replace(_listed(path / "dataset.json", content), name=path.name)
        declared = read_dataset_json(path / "dataset.json")
        is_list = bool(declared.training) and declared.dataset is None and not is_left_over_list(path, declared)
        if is_list:
            return list_decathlon(path, declared)
        return _find_nnunet(path, declared, missing_channels=missing_channels)
    return _find_by_names(path, missing_channels=missing_channels)


def _listed(path: Path, content: Datalist | None) -> FoundDataset:
    """Cases of a list; one of MONAI's form, whose content is given, may declare labels and channels."""
    dataset = ListedDataset(read_case_list(path), path.stem) if content is None else read_datalist(path, content)
    return FoundDataset(
        name=dataset.name,
        folder=real_path(path.parent),
        layout="list",
        cases=dataset.listed.cases,
        faults=dataset.listed.faults,
        labels=dataset.labels,
        regions_class_order=dataset.regions_class_order,
        channel_names=dataset.channel_names,
        channel_words=dataset.listed.channel_words,
        notes=_without_empty(dataset.listed.recognized, *dataset.listed.notes),
        list_file=path,
    )


def _find_by_patterns(folder: Path, patterns: FilePatterns) -> FoundDataset:
    """Cases by patterns; labels and channels are those of a dataset.json beside them, if it has any."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is not a folder; patterns name the files of a folder")
    found = find_pattern_cases(folder, patterns)
    file = folder / "dataset.json"
    is_declared = file.is_file() and not has_no_other_form(folder, find_datalist(file) or {})
    declared = read_dataset_json(file) if is_declared else None
    example = next((files for files in found.cases if files.label), found.cases[0])
    dataset = FoundDataset(
        name=folder.name,
        folder=folder,
        layout="pattern",
        cases=tuple(with_declared(found.cases, {} if declared is None else declared.annotated, file)),
        faults=found.faults,
        labels=None if declared is None else declared_labels(declared, file),
        regions_class_order=declared_regions(declared),
        channel_names=None if declared is None else declared_channels(declared),
        channel_words=found.channel_words,
        notes=(
            f"recognised by the patterns: {len(found.cases)} cases, such as {example.case} with "
            f"{', '.join(example.images)} and the label map {example.label}",
        ),
    )
    words = channel_words(patterns.image)
    is_ordered = words is not None and set(words) == set(found.channel_words or ())
    return order_images(dataset, words) if words is not None and is_ordered else dataset


def _without_empty(*notes: str) -> tuple[str, ...]:
    return tuple(note for note in notes if note)


def _find_by_names(
    folder: Path, declared: DatasetJson | None = None, *, missing_channels: bool = False
) -> FoundDataset:
    """Cases of a folder by the names in it; labels and channels are those of its dataset.json, if it has one."""
    found = find_cases(folder, missing_channels=missing_channels)
    if found is None:
        raise DatasetError(f"{folder}: no known dataset layout; {_EXPECTED}\n{describe_unknown_layout(folder)}")
    layout, cases = found
    notes = (*_without_empty(cases.recognized), *cases.notes, *find_other_readings(folder, cases))
    if declared is not None:
        dataset = as_declared(folder, layout.name, declared, list(cases.cases), list(cases.faults))
        return replace(dataset, channel_words=cases.channel_words, notes=notes)
    return FoundDataset(
        name=folder.name,
        folder=folder,
        layout=layout.name,
        cases=cases.cases,
        faults=cases.faults,
        channel_words=cases.channel_words,
        notes=notes,
        value_names=cases.value_names,
    )


def _find_nnunet(folder: Path, declared: DatasetJson, *, missing_channels: bool) -> FoundDataset:
    """Cases of a dataset.json that lists them, else those of nnU-Net's folders, else those of another layout."""
    missing = [name for name in ("imagesTr", "labelsTr") if not (folder / name).is_dir()]
    if declared.dataset is not None or not missing:
        return list_nnunet(folder, declared)
    if find_cases(folder) is None:
        raise DatasetError(
            f"{folder}: the folder {' and '.join(missing)} is missing beside dataset.json; {_EXPECTED}\n"
            f"{describe_unknown_layout(folder)}"
        )
    return _find_by_names(folder, declared, missing_channels=missing_channels)
