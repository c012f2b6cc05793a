"""Image files of one folder that may be the channels of cases, though they are not called like the model's channels.

Tested in tests/inference/files/test_inputs.py.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.formats.channels import count_channels

_NUMBER = re.compile(r"(?P<case>.+)[_-](?P<number>\d{1,3})")
_LAST_WORD = re.compile(r"(?:(?P<case>.+)(?P<mark>[_\-. ]))?(?P<word>[^_\-. ]+)")


def holds_all_channels(path: Path, num_channels: int) -> bool:
    """Whether a file has as many channels as a model with several, so that it is a case of its own."""
    return num_channels > 1 and count_channels(path) == num_channels


def group_by_number(files: Mapping[str, Path], num_channels: int) -> dict[str, list[Path]] | None:
    """Channels of each case, where all files are called CASE_0, CASE_1, ... or CASE_1, CASE_2, ... up to the last one.

    Args:
        files: Files by stem.
        num_channels: Channels of the model.
    """
    groups: dict[str, dict[int, Path]] = {}
    for stem, path in files.items():
        match = _NUMBER.fullmatch(stem)
        if match is None:
            return None
        groups.setdefault(match["case"], {})[int(match["number"])] = path
    starts = {min(numbers) for numbers in groups.values()}
    expected = [set(range(start, start + num_channels)) for start in (0, 1) if starts == {start}]
    if num_channels < 2 or not expected or any(set(numbers) != expected[0] for numbers in groups.values()):
        return None
    return {case: [numbers[number] for number in sorted(numbers)] for case, numbers in groups.items()}


def refuse_unknown_words(folder: Path, files: Mapping[str, Path], channel_names: Sequence[str]) -> None:
    """Refuse files that look like the channels of cases, when it is not known which is which.

    Args:
        folder: Their folder, for the message.
        files: Files by stem.
        channel_names: Channels of the model.

    Raises:
        UsageError: If the names end in as many words as the model has channels, the same for every case, and a file
            has one channel.
    """
    groups: dict[str, dict[str, str]] = {}
    for stem in files:
        match = _LAST_WORD.fullmatch(stem)
        if match is None:
            return
        groups.setdefault(match["case"] or "", {})[match["word"]] = match["mark"] or ""
    words = {tuple(sorted(found)) for found in groups.values()}
    first = next(iter(files.values()), None)
    if len(words) != 1 or len(channel_names) < 2 or first is None or count_channels(first) != 1:
        return
    (found,) = words
    if len(found) != len(channel_names) or all(word.isdecimal() for word in found):
        return
    name, marks = next(iter(groups.items()))
    raise UsageError(
        f"{folder}: the files look like the channels {', '.join(found)} of {len(groups)} cases, but the model expects "
        f"{', '.join(channel_names)}, and it is not known which is which. Say it with --image-pattern "
        f"'{f'{{case}}{marks[found[0]]}' if name else '{case}/'}{{channel:{'|'.join(found)}}}', with the words in the "
        "order of the model's channels."
    )
