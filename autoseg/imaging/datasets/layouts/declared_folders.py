"""Folders whose dataset.json says what they are: those of the Medical Segmentation Decathlon, and of nnU-Net.

Tested in tests/imaging/datasets/layouts/test_recognition.py and tests/stages/test_describe.py.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from autoseg.imaging.datasets.dataset_json import (
    DatasetJson,
    TrainingEntry,
    declared_channels,
    declared_labels,
)
from autoseg.imaging.datasets.labels.annotated_labels import with_declared
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.imaging.datasets.layouts.pairing import image_files, pair_files
from autoseg.imaging.datasets.lists.case_lists import case_name, listed_case, listing_faults
from autoseg.imaging.formats.volume import split_channel, split_ending
from autoseg.records.dataset import CaseFiles, Fault, LayoutName

_NO_NUMBERS = (
    "the images in imagesTr/ have no channel numbers (CASE_0000), as nnU-Net requires; each file is taken as the image "
    "of the case that it is called like"
)


def is_left_over_list(folder: Path, declared: DatasetJson) -> bool:
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


def list_decathlon(folder: Path, declared: DatasetJson) -> FoundDataset:
    """The cases that dataset.json lists under `training`."""
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
    return as_declared(folder, "decathlon", declared, cases, faults)


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


def list_nnunet(folder: Path, declared: DatasetJson) -> FoundDataset:
    """The cases that dataset.json lists under `dataset`, else those of imagesTr/ and labelsTr/."""
    if declared.dataset is not None:
        cases = [
            listed_case(folder, case, entry.images, entry.label).model_copy(update={"annotated": entry.annotated})
            for case, entry in declared.dataset.items()
        ]
        return as_declared(folder, "nnunet", declared, cases, listing_faults(cases))
    names = declared_channels(declared)
    num_channels = len(names) if names else None
    paired, faults = pair_files(folder, "imagesTr", "labelsTr", channel_numbers=True, num_channels=num_channels)
    if not any(files.label for files in paired):
        by_name, name_faults = pair_files(folder, "imagesTr", "labelsTr", channel_numbers=False)
        if any(files.label for files in by_name):
            found = as_declared(folder, "nnunet", declared, *_compare_with_list(by_name, name_faults, declared))
            return replace(found, notes=(_NO_NUMBERS,))
    return as_declared(folder, "nnunet", declared, *_compare_with_list(paired, faults, declared))


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


def as_declared(
    folder: Path,
    layout: LayoutName,
    declared: DatasetJson,
    cases: list[CaseFiles],
    faults: list[Fault],
) -> FoundDataset:
    """A dataset of these cases, with the labels and channels that dataset.json declares."""
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
        regions_class_order=declared_regions(declared),
        channel_names=declared_channels(declared),
    )


def declared_regions(declared: DatasetJson | None) -> tuple[int, ...] | None:
    """Order in which regions are painted, where one is declared."""
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
