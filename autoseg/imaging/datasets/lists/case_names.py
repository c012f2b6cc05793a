"""Ids of listed cases from the names of their image files and of the folders that these lie in.

    siteA/p1.nii.gz, siteB/p1.nii.gz             ->  siteA_p1, siteB_p1
    p1/t1.nii.gz p1/flair.nii.gz, p2/t1.nii.gz   ->  p1, p2

Tested in tests/imaging/datasets/lists/test_case_lists.py.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from autoseg.imaging.formats.volume import split_channel, split_ending

_MARK = re.compile(r"([_\-. ])")


def name_cases(images: Sequence[Sequence[str]], *, by_common_part: bool) -> list[str]:
    """Ids of cases from their image files; equal ones only where all names and folders are equal.

    The name is that of the file, without its ending and channel number. Where several cases would have the same one,
    the names of their folders are put in front, as many as are needed; names that all cases have are left out then.

    Args:
        images: Image files of each case, POSIX separators.
        by_common_part: Whether a case with several files is named by what their names begin with (`p1_t1`, `p1_flair`:
            `p1`), and not after the first.
    """
    parts = [
        (*PurePath(files[0]).parent.parts, _stem(files, by_common_part=by_common_part)) if files else ("",)
        for files in images
    ]
    depth = max(map(len, parts), default=0)
    telling = [k for k in range(1, depth + 1) if len({_part(path, k) for path in parts}) > 1] or [1]
    if len(parts) == 1 and parts[0][-1] == "":
        telling = [2]
    levels = [[_join(path, telling[:number]) for path in parts] for number in range(1, len(telling) + 1)]
    unique = [{name for name, count in Counter(names).items() if count == 1 and name} for names in levels]
    chosen = []
    for index, path in enumerate(parts):
        single = (names[index] for names, alone in zip(levels, unique, strict=True) if names[index] in alone)
        chosen.append(next(single, path[-1]))
    return chosen


def name_channels_of(images: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """Channels by what the files of every case add to its name: `p1_t1`, `p1_flair`: t1, flair; None if they differ."""
    found = set()
    for files in images:
        stems = [split_ending(PurePath(file).name)[0] for file in files]
        common = len(_common_part(stems))
        found.add(tuple(stem[common:].lstrip("_-. ") for stem in stems))
    channels = next(iter(found), ())
    is_named = len(found) == 1 and len(channels) > 1 and all(channels) and len(set(channels)) == len(channels)
    return channels if is_named and not any(word.isdecimal() for word in channels) else None


def _part(path: Sequence[str], place: int) -> str:
    """Part of a path by its place from the end, 1 for the last."""
    return path[-place] if place <= len(path) else ""


def _join(path: Sequence[str], places: Sequence[int]) -> str:
    return "_".join(part for place in reversed(places) if (part := _part(path, place).strip("/\\")))


def _stem(files: Sequence[str], *, by_common_part: bool) -> str:
    stems = [split_ending(PurePath(file).name)[0] for file in files]
    channel = split_channel(stems[0]) if len(stems) > 1 else None
    if channel is not None:
        return channel[0]
    return _common_part(stems) if by_common_part else stems[0]


def _common_part(stems: Sequence[str]) -> str:
    """What all names begin with, up to a mark: `p_1` for `p_1_t1` and `p_1_t1ce`; empty if they have nothing alike."""
    words = [_MARK.split(stem) for stem in stems]
    common = []
    for alike in zip(*words, strict=False):
        if len(set(alike)) > 1:
            break
        common.append(alike[0])
    return "".join(common).rstrip("_-. ")
