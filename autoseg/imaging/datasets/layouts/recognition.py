"""Recognition of the layout of a dataset on disk, without conversion.

A dataset is a Medical Segmentation Decathlon folder, an nnU-Net v2 raw folder, a CSV or JSON list of files, one of
MONAI's datalists, or a folder in one of the layouts of `folders`, where images and label maps are paired by their
names. No image is opened here.

Tested in tests/imaging/datasets/layouts/test_recognition.py and tests/stages/test_describe.py.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.dataset_json import (
    DatasetJson,
    TrainingEntry,
    declared_channels,
    declared_labels,
    read_dataset_json,
)
from autoseg.imaging.datasets.labels.annotated_labels import with_declared
from autoseg.imaging.datasets.layouts.folders import FOLDER_LAYOUTS, find_cases
from autoseg.imaging.datasets.layouts.pairing import image_files, pair_files
from autoseg.imaging.datasets.layouts.pattern_cases import find_pattern_cases
from autoseg.imaging.datasets.layouts.patterns import FilePatterns, channel_words
from autoseg.imaging.datasets.layouts.readings import find_other_readings
from autoseg.imaging.datasets.layouts.unknown_layout import describe_unknown_layout
from autoseg.imaging.datasets.lists.case_lists import case_name, listed_case, listing_faults, read_case_list
from autoseg.imaging.datasets.lists.datalists import (
    Datalist,
    ListedDataset,
    find_datalist,
    has_no_other_form,
    read_datalist,
)
from autoseg.imaging.datasets.lists.list_files import is_list_file
from autoseg.imaging.formats.volume import split_channel, split_ending
from autoseg.records.dataset import CaseFiles, Fault, LabelValues, LayoutName
from autoseg.records.files import real_path

_EXPECTED = "\n  ".join([
    "expected one of",
    'a Medical Segmentation Decathlon folder: dataset.json that lists the training files under "training"',
    "an nnU-Net v2 raw folder: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz",
    *(layout.pattern for layout in FOLDER_LAYOUTS),
    'a datalist of MONAI: a .json file with {"training": [{"image": ..., "label": ..., "fold": 0}, ...]}',
    "a .csv, .tsv or .json list: columns case, image (or image_0, image_1, ..., or one for each channel), label",
])  # fmt: skip


_NO_NUMBERS = (
    "the images in imagesTr/ have no channel numbers (CASE_0000), as nnU-Net requires; each file is taken as the image "
    "of the case that it is called like"
)


@dataclass(frozen=True)
class FoundDataset:
    """Facts about a dataset from file names and JSON, before any image is opened."""

    name: str
    folder: Path
    layout: LayoutName
    cases: tuple[CaseFiles, ...]
    """Cases sorted by id; a case named in an error among `faults` is listed too."""
    faults: tuple[Fault, ...] = ()
    labels: dict[str, LabelValues] | None = None
    """Declared labels; None: not declared, to be found in the label maps."""
    regions_class_order: tuple[int, ...] | None = None
    value_names: Mapping[int, str] | None = None
    """Names of the values in the label maps, of which those that occur become labels; None: there is no table."""
    overlapping: bool = False
    """Whether labels in masks of their own overlap."""
    channel_names: tuple[str, ...] | None = None
    """Declared names; None: not declared."""
    channel_words: tuple[str, ...] | None = None
    """Channels that the names of the files tell, in the order of each case's images; None: they tell none."""
    notes: tuple[str, ...] = ()
    """What was recognised, one sentence each."""
    list_file: Path | None = None
    """The list that names the files; None: a folder."""

    @property
    def source(self) -> Path:
        """The list or folder, for messages."""
        return self.list_file or self.folder


def find_dataset(path: Path, patterns: FilePatterns | None = None) -> FoundDataset:
    """Recognise the layout of a dataset and list its cases.

    Args:
        path: Dataset folder (or the dataset.json in it), or a CSV or JSON list.
        patterns: Names of its files, as the user gives them; None: the layout is recognised.

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
        is_list = bool(declared.training) and declared.dataset is None and not _is_left_over_list(path, declared)
        return _decathlon(path, declared) if is_list else _nnunet(path, declared)
    return _find_by_names(path)


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
        regions_class_order=_regions_class_order(declared),
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


def _find_by_names(folder: Path, declared: DatasetJson | None = None) -> FoundDataset:
    """Cases of a folder by the names in it; labels and channels are those of its dataset.json, if it has one."""
    found = find_cases(folder)
    if found is None:
        raise DatasetError(f"{folder}: no known dataset layout; {_EXPECTED}\n{describe_unknown_layout(folder)}")
    layout, cases = found
    notes = (*_without_empty(cases.recognized), *cases.notes, *find_other_readings(folder, cases))
    if declared is not None:
        dataset = _found(folder, layout.name, declared, list(cases.cases), list(cases.faults))
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


def order_images(found: FoundDataset, names: Sequence[str]) -> FoundDataset:
    """The dataset with images in the order of channel names, where the names of the files tell their channels.

    Args:
        found: Dataset; a case with another number of channels, which is an error, stays as it is.
        names: Channel names that the user or dataset.json gives.

    Raises:
        DatasetError: If the files name several channels, and other ones.
    """
    words = found.channel_words
    if words is None or len(words) == 1:
        return found
    position = {word.casefold(): index for index, word in enumerate(words)}
    if {name.casefold() for name in names} != position.keys() or len(names) != len(words):
        raise DatasetError(
            f"{found.folder}: the channels are called {', '.join(names)}, but in the names of the files "
            f"{', '.join(words)}, and it is not known which is which. Call them as the files do, in any order."
        )
    order = [position[name.casefold()] for name in names]
    cases = tuple(
        _with_order(files, order) if len(files.images) + len(files.absent_channels) == len(words) else files
        for files in found.cases
    )
    return replace(found, cases=cases, channel_words=tuple(words[index] for index in order))


def _with_order(files: CaseFiles, order: Sequence[int]) -> CaseFiles:
    """The case with its channels in another order: `order` has the old number of each new channel."""
    present = [channel for channel in range(len(order)) if channel not in files.absent_channels]
    file_of = dict(zip(present, files.images, strict=True))
    images = tuple(file_of[channel] for channel in order if channel in file_of)
    absent = tuple(number for number, channel in enumerate(order) if channel not in file_of)
    return files.model_copy(update={"images": images, "absent_channels": absent})


def _is_left_over_list(folder: Path, declared: DatasetJson) -> bool:
    """Whether the files are those of nnU-Net, and the list `training` names CASE for CASE_0000.

    nnU-Net v1 writes such lists, and many dataset.json of nnU-Net v2, which ignores them, still have one.
    """
    if any(not (folder / name).is_dir() for name in ("imagesTr", "labelsTr")):
        return False
    images, labels = (
        {split_ending(name)[0] for name in image_files(folder / name)} for name in ("imagesTr", "labelsTr")
    )
    cases = {channel[0] for channel in map(split_channel, images) if channel} - images
    is_listed = any((folder / image).is_file() for entry in declared.training or [] for image in entry.images)
    return bool(cases & labels) and (declared.is_nnunet_v2 or not is_listed)


def _decathlon(folder: Path, declared: DatasetJson) -> FoundDataset:
    cases = [
        listed_case(
            folder,
            case_name(_first_image(entry) or entry.label),
            [_with_present_ending(folder, image) for image in entry.images],
            _with_present_ending(folder, entry.label),
        ).model_copy(update={"annotated": entry.annotated})
        for entry in declared.training or []
        if not _is_resource_fork(entry)
    ]
    faults = [*listing_faults(cases), *_unlisted_files(folder, cases)]
    return _found(folder, "decathlon", declared, cases, faults)


def _is_resource_fork(entry: TrainingEntry) -> bool:
    return PurePosixPath(_first_image(entry)).name.startswith("._")


def _with_present_ending(folder: Path, file: str) -> str:
    """The listed file, or the only one beside it whose name differs in the ending, where the listed one is missing."""
    path = folder / file
    if not file or path.is_file() or not path.parent.is_dir():
        return file
    same = [name for name in image_files(path.parent) if split_ending(name)[0] == split_ending(path.name)[0]]
    return str(PurePosixPath(file).parent / same[0]) if len(same) == 1 else file


def _first_image(entry: TrainingEntry) -> str:
    return next(iter(entry.images), "")


def _nnunet(folder: Path, declared: DatasetJson) -> FoundDataset:
    if declared.dataset is not None:
        cases = [
            listed_case(folder, case, entry.images, entry.label).model_copy(update={"annotated": entry.annotated})
            for case, entry in declared.dataset.items()
        ]
        return _found(folder, "nnunet", declared, cases, listing_faults(cases))
    missing = [name for name in ("imagesTr", "labelsTr") if not (folder / name).is_dir()]
    if missing and find_cases(folder) is None:
        raise DatasetError(
            f"{folder}: the folder {' and '.join(missing)} is missing beside dataset.json; {_EXPECTED}\n"
            f"{describe_unknown_layout(folder)}"
        )
    if missing:
        return _find_by_names(folder, declared)
    names = declared_channels(declared)
    num_channels = len(names) if names else None
    paired, faults = pair_files(folder, "imagesTr", "labelsTr", channel_numbers=True, num_channels=num_channels)
    if not any(files.label for files in paired):
        by_name, name_faults = pair_files(folder, "imagesTr", "labelsTr", channel_numbers=False)
        if any(files.label for files in by_name):
            found = _found(folder, "nnunet", declared, *_compare_with_list(by_name, name_faults, declared))
            return replace(found, notes=(_NO_NUMBERS,))
    return _found(folder, "nnunet", declared, *_compare_with_list(paired, faults, declared))


def _compare_with_list(
    cases: Sequence[CaseFiles], faults: Sequence[Fault], declared: DatasetJson
) -> tuple[list[CaseFiles], list[Fault]]:
    """Cases, and faults with the differences between the files and the list `training`, if there is one.

    The list of nnU-Net v1 says which cases are used; nnU-Net v2 uses all files.
    """
    if not declared.training:
        return list(cases), list(faults)
    found = {files.case for files in cases} | {fault.case for fault in faults if fault.case}
    listed = {
        _listed_id(entry, found): _first_image(entry) or entry.label
        for entry in declared.training
        if not _is_resource_fork(entry)
    }
    absent = [
        Fault(
            severity="warning" if declared.is_nnunet_v2 else "error", case=case, file=file,
            what="dataset.json lists this case, but there is no such file, nor files with channel numbers",
        )
        for case, file in listed.items()
        if case not in found
    ]  # fmt: skip
    what = "used, though" if declared.is_nnunet_v2 else "not used:"
    unlisted = [
        Fault(severity="warning", case="", file=files.images[0], what=f"{what} dataset.json does not list it")
        for files in cases
        if files.case not in listed
    ]
    if not declared.is_nnunet_v2:
        cases = [files for files in cases if files.case in listed]
        faults = [fault for fault in faults if not fault.case or fault.case in listed]
    return list(cases), [*faults, *absent, *unlisted]


def _listed_id(entry: TrainingEntry, found: Collection[str]) -> str:
    """The case id of an entry whose image is listed as CASE or as CASE_0000."""
    stem = case_name(_first_image(entry) or entry.label)
    channel = split_channel(stem)
    return channel[0] if channel and stem not in found else stem


def _found(
    folder: Path,
    layout: LayoutName,
    declared: DatasetJson,
    cases: list[CaseFiles],
    faults: list[Fault],
) -> FoundDataset:
    if declared.num_training is not None and str(declared.num_training) != str(len(cases)):
        what = f"numTraining is {declared.num_training}, but {len(cases)} cases were found"
        faults = [*faults, Fault(severity="warning", case="", file="dataset.json", what=what)]
    annotated = with_declared(cases, declared.annotated, folder / "dataset.json")
    return FoundDataset(
        name=folder.name,
        folder=folder,
        layout=layout,
        cases=tuple(sorted(annotated, key=lambda files: files.case)),
        faults=tuple(faults),
        labels=declared_labels(declared, folder / "dataset.json"),
        regions_class_order=_regions_class_order(declared),
        channel_names=declared_channels(declared),
    )


def _regions_class_order(declared: DatasetJson | None) -> tuple[int, ...] | None:
    return None if declared is None or declared.regions_class_order is None else tuple(declared.regions_class_order)


def _unlisted_files(folder: Path, cases: list[CaseFiles]) -> list[Fault]:
    """Warnings about training files on disk that dataset.json does not list."""
    listed = {os.path.normpath(name) for files in cases for name in (*files.images, files.label)}
    on_disk = [
        f"{subfolder}/{name}"
        for subfolder in ("imagesTr", "labelsTr")
        if (folder / subfolder).is_dir()
        for name in image_files(folder / subfolder)
    ]
    return [
        Fault(severity="warning", case="", file=file, what="not used: dataset.json does not list it")
        for file in on_disk
        if os.path.normpath(file) not in listed
    ]
