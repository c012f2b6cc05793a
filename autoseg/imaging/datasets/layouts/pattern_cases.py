"""The cases of a dataset whose files are named by patterns.

Tested in tests/imaging/datasets/layouts/test_patterns.py.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.grouping import Group, GroupedCases, name_channels
from autoseg.imaging.datasets.layouts.patterns import FilePatterns, PatternFile, find_files
from autoseg.imaging.datasets.layouts.unknown_layout import describe_content
from autoseg.imaging.datasets.lists.case_lists import fold_faults, read_fold
from autoseg.records.dataset import CaseFiles, Fault
from autoseg.records.files import real_path, relative_path

_Key = tuple[str, str]
"""Group and name of a case; the group is empty where one of the patterns does not tell it."""


def find_pattern_cases(folder: Path, patterns: FilePatterns) -> GroupedCases:
    """Cases of the files that fit; a file that fits the pattern of label maps is no image.

    Args:
        folder: Dataset folder.
        patterns: Checked patterns.

    Returns:
        Cases with paths relative to the folder, and faults: cases without image or label map, several files for one
        image or label map, folds that are no numbers.

    Raises:
        DatasetError: If no file fits one of the patterns.
    """
    labels = _find(folder, patterns.label, "--label-pattern")
    label_paths = {file.path for file in labels}
    images = [file for file in _find(folder, patterns.image, "--image-pattern") if file.path not in label_paths]
    if not images:
        raise DatasetError(f"{folder}: every file that fits --image-pattern {patterns.image!r} is a label map too.")
    has_groups = all("{group" in pattern for pattern in (patterns.image, patterns.label))
    label_of, faults = _labels_by_key(folder, labels, has_groups=has_groups)
    images_of, image_faults = _images_by_key(folder, images, has_groups=has_groups)
    ids = _unique_ids({**images_of, **label_of})
    groups = [Group(ids[key], label_of.get(key, ""), dict(files)) for key, files in sorted(images_of.items())]
    named = name_channels(groups)
    parts = _parts_by_id([*images, *labels], ids, has_groups=has_groups)
    cases, fold_errors = _with_group_and_fold(named.cases, parts)
    alone = [*_without_label(groups), *_without_image(label_of, images_of, ids)]
    return GroupedCases(
        cases, (*faults, *image_faults, *alone, *named.faults, *fold_errors, *fold_faults(cases)), named.channel_words
    )


def _find(folder: Path, pattern: str, option: str) -> list[PatternFile]:
    files = find_files(folder, pattern)
    if not files:
        raise DatasetError(f"{folder}: no image file fits {option} {pattern!r}. {describe_content(folder)}")
    return files


def _key(file: PatternFile, *, has_groups: bool) -> _Key:
    return (file.parts["group"] if has_groups else "", file.parts["case"])


def _labels_by_key(
    folder: Path, files: Sequence[PatternFile], *, has_groups: bool
) -> tuple[dict[_Key, str], list[Fault]]:
    found: dict[_Key, str] = {}
    faults = []
    for file in files:
        key, path = _key(file, has_groups=has_groups), _relative(file.path, folder)
        if key in found:
            faults.append(_error(key[1], path, f"is a label map of the same case as {found[key]}; {_WRITE_GROUP}"))
        found.setdefault(key, path)
    return found, faults


def _images_by_key(
    folder: Path, files: Sequence[PatternFile], *, has_groups: bool
) -> tuple[dict[_Key, dict[str, str]], list[Fault]]:
    """Images by the word of their channel, which is empty where the pattern has none."""
    found: dict[_Key, dict[str, str]] = {}
    faults = []
    for file in files:
        key, path = _key(file, has_groups=has_groups), _relative(file.path, folder)
        images, channel = found.setdefault(key, {}), file.parts.get("channel", "")
        if channel in images:
            faults.append(_error(key[1], path, f"is the same image of this case as {images[channel]}; {_WRITE_GROUP}"))
        images.setdefault(channel, path)
    return found, faults


_WRITE_GROUP = "write {group} in both patterns for the part in which the two differ, or {channel} for channels"


def _unique_ids(keys: Mapping[_Key, object]) -> dict[_Key, str]:
    """Ids of cases; the name of the group is in front where several groups have a case of one name."""
    count = Counter(case for _, case in keys)
    return {(group, case): case if count[case] == 1 else f"{group}_{case}" for group, case in keys}


def _parts_by_id(
    files: Sequence[PatternFile], ids: Mapping[_Key, str], *, has_groups: bool
) -> dict[str, dict[str, str]]:
    parts: dict[str, dict[str, str]] = {}
    for file in files:
        parts.setdefault(ids[_key(file, has_groups=has_groups)], {}).update(file.parts)
    return parts


def _with_group_and_fold(
    cases: Sequence[CaseFiles], parts: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[CaseFiles, ...], list[Fault]]:
    found, faults = [], []
    for files in cases:
        fold, fault = read_fold(parts[files.case].get("fold", ""))
        if fault:
            faults.append(_error(files.case, files.images[0], fault))
        found.append(files.model_copy(update={"group": parts[files.case].get("group", ""), "fold": fold}))
    return tuple(found), faults


def _without_label(groups: Sequence[Group]) -> Iterator[Fault]:
    for group in groups:
        if not group.label:
            yield _error(group.case, next(iter(group.images.values())), "there is no label map for this image")


def _without_image(
    labels: Mapping[_Key, str], images: Mapping[_Key, object], ids: Mapping[_Key, str]
) -> Iterator[Fault]:
    for key, file in labels.items():
        if key not in images:
            yield _error(ids[key], file, "there is no image for this label map")


def _relative(path: Path, folder: Path) -> str:
    """A path as datasets list it: relative to their folder, also where it lies outside."""
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return relative_path(real_path(path.parent) / path.name, real_path(folder))


def _error(case_id: str, file: str, what: str) -> Fault:
    return Fault(severity="error", case=case_id, file=file, what=what)
