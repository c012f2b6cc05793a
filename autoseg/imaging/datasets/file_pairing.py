"""Pairing of image files and label files in two folders by their names.

Tested in tests/stages/test_describe.py.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoseg.imaging.formats.volume import IMAGE_ENDINGS, split_ending
from autoseg.records.dataset import CaseFiles, Fault

_CHANNEL_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
"""Stem of the file of one channel: CASE_0000, CASE_0001, ..."""

_DATA_FILE_ENDINGS = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")
"""Endings of voxel files that belong to .hdr, .mhd and .nhdr files beside them."""


@dataclass(frozen=True)
class PairedFiles:
    """Cases found in two folders, and faults of the names; a faulty case is listed too."""

    cases: tuple[CaseFiles, ...]
    faults: tuple[Fault, ...]


def split_channel(stem: str) -> tuple[str, int] | None:
    """`CASE_0001` -> (`CASE`, 1); None for a name without a four-digit channel number."""
    match = _CHANNEL_NAME.fullmatch(stem)
    return (match["case"], int(match["channel"])) if match else None


def pair_files(
    folder: Path,
    image_folder: str,
    label_folder: str,
    *,
    channel_numbers: bool | None = None,
    num_channels: int | None = None,
) -> PairedFiles:
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
        Cases sorted by id; missing channels, images without label (label empty) and labels without image as faults.
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
    return PairedFiles(cases=cases, faults=tuple(faults))


def image_files(folder: Path) -> list[str]:
    """Names of all files in a folder whose ending can be read, sorted; hidden files are ignored."""
    return [name for name in _visible_names(folder) if split_ending(name)[1] in IMAGE_ENDINGS]


def _files_by_stem(folder: Path, subfolder: str) -> tuple[dict[str, str], list[Fault]]:
    """Paths relative to the dataset folder by stem, and faults of the names."""
    files: dict[str, str] = {}
    faults = []
    for name in _visible_names(folder / subfolder):
        stem, ending = split_ending(name)
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


def _error(case: str, file: str, what: str) -> Fault:
    return Fault(severity="error", case=case, file=file, what=what)
