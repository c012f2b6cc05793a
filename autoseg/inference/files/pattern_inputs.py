"""The cases to predict in a folder whose images are named by a pattern.

Tested in tests/inference/files/test_inputs.py.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.datasets.layouts.patterns import channel_words, check_pattern, find_files
from autoseg.imaging.datasets.layouts.unknown_layout import describe_content
from autoseg.inference.files.input_cases import ModelChannels


@dataclass
class PatternCase:
    """Images of one case by the word of their channel, in lower case; it is empty where the pattern has none."""

    case: str
    images: dict[str, Path] = field(default_factory=dict)


def find_pattern_images(
    folder: Path, pattern: str, channels: ModelChannels
) -> list[tuple[str, list[Path], str, tuple[int, ...]]]:
    """Cases with their images in the order of the model's channels, and which they lack; sorted by case.

    Args:
        folder: Folder that the pattern is relative to.
        pattern: Pattern with `{case}`, and with `{channel}` where the channels have files of their own.
        channels: Channels of the model.

    Returns:
        Id of each case, its images, what is wrong with it, and the numbers of the channels that it lacks.

    Raises:
        UsageError: If the pattern cannot be meant, fits no file or several for one image, or names other channels than
            the model has.
    """
    check_pattern(pattern, "--image-pattern")
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder; --image-pattern names the images of a folder")
    cases = _group_files(folder, pattern)
    if not cases:
        raise UsageError(f"{folder}: no image file fits --image-pattern {pattern!r}. {describe_content(folder)}")
    words = {word for found in cases for word in found.images}
    order = [""] if words == {""} else _order_words(words, channels, pattern)
    return sorted((found.case, *_order_images(found.images, order)) for found in cases)


def _group_files(folder: Path, pattern: str) -> list[PatternCase]:
    found: dict[tuple[str, str], PatternCase] = {}
    for file in find_files(folder, pattern):
        key = (file.parts.get("group", ""), file.parts["case"])
        images, word = found.setdefault(key, PatternCase(key[1])).images, file.parts.get("channel", "").casefold()
        if word in images:
            raise UsageError(
                f"--image-pattern {pattern!r}: {images[word]} and {file.path} are the same image of the case "
                f"{key[1]}; write {{group}} for the part in which the two differ, or {{channel}} for channels"
            )
        images[word] = file.path
    count = Counter(case for _, case in found)
    for (group, case), listed in found.items():
        listed.case = case if count[case] == 1 else f"{group}_{case}"
    return list(found.values())


def _order_words(words: set[str], channels: ModelChannels, pattern: str) -> list[str]:
    """Words of the channels in the order of the model: those that the pattern lists, its names, or numbers."""
    names = [name.casefold() for name in channels.names]
    if (given := channel_words(pattern)) is not None and len(given) == len(names):
        return [word.casefold() for word in given]
    if words <= set(names) or words >= set(names):
        return names
    numbered = [f"{number:0{len(min(words))}d}" for number in range(len(names))]
    if channels.may_lack and words <= set(numbered):
        return numbered
    if all(word.isdecimal() for word in words) and len(words) <= len(names):
        return sorted(words, key=int)
    raise UsageError(
        f"--image-pattern {pattern!r}: {{channel}} is {', '.join(sorted(words))} in the names of the files, the model "
        f"expects {', '.join(channels.names)}. Write {{channel:FIRST|SECOND}} with its words in place of {{channel}}, "
        "or list the files in a CSV file with the columns image_0, image_1, ..."
    )


def _order_images(images: Mapping[str, Path], order: Sequence[str]) -> tuple[list[Path], str, tuple[int, ...]]:
    missing = [word for word in order if word not in images]
    absent = tuple(number for number, word in enumerate(order) if word in missing) if len(order) > 1 else ()
    found = [images[word] for word in order if word in images] or list(images.values())
    return found, f"no file of the channel {', '.join(missing)} fits the pattern" if missing else "", absent
