"""What lies in a folder that has no known layout: endings, depth, parts of names, and the nearest layout.

Tested in tests/imaging/datasets/layouts/test_folders.py.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.bids_names import find_bids_files
from autoseg.imaging.datasets.layouts.folders import find_cases
from autoseg.imaging.datasets.layouts.names import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    LABEL_WORDS,
    is_hidden,
    split_label_word,
)
from autoseg.imaging.datasets.layouts.pairing import visible_folders
from autoseg.imaging.datasets.lists.datalists import find_datalist
from autoseg.imaging.datasets.lists.list_columns import find_columns
from autoseg.imaging.datasets.lists.list_files import is_list_file, read_list_table
from autoseg.imaging.formats.volume import IMAGE_ENDINGS, split_ending

_MAX_FILES = 20_000
"""Files that are looked at; a folder with more is described by these."""

_MAX_DEPTH = 3
"""Folders below the dataset folder that are looked into."""

_PATTERNS = "--image-pattern 'FOLDER/{case}_{channel}.nii.gz' --label-pattern 'FOLDER/{case}_seg.nii.gz'"

_MAX_SUBFOLDERS = 20
"""Folders in the dataset folder that are tried as datasets of their own."""

_PLAN = "plan.json"

_MARKS = "_seg, _label, _mask or _gt"


def describe_unknown_layout(folder: Path) -> str:
    """What was found in a folder, and what the nearest layout lacks; several sentences."""
    files, images = _find_files(folder)
    patterns = f"Or say how the files are called: {_PATTERNS}." if images else ""
    sentences = [_describe_files(folder, files), *_describe_names(images), _nearest(folder, files, images), patterns]
    return " ".join(sentence for sentence in sentences if sentence)


_DICOM_HINT = (
    "A DICOM series is one image, in a folder or zip archive of its own: put series into images/CASE, and their label "
    "maps into labels/CASE.nii.gz or, as DICOM segmentations, into labels/CASE.dcm."
)


def describe_content(folder: Path) -> str:
    """What was found in a folder: endings, depth, ends of names, and examples; several sentences."""
    files, images = _find_files(folder)
    few = ", ".join(path.relative_to(folder).as_posix() for path in images[:3])
    examples = [f"Such as {few}."] if few else []
    return " ".join([_describe_files(folder, files), *_describe_names(images), *examples])


def _find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files, and those that are images."""
    files = list(islice(_walk(folder, _MAX_DEPTH), _MAX_FILES))
    return files, [path for path in files if split_ending(path.name)[1] in IMAGE_ENDINGS]


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Visible files of a folder and its subfolders, sorted."""
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if not path.is_dir():
            yield path
        elif depth:
            yield from _walk(path, depth - 1)


def _describe_files(folder: Path, files: list[Path]) -> str:
    if not files:
        return "It holds no files."
    counts = Counter((len(path.relative_to(folder).parts) - 1, split_ending(path.name)[1]) for path in files)
    listed = ", ".join(
        f"{count} {ending or 'without ending'} {_describe_depth(depth)}"
        for (depth, ending), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1]))[:6]
    )
    subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    few = ", ".join(subfolders[:3]) + (", ..." if len(subfolders) > 3 else "")
    return f"Found: {listed}{f'; {len(subfolders)} folders ({few})' if subfolders else ''}."


def _describe_depth(depth: int) -> str:
    return "in the folder itself" if depth == 0 else f"{depth} {'folder' if depth == 1 else 'folders'} below"


def _describe_names(images: list[Path]) -> Iterator[str]:
    """The last parts of names that occur several times."""
    stems = [split_ending(path.name)[0] for path in images]
    parts = Counter(match[0] for stem in stems if (match := re.search(r"[_\-.][A-Za-z][A-Za-z0-9]*$|_\d{4}$", stem)))
    often = [f"{part} ({count})" for part, count in parts.most_common(6) if count > 1]
    if often:
        yield f"Names end in {', '.join(often)}."


def _nearest(folder: Path, files: list[Path], images: list[Path]) -> str:
    """What to give instead, or the layout that lacks least, and what it lacks."""
    if lists := [path.name for path in files if path.parent == folder and _is_case_list(path)]:
        return f"The list {lists[0]} in it names cases: give {folder / lists[0]}."
    if not images:
        return _describe_no_images(folder, files)
    if subjects := {file.entities["sub"] for file in find_bids_files(folder, folder, is_nested=False)}:
        return (
            f"Nearest: BIDS; there are images of {len(subjects)} subjects (sub-*), and no label map of them: put them "
            "into derivatives/NAME/sub-*/anat/sub-*_dseg.nii.gz."
        )
    return _describe_datasets_near(folder) or _nearest_by_names(folder, images)


def _describe_no_images(folder: Path, files: list[Path]) -> str:
    if (folder / _PLAN).is_file():
        return "It is a workspace of autoseg-plan: train in it, or give the dataset that it was planned for."
    looks_like_dicom = any(split_ending(path.name)[1] in ("", ".dcm", ".ima") for path in files)
    dicom = f" {_DICOM_HINT}" if looks_like_dicom else ""
    return f"No file has an ending that can be read ({' '.join(IMAGE_ENDINGS)}).{dicom}"


def _describe_datasets_near(folder: Path) -> str:
    """Which folder in it, or above it, is a dataset; empty where none is."""
    inside = {
        name: found for name in visible_folders(folder)[:_MAX_SUBFOLDERS] if (found := _describe_inside(folder / name))
    }
    if len(inside) == 1:
        name, layout = inside.popitem()
        return f"The folder {name} in it is a dataset ({layout}): give {folder / name}."
    if inside:
        listed = "; ".join(f"{name} ({layout})" for name, layout in inside.items())
        return (
            f"Several folders in it are datasets: {listed}. Give one of them, or all of them with patterns or a list."
        )
    above = _describe_inside(folder.parent) if folder.name.lower() in IMAGE_FOLDERS | LABEL_FOLDERS else None
    return "" if above is None else f"The folder above it is a dataset ({above}): give {folder.parent}."


def _nearest_by_names(folder: Path, images: list[Path]) -> str:
    """The layout that the names of folders and files come nearest to."""
    kinds = {name.lower() for name in visible_folders(folder)}
    if kinds & IMAGE_FOLDERS:
        return (
            "Nearest: images/CASE and labels/CASE; there is a folder of images, but none of label maps beside it: name "
            "it labels, masks or segmentations."
        )
    if kinds & LABEL_FOLDERS:
        return (
            "Nearest: images/CASE and labels/CASE; there is a folder of label maps, but none of images: name it images."
        )
    marked = sum(split_label_word(split_ending(path.name)[0]) is not None for path in images)
    kind = (
        "one folder with CASE and CASE_seg"
        if any(path.parent == folder for path in images)
        else "one folder for each case"
    )
    if marked:
        return (
            f"Nearest: {kind}; {marked} files are marked as label maps ({', '.join(LABEL_WORDS[:8])}), but no image "
            "beside them has the same name without that mark."
        )
    return f"Nearest: {kind}; no file is marked as a label map: end the names of label maps in {_MARKS}."


def _is_case_list(path: Path) -> bool:
    """Whether a file is a list of cases with label maps."""
    if not is_list_file(path) or path.name == "dataset.json":
        return False
    try:
        if find_datalist(path) is not None:
            return True
        find_columns(read_list_table(path))
    except DatasetError:
        return False
    return True


def _describe_inside(folder: Path) -> str | None:
    """The layout of a subfolder in one phrase; None where it has none either."""
    try:
        found = find_cases(folder)
    except DatasetError:
        return None
    if (folder / "dataset.json").is_file():
        return "with dataset.json"
    return None if found is None else f"{found[0].pattern}, {len(found[1].cases)} cases"
