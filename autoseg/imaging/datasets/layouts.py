"""Recognition of the layout of a dataset on disk, without conversion.

Four layouts: a Medical Segmentation Decathlon folder, an nnU-Net v2 raw folder, plain `images/` and `labels/`, and a
CSV or JSON list of files. Where nothing lists the files, images and label maps are paired by their names. No image is
opened here.

Tested in tests/imaging/datasets/test_layouts.py and tests/stages/test_describe.py.
"""

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.case_lists import case_name, listed_case, listing_faults, read_case_list
from autoseg.imaging.datasets.dataset_json import (
    DatasetJson,
    TrainingEntry,
    declared_channels,
    declared_labels,
    read_dataset_json,
)
from autoseg.imaging.datasets.names import composed
from autoseg.imaging.formats.volume import IMAGE_ENDINGS, split_channel, split_ending
from autoseg.records.dataset import CaseFiles, Fault, LabelValues

_PLAIN_FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))

_EXPECTED = """expected one of
  a Medical Segmentation Decathlon folder: dataset.json that lists the training files under "training"
  an nnU-Net v2 raw folder: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz
  a plain folder: images/CASE.nii.gz and labels/CASE.nii.gz
  a .csv or .json list of files: columns case, image (or image_0, image_1, ...), label"""

_DATA_FILE_ENDINGS = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")
"""Endings of voxel files that belong to .hdr, .mhd and .nhdr files beside them."""


@dataclass(frozen=True)
class FoundDataset:
    """Facts about a dataset from file names and JSON, before any image is opened."""

    name: str
    folder: Path
    layout: Literal["decathlon", "nnunet", "plain", "list"]
    cases: tuple[CaseFiles, ...]
    """Cases sorted by id; a case named in an error among `faults` is listed too."""
    faults: tuple[Fault, ...] = ()
    labels: dict[str, LabelValues] | None = None
    """Declared labels; None: not declared, to be found in the label maps."""
    regions_class_order: tuple[int, ...] | None = None
    channel_names: tuple[str, ...] | None = None
    """Declared names; None: not declared."""


def find_dataset(path: Path) -> FoundDataset:
    """Recognise the layout of a dataset and list its cases.

    Args:
        path: Dataset folder (or the dataset.json in it), or a CSV or JSON list.

    Raises:
        DatasetError: If the path does not exist, has no known layout, or its JSON or CSV is damaged.
    """
    path = path.absolute()
    path = path.parent if path.name == "dataset.json" else path
    if path.is_file() and path.suffix.lower() in (".csv", ".json"):
        cases, faults = read_case_list(path)
        return FoundDataset(name=path.stem, folder=path.parent.resolve(), layout="list", cases=cases, faults=faults)
    if not path.is_dir():
        what = "is neither a folder nor a .csv or .json list" if path.exists() else "does not exist"
        raise DatasetError(f"{path}: {what}; {_EXPECTED}")
    if (path / "dataset.json").is_file():
        declared = read_dataset_json(path / "dataset.json")
        is_list = bool(declared.training) and declared.dataset is None and not _is_left_over_list(path, declared)
        return _decathlon(path, declared) if is_list else _nnunet(path, declared)
    for image_folder, label_folder in _PLAIN_FOLDERS:
        if (path / image_folder).is_dir() and (path / label_folder).is_dir():
            cases, faults = pair_files(path, image_folder, label_folder)
            return FoundDataset(name=path.name, folder=path, layout="plain", cases=cases, faults=faults)
    raise DatasetError(f"{path}: no known dataset layout; {_EXPECTED}")


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
        )
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
        cases = [listed_case(folder, case, entry.images, entry.label) for case, entry in declared.dataset.items()]
        return _found(folder, "nnunet", declared, cases, listing_faults(cases))
    missing = [name for name in ("imagesTr", "labelsTr") if not (folder / name).is_dir()]
    if missing:
        raise DatasetError(f"{folder}: the folder {' and '.join(missing)} is missing beside dataset.json; {_EXPECTED}")
    names = declared_channels(declared)
    num_channels = len(names) if names else None
    paired, faults = pair_files(folder, "imagesTr", "labelsTr", channel_numbers=True, num_channels=num_channels)
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
    layout: Literal["decathlon", "nnunet"],
    declared: DatasetJson,
    cases: list[CaseFiles],
    faults: list[Fault],
) -> FoundDataset:
    if declared.num_training is not None and str(declared.num_training) != str(len(cases)):
        what = f"numTraining is {declared.num_training}, but {len(cases)} cases were found"
        faults = [*faults, Fault(severity="warning", case="", file="dataset.json", what=what)]
    return FoundDataset(
        name=folder.name,
        folder=folder,
        layout=layout,
        cases=tuple(sorted(cases, key=lambda files: files.case)),
        faults=tuple(faults),
        labels=declared_labels(declared, folder / "dataset.json"),
        regions_class_order=None if declared.regions_class_order is None else tuple(declared.regions_class_order),
        channel_names=declared_channels(declared),
    )


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


def pair_files(
    folder: Path,
    image_folder: str,
    label_folder: str,
    *,
    channel_numbers: bool | None = None,
    num_channels: int | None = None,
) -> tuple[tuple[CaseFiles, ...], tuple[Fault, ...]]:
    """Find cases by name: images CASE.ext or CASE_0000.ext, CASE_0001.ext, ...; label maps CASE.ext.

    Endings of image and label may differ. Hidden files are ignored, as are files that belong to a header beside them;
    other files that are not images are named in a warning.

    Args:
        folder: Dataset folder.
        image_folder: Name of the folder of images in it.
        label_folder: Name of the folder of label maps in it.
        channel_numbers: Whether image names end in a channel number; None: they do when no image is named exactly
            like a label map and some image name has a number.
        num_channels: Channels that each case should have, in as many files or all in one; None: as many as the
            case with the most.

    Returns:
        Cases sorted by id, a faulty one too; and faults of the names: missing channels, images without label (label
        empty) and labels without image.
    """
    images, image_faults = _files_by_stem(folder, image_folder)
    labels, label_faults = _files_by_stem(folder, label_folder)
    if channel_numbers is None:
        channel_numbers = not set(images) & set(labels) and any(map(split_channel, images))
    faults = [*(_of_case(fault, channel_numbers) for fault in image_faults), *label_faults]
    channels: dict[str, dict[int, str]] = {}
    for stem, file in images.items():
        case, channel = (split_channel(stem) or (None, 0)) if channel_numbers else (stem, 0)
        if case is None:
            faults.append(_error(stem, file, "the name lacks a channel number; expected CASE_0000, CASE_0001, ..."))
        else:
            channels.setdefault(case, {})[channel] = file
    faults += _missing_channels(channels, num_channels)
    faults += [
        _error(case, next(iter(files.values())), f"there is no label map for this image in {label_folder}/")
        for case, files in channels.items()
        if case not in labels
    ]
    faults += [
        _error(case, file, f"there is no image for this label map in {image_folder}/")
        for case, file in labels.items()
        if case not in channels
    ]
    cases = tuple(
        CaseFiles(case=case, images=tuple(files[index] for index in sorted(files)), label=labels.get(case, ""))
        for case, files in sorted(channels.items())
    )
    return cases, tuple(faults)


def image_files(folder: Path) -> list[str]:
    """Names of all files in a folder whose ending can be read, sorted; hidden files are ignored."""
    return [name for name in _visible_names(folder) if split_ending(name)[1] in IMAGE_ENDINGS]


def _files_by_stem(folder: Path, subfolder: str) -> tuple[dict[str, str], list[Fault]]:
    """Paths relative to the dataset folder by stem, and faults of the names."""
    files: dict[str, str] = {}
    faults = []
    for name in _visible_names(folder / subfolder):
        stem, ending = split_ending(name)
        stem = composed(stem)
        file = f"{subfolder}/{name}"
        if ending not in IMAGE_ENDINGS:
            if not name.lower().endswith(_DATA_FILE_ENDINGS):
                what = f"ignored: not an image that can be read; supported are {' '.join(IMAGE_ENDINGS)}"
                faults.append(Fault(severity="warning", case="", file=file, what=what))
        elif stem in files:
            faults.append(_error(stem, file, f"has the same case name as {files[stem]}; keep one of the two"))
        else:
            files[stem] = file
    return files, faults


def _of_case(fault: Fault, channel_numbers: bool) -> Fault:
    """The fault with the case id in place of the stem of a channel's file."""
    channel = split_channel(fault.case) if channel_numbers else None
    return fault.model_copy(update={"case": channel[0]}) if channel else fault


def _visible_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


def _missing_channels(channels: dict[str, dict[int, str]], num_channels: int | None) -> Iterable[Fault]:
    """Faults about channel files that the other cases have or the declared channel names require."""
    found = {index for files in channels.values() for index in files}
    all_in_one_file = found == {0}
    expected = set(range(max(found, default=0) + 1))
    if num_channels is not None and not all_in_one_file:
        expected |= set(range(num_channels))
    for case, files in channels.items():
        for index in sorted(expected - set(files)):
            first = next(iter(files.values()))
            file = re.sub(r"_\d{4}(?=\.[^/]*$)", f"_{index:04d}", first)
            yield _error(case, file, f"the file of channel {index} is missing")


def _error(case_id: str, file: str, what: str) -> Fault:
    return Fault(severity="error", case=case_id, file=file, what=what)
