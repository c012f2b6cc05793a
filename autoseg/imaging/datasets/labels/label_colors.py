"""Which labels the colours of colour masks stand for, as people write it: on the command line, or in a file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import ImageColor

from autoseg.errors import UsageError
from autoseg.imaging.formats.label_values import MAX_LABEL_VALUE
from autoseg.records.dataset import BACKGROUND, IGNORE, LabelReading, LabelValues, MaskColor, Rgb

NamedColor = tuple[Rgb, str]
"""A colour and the name of its label, or the label's value in digits."""

_COLOR = (
    r"(?P<color>#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b|(?:rgb)?\(?\s*\d{1,3}\s*[,\s]\s*\d{1,3}\s*[,\s]\s*\d{1,3}\s*\)?"
    r"|[a-zA-Z]+)"
)
_NAME = r"(?P<name>[^,;=\n]+?)"
_END = r"\s*(?:[,;\n]|$)"
_ENTRY_FORMS = tuple(
    re.compile(rf"\s*{form}{_END}") for form in (rf"{_COLOR}\s*=\s*{_NAME}", rf"{_NAME}\s*=\s*{_COLOR}")
)
"""COLOUR=NAME, and NAME=COLOUR."""

_LINE_FORMS = tuple(
    re.compile(form)
    for form in (
        r"(?P<name>.+?)\s*[,;:\t]\s*(?P<color>\d{1,3}\s*[,;\s]\s*\d{1,3}\s*[,;\s]\s*\d{1,3})(?:\s*:.*)?",
        r"(?P<color>\d{1,3}\s*[,;\s]\s*\d{1,3}\s*[,;\s]\s*\d{1,3})\s*[,;\s]\s*(?P<name>[^\d\s,;].*)",
    )
)
"""Lines of tables: `name,r,g,b`, `name:r,g,b::` and `r g b name`."""

_MAX_PATH = 1024
"""Characters of a text that may be the path of a file."""

_EXPECTED = (
    'expected COLOUR=NAME, such as "red=tumour, 0,255,0=liver, #0000ff=vessel", or a file with one of them on each line'
)


def parse_label_colors(text: str) -> tuple[NamedColor, ...]:
    """Colours and names of labels.

    Args:
        text: `red=tumour, 0,255,0=liver, #0000ff=vessel`, or entries the other way round (`tumour=red`); or the
            path of a file with one of them on each line, or lines `name,r,g,b` or `r g b name`. Colours are names of
            CSS, hexadecimal, or red, green and blue from 0 to 255. Several colours may have one name.

    Returns:
        Colours in their order, each once.

    Raises:
        UsageError: If it is something else, a colour occurs twice, or the file cannot be read.
    """
    path = Path(text)
    if "=" not in text or (len(text) < _MAX_PATH and path.is_file()):
        return _refuse_repeated(_read_table(path))
    return _refuse_repeated(_parse_entries(text))


def resolve_colors(
    colors: Sequence[NamedColor], labels: Mapping[str, LabelValues] | None
) -> tuple[LabelReading, dict[str, LabelValues]]:
    """The rule for reading label files, and the labels.

    Args:
        colors: Result of `parse_label_colors`. A name `background` is the background's; black is too, unless a colour
            is declared as background.
        labels: Declared labels; None: the names become labels with the values 1, 2, ... in their order.

    Raises:
        UsageError: If a name is not among the declared labels, or names a region.
    """
    values = _numbered(colors) if labels is None else {BACKGROUND: 0, **labels}
    mask_colors = [MaskColor(rgb=rgb, value=_value_of(name, values)) for rgb, name in colors]
    background = values[BACKGROUND]
    if isinstance(background, int) and all(color.value != background for color in mask_colors):
        mask_colors.insert(0, MaskColor(rgb=(0, 0, 0), value=background))
    return LabelReading(colors=tuple(mask_colors)), values


def _numbered(colors: Sequence[NamedColor]) -> dict[str, LabelValues]:
    """Values 1, 2, ... for names in their order, `ignore` last; a name in digits is its own value."""
    names = [name for name in dict.fromkeys(name for _, name in colors) if name not in (BACKGROUND, IGNORE)]
    given = {int(name) for name in names if name.isdecimal()}
    free = (value for value in range(1, MAX_LABEL_VALUE) if value not in given)
    values: dict[str, LabelValues] = {BACKGROUND: 0}
    for name in names:
        if not name.isdecimal():
            values[name] = next(free)
        elif int(name):
            values[f"label_{int(name)}"] = int(name)
    if any(name == IGNORE for _, name in colors):
        values[IGNORE] = next(free)
    return values


def _value_of(name: str, values: Mapping[str, LabelValues]) -> int:
    if name.isdecimal() and name not in values:
        return int(name)
    value = values.get(name)
    if value is None:
        raise UsageError(f"--label-colors: there is no label {name!r}; the labels are {', '.join(values)}")
    if isinstance(value, tuple):
        raise UsageError(
            f"--label-colors: {name!r} is a region with the values {', '.join(map(str, value))}, and a pixel has one "
            "value. Give a value instead of the name, such as red=1"
        )
    return value


def _read_table(path: Path) -> list[NamedColor]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--label-colors {path}: {_EXPECTED}; it is no file that can be read ({error})") from error
    colors: list[NamedColor] = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or re.match(r"#\s|#$|#(?![0-9a-fA-F]{3,6}\b)", entry) or re.match(r"(?i)name\s*[,;\t]\s*r", entry):
            continue
        try:
            colors += _parse_entries(entry) if "=" in entry else [_parse_line(entry)]
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
    if not colors:
        raise UsageError(f"--label-colors {path}: the file has no colours; {_EXPECTED}")
    return colors


def _parse_line(line: str) -> NamedColor:
    for form in _LINE_FORMS:
        match = form.fullmatch(line)
        if match is not None:
            return _rgb(match["color"]), match["name"].strip()
    raise UsageError(f"{line!r}: {_EXPECTED}")


def _parse_entries(text: str) -> list[NamedColor]:
    """The first entry in the form that leaves the others readable, and the others."""
    if not text.strip(" ,;\n\t"):
        return []
    fault = UsageError(f"--label-colors: {text.strip()!r}: {_EXPECTED}")
    for form in _ENTRY_FORMS:
        match = form.match(text)
        if match is None:
            continue
        try:
            return [(_rgb(match["color"]), match["name"].strip()), *_parse_entries(text[match.end() :])]
        except UsageError as error:
            fault = error
    raise fault


def _rgb(color: str) -> Rgb:
    numbers = [int(number) for number in re.findall(r"\d{1,9}", color)] if "#" not in color else []
    if len(numbers) == 3:
        if max(numbers) > 255:
            raise UsageError(f"--label-colors: {color.strip()}: red, green and blue are 0 to 255")
        return numbers[0], numbers[1], numbers[2]
    try:
        red, green, blue = ImageColor.getrgb(color)[:3]
    except ValueError as error:
        raise UsageError(f"--label-colors: the colour {color!r} is not known; {_EXPECTED}") from error
    return red, green, blue


def _refuse_repeated(colors: Sequence[NamedColor]) -> tuple[NamedColor, ...]:
    names: dict[Rgb, str] = {}
    for rgb, name in colors:
        if names.setdefault(rgb, name) != name:
            raise UsageError(f"--label-colors: the colour {rgb} stands for {names[rgb]!r} and for {name!r}")
    return tuple(names.items())
