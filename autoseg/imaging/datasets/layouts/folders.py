"""Layouts of folders without a dataset.json, one entry of a table each.

A layout is tried on a folder and answers with its cases, or with None where the folder has another one. The first that
fits is taken. No image is opened here.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autoseg.imaging.datasets.layouts.bids import find_bids_cases
from autoseg.imaging.datasets.layouts.dicom_entries import find_label_beside_slices, is_series_folder
from autoseg.imaging.datasets.layouts.grouping import Group, group_by_label, name_channels, one_case, split_labels
from autoseg.imaging.datasets.layouts.mask_files import (
    OBJECT,
    MaskCases,
    find_case_folders,
    find_label_map_folders,
    find_one_folder,
    find_two_folders,
    find_unmarked_case_folders,
    find_unmarked_one_folder,
)
from autoseg.imaging.datasets.layouts.names import IMAGE_FOLDERS, LABEL_FOLDERS, is_hidden
from autoseg.imaging.datasets.layouts.pairing import (
    files_by_stem,
    image_files,
    pair_files,
    unused_folders,
    visible_folders,
)
from autoseg.records.dataset import CaseFiles, Fault, LayoutName
from autoseg.records.files import real_path, relative_path

_USUAL_FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))
"""Folders of images and of label maps that are taken whatever else lies beside them."""

_PARTS_OF_A_DATASET = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "imagests"})
"""Names, in lower case, of folders that hold many cases; a folder of one case has another name."""


@dataclass(frozen=True)
class FolderCases:
    """Cases of a folder, before any image is opened."""

    cases: tuple[CaseFiles, ...]
    """Cases sorted by id."""
    faults: tuple[Fault, ...] = ()
    channel_words: tuple[str, ...] | None = None
    """Channels that the files' names tell; None: they tell none."""
    recognized: str = ""
    """What was recognised, for a note; empty where the layout needs none."""
    notes: tuple[str, ...] = ()
    """What else was found, one sentence each."""
    value_names: Mapping[int, str] | None = None
    """Names of the values in the label maps; None: the folder has no table of them."""


@dataclass(frozen=True)
class FolderLayout:
    """One way in which cases lie in a folder."""

    name: LayoutName
    pattern: str
    """An example in one line."""
    find: Callable[[Path], FolderCases | None]
    """The cases of a folder, paths relative to it; None: the folder has another layout."""


def find_cases(folder: Path, *, missing_channels: bool = False) -> tuple[FolderLayout, FolderCases] | None:
    """The first layout that fits, with its cases, which may lack channels in BIDS too if asked; None: none fits."""
    if missing_channels and (in_bids := _bids(folder, missing_channels=True)) is not None:
        return FOLDER_LAYOUTS[0], in_bids
    for layout in FOLDER_LAYOUTS:
        found = layout.find(folder)
        if found is not None:
            return layout, found
    return None


def _bids(folder: Path, *, missing_channels: bool = False) -> FolderCases | None:
    """The Brain Imaging Data Structure."""
    found = find_bids_cases(folder, missing_channels=missing_channels)
    if found is None:
        return None
    tables = [relative_path(real_path(table), real_path(folder)) for table in found.names.tables]
    return FolderCases(
        tuple(found.cases),
        tuple(found.faults),
        tuple(found.channels),
        recognized=_describe(found.cases, f"BIDS with the channels {', '.join(found.channels)}"),
        notes=(*found.notes, *(f"labels are named by {table}" for table in tables[:1])),
        value_names=found.names.names or None,
    )


def find_other_places(folder: Path) -> Iterator[FolderCases]:
    """Cases of each folder of images with each of label maps, of the folder itself, and of its subfolders."""
    for images, labels in _folder_pairs(folder):
        yield _paired(folder, images, labels)
    for cases in (_one_folder(folder), _subfolder_cases(folder)):
        if cases is not None:
            yield cases


def is_usual(found: FolderCases) -> bool:
    """Whether cases lie in two folders that are taken whatever else lies beside them."""
    complete = [files for files in found.cases if files.images and files.label]
    return any(
        all(files.images[0].startswith(f"{images}/") and files.label.startswith(f"{labels}/") for files in complete)
        for images, labels in _USUAL_FOLDERS
    )


def describe_several_folders(folder: Path) -> str:
    """The folders of images and of label maps with their numbers of files, if there are several of one kind."""
    pairs = _folder_pairs(folder)
    if len(pairs) < 2:
        return ""
    names = list(dict.fromkeys([images for images, _ in pairs] + [labels for _, labels in pairs]))
    counts = ", ".join(f"{name}/ ({len(image_files(folder / name))} files)" for name in names)
    return f"several folders of images or of label maps: {counts}"


def _folder_pairs(folder: Path) -> list[tuple[str, str]]:
    """Every folder of images with every folder of label maps, by any of their names."""
    subfolders = visible_folders(folder)
    images = [name for name in subfolders if name.lower() in IMAGE_FOLDERS]
    labels = [name for name in subfolders if name.lower() in LABEL_FOLDERS]
    return [(image_folder, label_folder) for image_folder in images for label_folder in labels]


def _usual_folders(images: str, labels: str, folder: Path) -> FolderCases | None:
    if not ((folder / images).is_dir() and (folder / labels).is_dir()):
        return None
    return _paired(folder, images, labels)


def _named_folders(folder: Path) -> FolderCases | None:
    """One folder of images and one of label maps, by any of their names; of several, those with most cases."""
    pairs = [_paired(folder, images, labels) for images, labels in _folder_pairs(folder)]
    return max(pairs, key=lambda found: sum(bool(files.label) for files in found.cases), default=None)


def _paired(folder: Path, image_folder: str, label_folder: str) -> FolderCases:
    """Cases of two folders: by equal names, or by names that label maps begin the names of their images' channels."""
    paired, faults = pair_files(folder, image_folder, label_folder)
    if not any(files.label for files in paired):
        by_words = _by_channel_words(folder, image_folder, label_folder)
        if by_words is not None:
            return by_words
    has_subfolders = any(file.count("/") > 1 for files in paired for file in files.images)
    is_usual = (image_folder, label_folder) in _USUAL_FOLDERS and not has_subfolders
    recognized = "" if is_usual else _describe(paired, f"{image_folder}/", label_folder)
    return FolderCases(paired, faults, recognized=recognized)


def _by_channel_words(folder: Path, image_folder: str, label_folder: str) -> FolderCases | None:
    images, image_faults = files_by_stem(folder, image_folder)
    labels, label_faults = files_by_stem(folder, label_folder)
    unmarked, by_case, clashes = split_labels(labels)
    by_case = unmarked | by_case if not unmarked.keys() & by_case.keys() else labels
    groups, left_over = group_by_label(images, by_case)
    if not groups:
        return None
    faults = [*image_faults, *label_faults, *clashes]
    return _grouped(
        groups, left_over, by_case, faults, f"{image_folder}/ with a word for each channel and {label_folder}/"
    )


def _one_folder(folder: Path) -> FolderCases | None:
    """Images and label maps side by side, label maps marked by a word."""
    files, faults = files_by_stem(folder, "")
    images, labels, clashes = split_labels(files)
    labels = {case: file for case, file in labels.items() if case}
    groups, left_over = group_by_label(images, labels)
    if not groups:
        return None
    faults += [*clashes, *unused_folders(folder, "")]
    return _grouped(groups, left_over, labels, faults, "images and label maps in one folder")


def _case_folders(folder: Path) -> FolderCases | None:
    """One subfolder for each case, or for each visit in the folder of a patient, its label map marked by a word."""
    return None if image_files(folder) else _subfolder_cases(folder)


def _label_beside_slices(folder: Path) -> FolderCases | None:
    """One folder for each case with the slices of a DICOM series and, among them, its label map."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    found = {name: label for name in names if (label := find_label_beside_slices(folder / name)) is not None}
    if not found or 2 * len(found) < len(names):
        return None
    cases = [CaseFiles(case=name, images=(name,), label=f"{name}/{label}") for name, label in found.items()]
    faults = [
        _error(name, name, "there is no label map, or more than one, among the slices of this series")
        for name in names
        if name not in found and is_series_folder(folder / name)
    ]
    where = "one folder for each case, its label map among the slices of a DICOM series"
    return FolderCases(tuple(cases), tuple(faults), recognized=_describe(cases, where))


def _subfolder_cases(folder: Path) -> FolderCases | None:
    """Cases in subfolders, whatever lies beside these."""
    subfolders = visible_folders(folder)
    if any(name.lower() in _PARTS_OF_A_DATASET for name in subfolders):
        return None
    groups: list[Group] = []
    faults: list[Fault] = []
    for name in folders_with_images(folder, subfolders):
        files, of_names = files_by_stem(folder, name)
        found, of_groups = _groups_of_folder(name.replace("/", "_"), files)
        groups += found
        faults += [*of_names, *of_groups, *unused_folders(folder, name)]
    with_label = [group for group in groups if group.label]
    if not with_label or 2 * len(with_label) < len(groups):
        return None
    named = name_channels(_with_unique_ids(groups))
    cases = _grouped_by_patient(named.cases)
    where = "one folder for each case"
    if any(files.group for files in cases):
        where = "one folder for each visit in the folders of patients, who stay in one fold"
    return FolderCases(cases, (*faults, *named.faults), named.channel_words, recognized=_describe(cases, where))


def folders_with_images(folder: Path, names: Sequence[str]) -> list[str]:
    """Relative paths of these folders; where one has no image itself, but its subfolders have, of its subfolders.

    Args:
        folder: Dataset folder, or one to predict.
        names: Names of folders in it.
    """
    found = []
    for name in names:
        is_between = len(names) > 1 and not image_files(folder / name)  # a single one may be the dataset itself
        visits = visible_folders(folder / name) if is_between else []
        below = [f"{name}/{visit}" for visit in visits if visit.lower() not in LABEL_FOLDERS]
        found += [path for path in (name, *below) if image_files(folder / path)]
    return found


def _grouped_by_patient(cases: Sequence[CaseFiles]) -> tuple[CaseFiles, ...]:
    """Cases in folders of folders, with the outer folder as their group if it can be that of a patient.

    Patients have few visits; fewer outer folders than folders in one of them are sites, or parts of a collection.
    """
    outer = [Path((*files.images, files.label)[0]).parts[:-2] for files in cases]
    visits = Counter(name for (name,) in filter(None, outer))
    if not visits or len(set(outer)) < max(visits.values()):
        return tuple(cases)
    return tuple(
        files.model_copy(update={"group": "".join(patient)}) for files, patient in zip(cases, outer, strict=True)
    )


def _with_masks(find: Callable[[Path], MaskCases | None], folder: Path) -> FolderCases | None:
    """Cases whose labels have mask files of their own."""
    found = find(folder)
    if found is None or any(name.lower() in _PARTS_OF_A_DATASET for name in visible_folders(folder)):
        return None
    named = name_channels(found.groups)
    cases = tuple(
        files.model_copy(update={"parts": found.masks[files.case]}) if files.case in found.masks else files
        for files in named.cases
    )
    kind = "mask" if found.masks else "label map"
    without_label = [_error(Path(file).name, file, f"there is no {kind} for this image") for file in found.left_over]
    faults = (*found.faults, *without_label, *named.faults)
    if not found.masks:
        recognized = _describe(cases, "a label map for each case")
        return FolderCases(cases, faults, named.channel_words, recognized=recognized)
    labels = list(dict.fromkeys(part.label for parts in found.masks.values() for part in parts))
    few = ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    example = next(files for files in cases if files.parts)
    kind = "several masks for each case, named after objects" if labels == [OBJECT] else "a mask file for each label"
    recognized = (
        f"recognised {kind} ({few}): {len(cases)} cases, such as {example.case} with "
        f"{', '.join(example.images)} and the mask {example.label}"
    )
    return FolderCases(cases, faults, named.channel_words, recognized=recognized)


def _with_unique_ids(groups: Sequence[Group]) -> list[Group]:
    """Groups whose ids occur in several folders get the name of their folder in front."""
    count = Counter(group.case for group in groups)
    return [
        group
        if count[group.case] == 1
        else replace(group, case="_".join((*Path(next(iter(group.images.values()))).parent.parts, group.case)))
        for group in groups
    ]


def _groups_of_folder(name: str, files: Mapping[str, str]) -> tuple[list[Group], list[Fault]]:
    """The case of a subfolder, or several, if it has several label maps with images of their own."""
    images, labels, faults = split_labels(files)
    if len(labels) <= 1:
        key, label = next(iter(labels.items()), ("", ""))
        if not images:
            return [], [*faults, _error(name, label, "there is no image for this label map in its folder")]
        if not label:
            faults.append(
                _error(name, next(iter(images.values())), "there is no label map in the folder of this image")
            )
        return [one_case(name, images, label, (key, name))], faults
    groups, left_over = group_by_label(images, labels)
    faults += [
        _error(name, file, "no label map in this folder belongs to this image by its name") for file in left_over
    ]
    return groups, faults


def _grouped(
    groups: list[Group], left_over: list[str], labels: Mapping[str, str], faults: list[Fault], recognized: str
) -> FolderCases:
    """Cases of groups; images without a label map, and the reverse, are cases with errors."""
    named = name_channels(groups)
    found = {group.case for group in groups}
    faults += [
        _error(case, file, "there is no image for this label map") for case, file in labels.items() if case not in found
    ]
    faults += [_error(Path(file).name, file, "there is no label map for this image") for file in left_over]
    return FolderCases(
        named.cases, (*faults, *named.faults), named.channel_words, recognized=_describe(named.cases, recognized)
    )


def _describe(cases: Collection[CaseFiles], where: str, label_folder: str = "") -> str:
    """What was recognised, with an example."""
    with_label = [files for files in cases if files.label and files.images]
    if not with_label:
        return ""
    example = with_label[0]
    beside = f" and {label_folder}/" if label_folder else ""
    return (
        f"recognised {where}{beside}: {len(cases)} cases, such as {example.case} with "
        f"{', '.join(example.images)} and the label map {example.label}"
    )


def _error(case_id: str, file: str, what: str) -> Fault:
    return Fault(severity="error", case=case_id, file=file, what=what)


FOLDER_LAYOUTS = (
    FolderLayout(
        "bids", "BIDS: sub-*/[ses-*/]anat/*_T1w.nii.gz and derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz", _bids
    ),
    FolderLayout(
        "masks", "two folders, a mask for each label: images/CASE.nii.gz and masks/CASE/liver.nii.gz (or CASE_liver)",
        partial(_with_masks, find_two_folders),
    ),
    *(
        FolderLayout("plain", f"{images}/CASE.nii.gz and {labels}/CASE.nii.gz", partial(_usual_folders, images, labels))
        for images, labels in _USUAL_FOLDERS
    ),
    FolderLayout(
        "plain", "two folders of other names, such as scans/CASE.nii.gz and masks/CASE_mask.nii.gz", _named_folders
    ),
    FolderLayout(
        "masks", "one folder for each case, a mask for each label: CASE/ct.nii.gz and CASE/segmentations/liver.nii.gz",
        partial(_with_masks, find_case_folders),
    ),
    FolderLayout(
        "case_folders", "one folder for each case, with subfolders: CASE/images/X.nii.gz and CASE/masks/Y.nii.gz",
        partial(_with_masks, find_label_map_folders),
    ),
    FolderLayout(
        "masks", "one folder, a mask for each label: CASE.nii.gz, CASE_mask_liver.nii.gz, CASE_mask_spleen.nii.gz",
        partial(_with_masks, find_one_folder),
    ),
    FolderLayout("one_folder", "one folder: CASE.nii.gz and CASE_seg.nii.gz (or label, mask, gt)", _one_folder),
    FolderLayout(
        "case_folders",
        "one folder for each case or PATIENT/VISIT: CASE/CASE_t1.nii.gz, CASE/CASE_flair.nii.gz, CASE/CASE_seg.nii.gz",
        _case_folders,
    ),
    FolderLayout(
        "case_folders", "one folder for each case, a DICOM series and its label map: CASE/001.dcm, ..., CASE/seg.dcm",
        _label_beside_slices,
    ),
    FolderLayout(
        "masks", "one folder for each case, masks called by labels alone: CASE/ct.nii.gz, CASE/liver.nii.gz",
        partial(_with_masks, find_unmarked_case_folders),
    ),
    FolderLayout(
        "masks", "one folder, masks called by labels alone: CASE.nii.gz, CASE_liver.nii.gz, CASE_spleen.nii.gz",
        partial(_with_masks, find_unmarked_one_folder),
    ),
)  # fmt: skip
"""Layouts in the order in which they are tried."""
