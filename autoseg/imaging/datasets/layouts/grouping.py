"""Cases from the names of files that lie together: label maps are marked by a word, images by their channel.

    p1_t1, p1_flair, p1_seg  ->  case p1, channels flair and t1, label map p1_seg

No image is opened here. Tested in tests/imaging/datasets/layouts/test_folders.py.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoseg.imaging.datasets.layouts.names import split_image_word, split_label_word
from autoseg.records.dataset import CaseFiles, Fault

_MARK = re.compile(r"[_\-. ]")


@dataclass
class Group:
    """Files of one case."""

    case: str
    label: str = ""
    images: dict[str, str] = field(default_factory=dict)
    """Files by the word that names the channel in them, empty where the file is named like the case."""


@dataclass(frozen=True)
class GroupedCases:
    """Cases of a folder, and what their names say."""

    cases: tuple[CaseFiles, ...]
    faults: tuple[Fault, ...]
    channel_words: tuple[str, ...] | None
    """Words that name the channels, in the order of each case's images; None: there are none."""


def group_by_label(images: Mapping[str, str], labels: Mapping[str, str]) -> tuple[list[Group], list[str]]:
    """Give every image to the label map whose case its name begins with.

    Args:
        images: Image files by stem.
        labels: Label files by case id.

    Returns:
        Groups, one for each label map that has an image; and images that belong to none.
    """
    is_unique = len({case.casefold() for case in labels}) == len(labels)
    fold = str.casefold if is_unique else str
    groups = {fold(case): Group(case, file) for case, file in labels.items()}
    left_over = []
    for stem, file in images.items():
        found = next(((fold(key), word) for key, word in readings(stem) if fold(key) in groups), None)
        if found is None or found[1] in groups[found[0]].images:
            left_over.append(file)
        else:
            groups[found[0]].images[found[1]] = file
    for group in groups.values():
        if "" in group.images:  # a file named like the case holds all of it
            left_over += [file for word, file in group.images.items() if word]
            group.images = {"": group.images[""]}
    return [group for group in groups.values() if group.images], left_over


def readings(stem: str) -> Iterator[tuple[str, str]]:
    """Case and channel that an image may have by its name, or case and label of a mask; the longest case first."""
    yield stem, ""
    if (marked := split_image_word(stem)) is not None:
        yield marked[0], ""
    for mark in reversed(list(_MARK.finditer(stem))):
        yield stem[: mark.start()], stem[mark.end() :]


def split_labels(files: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], list[Fault]]:
    """Images by stem, label maps by the case that their marked names tell, and faults of cases with several of them.

    Args:
        files: Files by stem.
    """
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    faults = []
    for stem, file in files.items():
        marked = split_label_word(stem)
        if marked is None:
            images[stem] = file
        elif marked[0] in labels:
            what = f"is a label map of the same case as {labels[marked[0]]}; keep one of the two"
            faults.append(Fault(severity="error", case=marked[0], file=file, what=what))
        else:
            labels[marked[0]] = file
    return images, labels, faults


def one_case(case: str, images: Mapping[str, str], label: str, prefixes: tuple[str, ...]) -> Group:
    """A group of all images of one folder; what their names add to one of the prefixes is the channel."""
    group = Group(case, label)
    for stem, file in images.items():
        words = (_without_prefix(stem, prefixes), stem, file)
        group.images[next(word for word in words if word not in group.images)] = file
    return group


def _without_prefix(stem: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        if prefix and stem.casefold().startswith(prefix.casefold()):
            rest = stem[len(prefix) :]
            if not rest or _MARK.match(rest):
                return rest[1:]
    return stem


def name_channels(groups: list[Group]) -> GroupedCases:
    """Bring the images of all cases into one order of channels.

    Channels are the words that most cases have, by number or by alphabet. A case that lacks one of them is an error;
    further images of a case are named in a warning.
    """
    if all(len(group.images) == 1 for group in groups):
        words = Counter(word.casefold() for group in groups for word in group.images)
        (word, count) = words.most_common(1)[0]
        is_name = count == len(groups) and not word.isdecimal() and split_image_word(word) is None
        cases = [CaseFiles(case=group.case, images=tuple(group.images.values()), label=group.label) for group in groups]
        return GroupedCases(_by_id(cases), (), _spelled([word], groups) if word and is_name else None)
    counts = Counter(word.casefold() for group in groups for word in group.images)
    usual = [word for word, count in counts.items() if 2 * count > len(groups)] or sorted(counts)
    ordered = sorted(usual, key=lambda word: (int(word), "") if word.isdecimal() else (-1, word))
    cases, faults = [], []
    for group in groups:
        files: dict[str, str] = {}
        for word, file in group.images.items():
            if word.casefold() in files:
                faults.append(_fault("error", group, f"has the same channel as {files[word.casefold()]}", file))
            files.setdefault(word.casefold(), file)
        for word in ordered:
            if word not in files:
                what = f"the image of channel {word!r}, which most cases have, is missing"
                faults.append(_fault("error", group, what).model_copy(update={"is_missing_channel": True}))
        for word, file in files.items():
            if word not in ordered:
                what = f"not used: most cases have no image {word!r}"
                faults.append(Fault(severity="warning", case=group.case, file=file, what=what))
        images = tuple(files[word] for word in ordered if word in files)
        absent = tuple(number for number, word in enumerate(ordered) if word not in files)
        cases.append(CaseFiles(case=group.case, images=images, label=group.label, absent_channels=absent))
    are_numbers = all(word.isdecimal() for word in ordered)
    return GroupedCases(_by_id(cases), tuple(faults), None if are_numbers else _spelled(ordered, groups))


def _by_id(cases: list[CaseFiles]) -> tuple[CaseFiles, ...]:
    return tuple(sorted(cases, key=lambda files: files.case))


def _spelled(words: list[str], groups: list[Group]) -> tuple[str, ...]:
    """Words as the names of the files spell them first; a file named like its case has none."""
    spelling = {word.casefold(): word for group in reversed(groups) for word in group.images}
    return tuple(spelling[word] or "image" for word in words)


def _fault(severity: Literal["error", "warning"], group: Group, what: str, file: str = "") -> Fault:
    file = file or next(iter(group.images.values()), group.label)
    return Fault(severity=severity, case=group.case, file=file, what=what)
