"""Cases by patterns of file names that the user gives, where no layout fits or several do.

    --image-pattern 'images/{case}_{channel}.nii.gz' --label-pattern 'labels/{case}.nii.gz'

Named parts are `{case}`, `{channel}`, `{group}` and `{fold}`; `{channel:t1|flair}` allows these words only, in this
order. `*` stands for any text within one name, `?` for one character, `**` for any number of folders. `{case}` takes as
much as it can, and means the same wherever it occurs again. Without an ending, or with `.*`, a pattern fits every
ending that can be read. No image is opened here.

Tested in tests/imaging/datasets/layouts/test_patterns.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.datasets.layouts.names import composed
from autoseg.imaging.datasets.layouts.pairing import image_files, visible_folders
from autoseg.imaging.formats.volume import IMAGE_ENDINGS, split_ending

PARTS = ("case", "channel", "group", "fold")
"""Names of the parts of a pattern."""

_TOKEN = re.compile(r"\{(?P<part>[^{}:]*)(?::(?P<words>[^{}]*))?\}|(?P<any>\*+)|(?P<one>\?)")


@dataclass(frozen=True)
class FilePatterns:
    """Patterns of a dataset's files, relative to its folder or absolute."""

    image: str
    label: str


@dataclass(frozen=True)
class PatternFile:
    """A file that fits a pattern."""

    path: Path
    parts: Mapping[str, str]
    """Text of the named parts in it."""


def check_pattern(pattern: str, option: str) -> None:
    """Refuse a pattern that cannot be meant.

    Args:
        pattern: The pattern.
        option: Option that it was given with, for the message.

    Raises:
        UsageError: If `{case}` is missing, a part has another name, or braces do not match.
    """
    found = [match["part"] for match in _TOKEN.finditer(pattern) if match["part"] is not None]
    known = ", ".join(f"{{{name}}}" for name in PARTS)
    unknown = [f"{{{name}}}" for name in found if name not in PARTS]
    if unknown:
        raise UsageError(f"{option} {pattern!r}: {unknown[0]} is not known; the named parts are {known}")
    if set("{}") & set(_TOKEN.sub("", pattern)):
        raise UsageError(f"{option} {pattern!r}: braces do not match; the named parts are {known}")
    if "case" not in found:
        raise UsageError(
            f"{option} {pattern!r}: has no {{case}}, the part of the name that differs from case to case; expected a "
            "pattern such as 'images/{case}.nii.gz'"
        )


def channel_words(pattern: str) -> tuple[str, ...] | None:
    """Channels that a pattern allows, in its order; None: it allows any."""
    words = [match["words"] for match in _TOKEN.finditer(pattern) if match["part"] == "channel" and match["words"]]
    return tuple(words[0].split("|")) if words else None


def find_files(folder: Path, pattern: str) -> list[PatternFile]:
    """Files with a readable ending that fit a pattern, in the order of their names; hidden ones are left out.

    Args:
        folder: Folder that a pattern that is not absolute is relative to.
        pattern: Checked pattern.
    """
    path = Path(pattern)
    parts = [part for part in path.parts if part != path.anchor]
    return list(_walk(Path(path.anchor) if path.anchor else folder, parts, {}))


def _walk(folder: Path, parts: Sequence[str], bound: Mapping[str, str]) -> Iterator[PatternFile]:
    first, rest = parts[0], parts[1:]
    if not rest:
        for name in image_files(folder):
            if (found := _match_file(first, name, bound)) is not None:
                yield PatternFile(folder / name, found)
    elif first == "**":
        yield from _walk(folder, rest, bound)
        for name in visible_folders(folder):
            yield from _walk(folder / name, parts, bound)
    elif _TOKEN.search(first) is None:
        if (folder / first).is_dir():
            yield from _walk(folder / first, rest, bound)
    else:
        for name in visible_folders(folder):
            if (found := _match(first, name, bound)) is not None:
                yield from _walk(folder / name, rest, found)


def _match_file(part: str, name: str, bound: Mapping[str, str]) -> dict[str, str] | None:
    """Named parts of a file name that fits; its ending is any readable one where the pattern names none."""
    stem, ending = split_ending(name)
    pattern_stem, pattern_ending = split_ending(part)
    if pattern_ending in IMAGE_ENDINGS:
        return _match(pattern_stem, stem, bound) if ending == pattern_ending else None
    return _match(part.removesuffix(".*"), stem, bound)


def _match(part: str, name: str, bound: Mapping[str, str]) -> dict[str, str] | None:
    match = re.fullmatch(_regular_expression(part, bound), composed(name))
    return None if match is None else {**bound, **match.groupdict()}


def _regular_expression(part: str, bound: Mapping[str, str]) -> str:
    """Expression for one part of a path, where some named parts are known already."""
    expression, end, seen = "", 0, set()
    for token in _TOKEN.finditer(part):
        expression += re.escape(composed(part[end : token.start()]))
        name, end = token["part"], token.end()
        if name is None:
            expression += "." if token["one"] else ".*"
        elif name in bound:
            expression += re.escape(bound[name])
        elif name in seen:
            expression += f"(?P={name})"
        else:
            words = "|".join(map(re.escape, token["words"].split("|"))) if token["words"] else ".+"
            expression += f"(?P<{name}>{words})"
            seen.add(name)
    return expression + re.escape(composed(part[end:]))
