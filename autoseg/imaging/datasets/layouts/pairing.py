"""Images and label maps in two folders, paired by their names; the files of a folder by their stems.

No image is opened here. Tested in tests/imaging/datasets/layouts/test_recognition.py.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from autoseg.imaging.datasets.layouts.dicom_entries import dicom_entries, is_series_folder, split_entry
from autoseg.imaging.datasets.layouts.names import composed, is_hidden, split_label_word
from autoseg.imaging.formats.volume import IMAGE_ENDINGS, split_channel, split_ending
from autoseg.records.dataset import CaseFiles, Fault
from autoseg.records.prediction import INSTANCES

_DATA_FILE_ENDINGS = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")
"""Endings of voxel files that belong to .hdr, .mhd and .nhdr files beside them."""

_SIDECAR_ENDINGS = (".json", ".bval", ".bvec", ".xml", ".pgw", ".tfw", ".xmp")
"""Endings of files about an image that converters and cameras put beside it, under its name."""

_COMPANIONS = ("dataset.json", "labels.json")
"""Files about a whole dataset."""

_MAX_DEPTH = 3
"""Folders below the one of images or label maps that are looked into."""


def pair_files(
    folder: Path,
    image_folder: str,
    label_folder: str,
    *,
    channel_numbers: bool | None = None,
    num_channels: int | None = None,
) -> tuple[tuple[CaseFiles, ...], tuple[Fault, ...]]:
    """Find cases by name: images CASE.ext or CASE_0000.ext, CASE_0001.ext, ...; label maps CASE.ext or CASE_seg.ext.

    Endings of image and label may differ. Hidden files are ignored, as are files that belong to a header beside them;
    other files that are not images are named in a warning. Where the folder of images has no image itself, the files of
    its subfolders are paired, `images/a/x.png` with `labels/a/x.png` as the case `a_x`. Where objects have numbers,
    CASE_instances.ext beside the label map holds them.

    Args:
        folder: Dataset folder.
        image_folder: Name of the folder of images in it.
        label_folder: Name of the folder of label maps in it.
        channel_numbers: Whether image names end in a channel number; None: they do when some have one, and no more
            images are called exactly like their label maps than without the number.
        num_channels: Channels that each case should have, in as many files or all in one; None: as many as the
            case with the most.

    Returns:
        Cases sorted by id, a faulty one too; and faults of the names: missing channels, images without label (label
        empty) and labels without image.
    """
    has_subfolders = not image_files(folder / image_folder)
    images, image_faults = files_by_stem(folder, image_folder, has_subfolders=has_subfolders)
    found_labels, label_faults = files_by_stem(folder, label_folder, has_subfolders=has_subfolders)
    instances = _take_instances(found_labels, images)
    labels, clashes = _labels_by_case(found_labels, images)
    if channel_numbers is None:
        channel_numbers = _have_channel_numbers(images, labels)
    faults = [*(_of_case(fault, channel_numbers) for fault in image_faults), *label_faults, *clashes]
    if not has_subfolders:
        faults += [*unused_folders(folder, image_folder), *unused_folders(folder, label_folder)]
    channels, unnumbered = _channels_by_case(images, channel_numbers=channel_numbers)
    expected = _expected_channels(channels, num_channels)
    faults += [*unnumbered, *_missing_channels(channels, expected)]
    for case, files in channels.items():
        if case not in labels:
            what = f"there is no label map for this image in {label_folder}/"
            faults.append(_error(case, next(iter(files.values())), what))
    for case, file in labels.items():
        if case not in channels:
            faults.append(_error(case, file, f"there is no image for this label map in {image_folder}/"))
    cases = tuple(
        CaseFiles(
            case=case,
            images=tuple(files[index] for index in sorted(files)),
            label=labels.get(case, ""),
            instances=instances.get(labels.get(case, ""), ""),
            absent_channels=tuple(sorted(expected - set(files))),
        )
        for case, files in sorted(channels.items())
    )
    return cases, tuple(faults)


def image_files(folder: Path) -> list[str]:
    """Names of all images in a folder, sorted: files whose ending can be read, and DICOM series.

    Hidden files are ignored.
    """
    files = [name for name in _visible_names(folder) if split_ending(name)[1] in IMAGE_ENDINGS]
    return sorted([*files, *dicom_entries(folder)])


def visible_folders(folder: Path) -> list[str]:
    """Names of the subfolders of a folder, sorted; hidden ones, and those that are a DICOM series, are ignored."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not is_hidden(path.name) and not is_series_folder(path)
    )


def _take_instances(labels: dict[str, str], images: Mapping[str, str]) -> dict[str, str]:
    """Take the maps with numbers of objects, `CASE_instances.ext` beside the label map `CASE.ext`, from label files.

    Args:
        labels: Label files by stem; loses those that are taken.
        images: Image files by stem; where one of them has such a name, it is a case of its own.

    Returns:
        Maps of objects by label file.
    """
    found = {stem: f"{stem}_{INSTANCES}" for stem in labels if f"{stem}_{INSTANCES}" in labels}
    return {labels[stem]: labels.pop(name) for stem, name in found.items() if name not in images}


def _labels_by_case(labels: Mapping[str, str], images: Mapping[str, str]) -> tuple[dict[str, str], list[Fault]]:
    """Label files by the id of their case: their stem, without the word that marks a label map where no image has it.

    Args:
        labels: Label files by stem.
        images: Image files by stem.
    """
    ids = {*images, *(channel[0] for stem in images if (channel := split_channel(stem)))}
    by_case: dict[str, str] = {}
    faults = []
    for stem, file in labels.items():
        marked = split_label_word(stem)
        case = marked[0] if marked and stem not in ids and marked[0] in ids else stem
        if case in by_case:
            faults.append(
                _error(case, file, f"is a label map of the same case as {by_case[case]}; keep one of the two")
            )
        else:
            by_case[case] = file
    return by_case, faults


def _have_channel_numbers(images: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether stems of images end in channel numbers: as many cases have a label map with it as without it."""
    numbered = {channel[0] for channel in map(split_channel, images) if channel}
    return bool(numbered) and len(numbered & set(labels)) >= len(set(images) & set(labels))


def _channels_by_case(
    images: Mapping[str, str], *, channel_numbers: bool
) -> tuple[dict[str, dict[int, str]], list[Fault]]:
    """Files of images by case and number of the channel, and faults of names without a number."""
    channels: dict[str, dict[int, str]] = {}
    faults = []
    for stem, file in images.items():
        case, channel = (split_channel(stem) or (None, 0)) if channel_numbers else (stem, 0)
        if case is None:
            faults.append(_error(stem, file, "the name lacks a channel number; expected CASE_0000, CASE_0001, ..."))
        else:
            channels.setdefault(case, {})[channel] = file
    return channels, faults


def files_by_stem(folder: Path, subfolder: str, *, has_subfolders: bool = False) -> tuple[dict[str, str], list[Fault]]:
    """Image files of a subfolder by stem, and faults of the names.

    Args:
        folder: Dataset folder.
        subfolder: Name of a folder in it; empty for the dataset folder itself.
        has_subfolders: Whether the files lie in folders of that subfolder; their names become part of the stems:
            `a/b/x.png` has the stem `a_b_x`.

    Returns:
        Paths relative to the dataset folder, and errors and warnings about names.
    """
    files: dict[str, str] = {}
    faults = []
    place = folder / subfolder
    names = _visible_paths(place) if has_subfolders else _visible_names(place)
    series = set(dicom_entries(place))
    images = {split_ending(name)[0] for name in names if split_ending(name)[1] in IMAGE_ENDINGS}
    for name in [*names, *sorted(series - set(names))]:
        stem, ending = split_entry(place, name)
        stem = composed(stem).replace("/", "_")
        file = f"{subfolder}/{name}" if subfolder else name
        if ending not in IMAGE_ENDINGS and name not in series:
            if not _is_about_images(name, images):
                what = f"ignored: not an image that can be read; supported are {' '.join(IMAGE_ENDINGS)}"
                faults.append(Fault(severity="warning", case="", file=file, what=what))
        elif stem in files:
            faults.append(_error(stem, file, f"has the same case name as {files[stem]}; keep one of the two"))
        else:
            files[stem] = file
    return files, faults


def _is_about_images(name: str, images: Collection[str]) -> bool:
    """Whether a file that is no image belongs to images, those of the stems, or to the whole dataset."""
    stem, ending = split_ending(name)
    is_sidecar = ending in _SIDECAR_ENDINGS and stem in images
    return is_sidecar or name in _COMPANIONS or name.lower().endswith(_DATA_FILE_ENDINGS)


def unused_folders(folder: Path, subfolder: str) -> list[Fault]:
    """Warnings about folders with images, where images beside them are used.

    Args:
        folder: Dataset folder.
        subfolder: Name of the folder in it whose images are used; empty for the dataset folder itself.
    """
    beside = folder / subfolder
    counts = {name: len(image_files(beside / name)) for name in visible_folders(beside)}
    return [
        Fault(
            severity="warning", case="", file=f"{subfolder}/{name}" if subfolder else name,
            what=f"not used: this folder holds {count} image files, and the cases are beside it",
        )
        for name, count in counts.items()
        if count
    ]  # fmt: skip


def _of_case(fault: Fault, channel_numbers: bool) -> Fault:
    """The fault with the case id in place of the stem of a channel's file."""
    channel = split_channel(fault.case) if channel_numbers else None
    return fault.model_copy(update={"case": channel[0]}) if channel else fault


def _visible_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not is_hidden(path.name) and not path.is_dir())


def _visible_paths(folder: Path, depth: int = _MAX_DEPTH) -> list[str]:
    """Relative paths of all visible files of a folder and its subfolders, POSIX separators, sorted by folder."""
    below = [
        f"{name}/{path}"
        for name in visible_folders(folder)
        if depth
        for path in _visible_paths(folder / name, depth - 1)
    ]
    return [*_visible_names(folder), *below]


def _expected_channels(channels: Mapping[str, Mapping[int, str]], num_channels: int | None) -> set[int]:
    """Numbers of the channels that some case has or the declared channel names require."""
    found = {index for files in channels.values() for index in files}
    all_in_one_file = found == {0}
    expected = set(range(max(found, default=0) + 1))
    if num_channels is not None and not all_in_one_file:
        expected |= set(range(num_channels))
    return expected


def _missing_channels(channels: Mapping[str, Mapping[int, str]], expected: Collection[int]) -> Iterable[Fault]:
    """Faults about channels that a case has no file of; of a channel that few cases have, one of those is named."""
    having = {index: [case for case, files in channels.items() if index in files] for index in expected}
    for case, files in channels.items():
        for index in sorted(set(expected) - set(files)):
            first = next(iter(files.values()))
            file = re.sub(r"_\d{4}(?=\.[^/]*$)", f"_{index:04d}", first)
            are_few = 0 < len(having[index]) < len(channels) / 2
            who = f", which {having[index][0]} has," if are_few else ""
            what = f"the file of channel {index}{who} is missing"
            yield Fault(severity="error", case=case, file=file, what=what, is_missing_channel=True)


def _error(case_id: str, file: str, what: str) -> Fault:
    return Fault(severity="error", case=case_id, file=file, what=what)
