"""The Brain Imaging Data Structure: images by subject and session, label maps in derivatives, a table of label names.

    sub-01/ses-a/anat/sub-01_ses-a_T1w                             image, channel T1w, of case sub-01_ses-a
    derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_dseg         its label map
    derivatives/manual/dseg.tsv (or dseg.tsv, or beside the file)  names of the values

A label map belongs to the images of its subject and session in its space. Where several have one suffix, it is the one
whose other entities (run, acq, ...) are those of the label map. Masks of one label (`_label-lesion_mask`) are used
where there are no label maps. The column `annotated` of participants.tsv has the labels that were looked for in a
subject. No voxel is read; headers tell which images lie on the grid of the label maps.

References:
    BIDS specification 1.9, common principles (entities) and common derivatives (segmentations).
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import DatasetError, ImageFileError
from autoseg.imaging.datasets.layouts.bids_names import BidsFile, find_bids_files
from autoseg.imaging.datasets.layouts.bids_tables import ValueNames, find_annotated, find_value_names
from autoseg.imaging.formats.reading import read_grid
from autoseg.imaging.formats.volume import grid_difference
from autoseg.records.dataset import CaseFiles, Fault, LabelPart

_LABEL_SUFFIXES = ("dseg", "mask", "seg", "msk")
"""Suffixes of label maps; `seg` and `msk` are not those of BIDS, and frequent."""

_NO_IMAGES = (*_LABEL_SUFFIXES, "probseg", "xfm", "defacemask")
"""Suffixes of files that are no images."""

_MAX_LISTED = 8
"""Number of kinds of files that a message lists."""


@dataclass
class BidsCases:
    """Cases of a dataset in BIDS."""

    cases: list[CaseFiles] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    """Names of the channels, in the order of each case's images."""
    names: ValueNames = field(default_factory=ValueNames)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_bids_cases(folder: Path, *, missing_channels: bool = False) -> BidsCases | None:
    """Cases with label maps; None where the folder is not one of BIDS, or has no label maps.

    Args:
        folder: The dataset, or one derivative of it (`derivatives/manual`), whose label maps alone count then.
        missing_channels: Whether cases may lack channels: those of most cases are used, else those of all.

    Raises:
        DatasetError: If a case has several label maps, or a table of labels is damaged.
    """
    root = next((parent.parent for parent in folder.parents if parent.name == "derivatives"), folder)
    own = list(find_bids_files(folder, folder, is_nested=False))
    derived = list(find_bids_files(folder / "derivatives", folder, is_nested=True))
    raw = own if root == folder else list(find_bids_files(root, folder, is_nested=False))
    images = [file for file in raw if file.suffix not in _NO_IMAGES]
    labels = [file for file in (*own, *derived) if file.suffix in _LABEL_SUFFIXES]
    if not images or not labels:
        return None
    found = BidsCases()
    in_other_spaces = [file for file in (*own, *derived) if file.suffix not in _NO_IMAGES and file.space]
    images = list({file.path: file for file in (*images, *in_other_spaces)}.values())
    labels = _usable_labels(labels, images, found)
    groups = _by_case(labels, folder)
    images_of = {case: _images_of(files[0], images) for case, files in groups.items()}
    _add_cases(folder, groups, images_of, found, missing_channels=missing_channels)
    annotated = find_annotated(root)
    subjects = {case: files[0].entities["sub"] for case, files in groups.items()}
    found.cases = [files.model_copy(update={"annotated": annotated.get(subjects[files.case])}) for files in found.cases]
    found.names = find_value_names(folder, root, [files[0] for files in groups.values() if not _is_mask(files[0])])
    if without_label := {file.session for file in images} - {file.session for file in labels}:
        found.notes.append(f"not used: {len(without_label)} subjects or sessions without label map")
    return found


def find_bids_images(folder: Path, channel_names: Sequence[str]) -> dict[str, dict[int, str]]:
    """Images for prediction: by case, and by the number of their channel.

    Args:
        folder: Dataset folder.
        channel_names: Channels that the model expects, such as `T1w` (`T1` is the same). Images of a model with one
            channel may have any suffix, if all have the same one.
    """
    numbers = {name.casefold().removesuffix("w"): number for number, name in enumerate(channel_names)}
    files = [file for file in find_bids_files(folder, folder, is_nested=False) if file.suffix not in _NO_IMAGES]
    channels = {file.channel.casefold().removesuffix("w") for file in files}
    if len(numbers) == len(channels) == 1:
        numbers = dict.fromkeys(channels, 0)
    found: dict[str, dict[int, str]] = {}
    for file in files:
        number = numbers.get(file.channel.casefold().removesuffix("w"))
        if number is not None:
            case = "_".join([file.session, *(f"{key}-{value}" for key, value in file.choosing.items())])
            found.setdefault(case, {})[number] = file.path
    return found


def _usable_labels(labels: Sequence[BidsFile], images: Sequence[BidsFile], found: BidsCases) -> list[BidsFile]:
    """Label maps in the space of some image; masks only where there is nothing else."""
    spaces = {(file.session, file.space) for file in images} | {(file.session, file.suffix) for file in images}
    usable = [file for file in labels if not file.space or (file.session, file.space) in spaces]
    if len(usable) < len(labels):
        others = sorted({file.space for file in labels if file not in usable})
        found.notes.append(
            f"not used: {len(labels) - len(usable)} label maps in spaces without images ({', '.join(others)})"
        )
    maps = [file for file in usable if not _is_mask(file)]
    if maps and len(maps) < len(usable):
        found.notes.append(f"not used: {len(usable) - len(maps)} masks, because there are label maps")
    return maps or usable


def _is_mask(file: BidsFile) -> bool:
    return file.suffix == "mask" or "label" in file.entities


def _label_name(file: BidsFile) -> str:
    return file.entities.get("label") or file.entities.get("desc") or file.suffix


def _by_case(labels: Sequence[BidsFile], folder: Path) -> dict[str, list[BidsFile]]:
    """Label maps, or the masks of all labels, by case id."""
    groups: dict[tuple[str, str], list[BidsFile]] = {}
    for file in labels:
        rest = [*(f"{key}-{value}" for key, value in file.choosing.items()), *file.words[:-1]]
        groups.setdefault((file.session, "_".join(rest)), []).append(file)
    several = [
        files
        for files in groups.values()
        if len({_label_name(file) if _is_mask(file) else "" for file in files}) < len(files)
    ]
    if several:
        raise DatasetError(_describe_several(folder, several))
    count = Counter(session for session, _ in groups)
    return {
        session if count[session] == 1 or not rest else f"{session}_{rest}": files
        for (session, rest), files in groups.items()
    }


def _describe_several(folder: Path, several: Sequence[Sequence[BidsFile]]) -> str:
    kinds = Counter(_kind(file) for files in several for file in files)
    lines = [f"  {count} x {kind}" for kind, count in kinds.most_common(_MAX_LISTED)]
    derivatives = dict.fromkeys(kind.partition("sub-")[0] for kind in kinds)
    commands = [
        f"  {shlex.join(['autoseg-plan', str(folder / derivative)])}"
        for derivative in derivatives
        if derivative and len(derivatives) == len(kinds)
    ]
    advice = ["Give the derivative whose label maps are meant, or list the files in a CSV file:", *commands]
    return "\n".join(
        [
            f"{folder}: {len(several)} cases have several label maps:",
            *lines,
            *(
                advice
                if commands
                else ["List the files that are meant in a CSV file with the columns case, image, label."]
            ),
        ]
    )


def _kind(file: BidsFile) -> str:
    """A path that stands for the files of all subjects."""
    derivative = file.path.partition("sub-")[0]
    same = {"sub", "ses", *file.choosing}
    parts = [f"{key}-{value}" for key, value in file.entities.items() if key not in same]
    return f"{derivative}sub-*/**/sub-*_{'_'.join([*parts, *file.words])}"


def _images_of(label: BidsFile, images: Sequence[BidsFile]) -> dict[str, list[BidsFile]]:
    """Images that a label map may belong to, by channel; more than one where the names do not tell which."""
    space = "" if label.space in {file.suffix for file in images} else label.space
    by_channel: dict[str, list[BidsFile]] = {}
    for file in images:
        is_meant = not label.words[:-1] or file.suffix in label.words[:-1]
        if file.session == label.session and file.space == space and is_meant:
            by_channel.setdefault(file.channel, []).append(file)
    chosen = {channel: _nearest(label.choosing, files) for channel, files in by_channel.items()}
    return {channel: files for channel, files in chosen.items() if files}


def _nearest(wanted: Mapping[str, str], files: Sequence[BidsFile]) -> list[BidsFile]:
    """Images without another run (or acquisition, ...) than the label map; of several those with the same entities."""
    fitting = [file for file in files if all(file.choosing.get(key, value) == value for key, value in wanted.items())]
    equal = [file for file in fitting if file.choosing == wanted]
    return equal if equal else fitting


def _add_cases(
    folder: Path,
    groups: Mapping[str, Sequence[BidsFile]],
    images: Mapping[str, Mapping[str, Sequence[BidsFile]]],
    found: BidsCases,
    *,
    missing_channels: bool,
) -> None:
    """Cases with the channels that all of them, or most, have on the grid of their label maps."""
    with_images = {case: of_case for case, of_case in images.items() if of_case}
    for case in groups.keys() - with_images.keys():
        found.faults.append(_error(case, groups[case][0].path, "there is no image for this label map"))
    found.channels = _choose_channels(folder, groups, with_images, found, missing_channels=missing_channels)
    subjects = Counter(groups[case][0].entities["sub"] for case in with_images)
    for case, of_case in sorted(with_images.items()):
        files = groups[case]
        present = [channel for channel in found.channels if channel in of_case]
        if not present:
            what = f"there is no image of the channels {', '.join(found.channels)} for this label map"
            found.faults.append(_error(case, files[0].path, what))
            continue
        for channel in present:
            if len(of_case[channel]) > 1:
                listed = ", ".join(file.path for file in of_case[channel])
                what = (
                    f"several images have the suffix {channel}, and the label map's name does not tell which: {listed}"
                )
                found.faults.append(_error(case, files[0].path, what))
        parts = tuple(LabelPart(label=_label_name(file), file=file.path) for file in files)
        subject = files[0].entities["sub"]
        found.cases.append(
            CaseFiles(
                case=case,
                images=tuple(of_case[channel][0].path for channel in present),
                absent_channels=tuple(at for at, channel in enumerate(found.channels) if channel not in of_case),
                label=files[0].path,
                parts=parts if _is_mask(files[0]) else None,
                group=f"sub-{subject}" if subjects[subject] > 1 else "",
            )
        )


def _choose_channels(
    folder: Path,
    groups: Mapping[str, Sequence[BidsFile]],
    images: Mapping[str, Mapping[str, Sequence[BidsFile]]],
    found: BidsCases,
    *,
    missing_channels: bool,
) -> list[str]:
    """Channels that every case has, or most, on the grid of most label maps; the others are named in notes."""
    count = Counter(channel for of_case in images.values() for channel in of_case)
    needed = len(images) // 2 + 1 if missing_channels else len(images)
    frequent = sorted(channel for channel in count if count[channel] >= needed)
    rare = [
        f"{channel} ({count[channel]} of {len(images)} cases have it)"
        for channel in sorted(count.keys() - set(frequent))
    ]
    apart = {
        channel: sum(
            _is_apart(folder, of_case[channel][0].path, groups[case][0].path)
            for case, of_case in images.items()
            if channel in of_case
        )
        for channel in frequent
    }
    on_grid = [channel for channel in frequent if 2 * apart[channel] <= count[channel]] or frequent
    rare += [
        f"{channel} (not on the grid of the label map in {apart[channel]} of {count[channel]} cases)"
        for channel in frequent
        if channel not in on_grid
    ]
    if rare:
        found.notes.append(f"channels that are not used: {', '.join(rare)}")
    if not on_grid:
        where = "most cases" if missing_channels else "every case"
        raise DatasetError(
            f"{folder}: no channel is there in {where}: {', '.join(rare)}. Complete the images, or list the cases to "
            "be used in a CSV file"
        )
    return on_grid


def _is_apart(folder: Path, image: str, label: str) -> bool:
    """Whether two files have different grids by their headers; damaged files are reported when they are read."""
    try:
        return grid_difference(read_grid(folder / image), read_grid(folder / label)) is not None
    except ImageFileError:
        return False


def _error(case_id: str, file: str, what: str) -> Fault:
    return Fault(severity="error", case=case_id, file=file, what=what)
