"""Numbers and names as text, for messages, logs, tables of the terminal and the report."""

import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoseg.records.plan import JsonValue
from autoseg.records.selection import Interval, Names

Row = tuple[str, ...]
"""Cells of one row of a table."""

_PLAIN_ON_WINDOWS = re.compile(r"[\w@:./\\+=-]+")
"""Arguments that cmd.exe and PowerShell take as they are."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""Beginning of a cell that a spreadsheet may take for a formula, full-width forms included; behind any number of
apostrophes, so that `parse_cell` is the inverse of `format_cell`."""

GIGABYTE = 1e9
"""Bytes of a gigabyte, the unit in which memory limits are given."""


def format_duration(seconds: float) -> str:
    """A duration in at most two units.

    Examples:
        >>> [format_duration(seconds) for seconds in (45.0, 720.0, 12000.0, 187200.0)]
        ['45 s', '12 min', '3 h 20 min', '2 d 4 h']
    """
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def format_cell(text: str) -> str:
    """A text as a cell of a CSV file; what a spreadsheet would compute as a formula gets an apostrophe in front.

    Numbers stay as they are, negative ones too. Names of cases, channels and labels come from files of others.

    Examples:
        >>> [format_cell(text) for text in ("liver", "=1+1", "-3.5", "-liver", "'=1")]
        ['liver', "'=1+1", '-3.5', "'-liver", "''=1"]
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def parse_cell(cell: str) -> str:
    """The text that `format_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) and not _is_number(cell[1:]) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def format_command(*words: str | Path, windows: bool = os.name == "nt") -> str:
    """A command with its arguments, quoted so that it can be pasted into a shell.

    Args:
        words: Program, options and paths. A path that begins with a hyphen is written as `./-NAME`, so that it is not
            taken for an option.
        windows: Whether the shell is that of Windows, which knows double quotes only; names there hold none.

    Examples:
        >>> format_command("autoseg-train", Path("my data.autoseg"), "-f", "0", windows=False)
        "autoseg-train 'my data.autoseg' -f 0"
        >>> format_command("autoseg-train", Path("my data.autoseg"), "-f", "0", windows=True)
        'autoseg-train "my data.autoseg" -f 0'
    """
    return " ".join(_quote(_as_argument(word), windows=windows) for word in words)


def format_this_command() -> str:
    """The command line of this process, quoted so that it can be pasted into a shell."""
    program = Path(sys.argv[0]).name
    return format_command("autoseg" if program == "__main__.py" else program, *sys.argv[1:])


def _as_argument(word: str | Path) -> str:
    return f"{os.curdir}{os.sep}{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def _quote(word: str, *, windows: bool) -> str:
    if not windows:
        return shlex.quote(word)
    return word if _PLAIN_ON_WINDOWS.fullmatch(word) else f'"{word}"'


def format_count(count: int, noun: str) -> str:
    """A number of things, such as `1 case` or `3 cases`; the noun takes an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_number(value: float | None, decimals: int = 3) -> str:
    """A value with three decimals; a dash without a value."""
    return "–" if value is None else f"{value:.{decimals}f}"


def format_signed(value: float | None) -> str:
    """A value with its sign and three significant digits; a dash without a value."""
    return "–" if value is None else f"{value:+.3g}"


def format_interval(interval: Interval | None, decimals: int = 3, separator: str = " to ") -> str:
    """Lower and upper bound, such as `0.812 to 0.846`; a dash without an interval."""
    return "–" if interval is None else f"{interval[0]:.{decimals}f}{separator}{interval[1]:.{decimals}f}"


def format_value(value: JsonValue) -> str:
    """A value of a plan as plain text."""
    if value == ():
        return "none"
    if isinstance(value, tuple):
        nested = any(isinstance(item, tuple) for item in value)
        return ("; " if nested else ", ").join(format_value(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)


def format_sizes(sizes: Iterable[object]) -> str:
    """Sizes along several axes, such as `3 x 5 x 7`."""
    return " x ".join(str(size) for size in sizes)


def format_memory(num_bytes: int) -> str:
    """A size in GB, or in MB below 0.1 GB."""
    return f"{num_bytes / 1e6:.3g} MB" if num_bytes < GIGABYTE / 10 else f"{num_bytes / GIGABYTE:.2f} GB"


def format_tick(value: float) -> str:
    """Number of an axis in as few characters as possible.

    Examples:
        >>> format_tick(0.30000000000000004), format_tick(1500.0), format_tick(20000.0), format_tick(3e6)
        ('0.3', '1500', '20k', '3M')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


def format_quantity(value: float) -> str:
    """A quantity with four significant digits and without an exponent.

    Examples:
        >>> format_quantity(1704123.0), format_quantity(35.0), format_quantity(0.012345), format_quantity(1e-9)
        ('1,704,000', '35', '0.01235', '1e-09')
    """
    if abs(value) < 1000:
        return f"{value:.4g}"
    digits = math.floor(math.log10(abs(value))) - 3
    return f"{round(value, -digits):,.0f}"


def format_short(value: float | None) -> str:
    """A value with three decimals below ten, else with three significant digits; a dash without a value."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def format_score(score: float | None) -> str:
    """A Dice with four decimals, in sentences; `none` without a score."""
    return "none" if score is None else f"{score:.4f}"


def format_names(names: Names, weights: Sequence[float] = ()) -> str:
    """Names of a candidate's configurations as text, such as `2d + 3d_fullres`, or `0.35 2d + 0.65 3d_fullres`."""
    if weights:
        return " + ".join(f"{weight:g} {name}" for weight, name in zip(weights, names, strict=True))
    return " + ".join(names)


def format_folds(names: Sequence[str]) -> str:
    """Names of folds as text, such as `fold 0` or `folds 0, 1`."""
    return f"fold{'s' if len(names) > 1 else ''} {', '.join(names)}"


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names by which channels can be told apart: those that occur twice are followed by their number.

    Examples:
        >>> distinct_names(["CT", "PET", "CT"])
        ('CT_0', 'PET', 'CT_2')
    """
    numbered = tuple(f"{name}_{index}" for index, name in enumerate(names))
    shortest = tuple(longer if names.count(name) > 1 else name for name, longer in zip(names, numbered, strict=True))
    return shortest if len(set(shortest)) == len(names) else numbered


def comparable_name(name: str) -> str:
    """The name without what makes no difference between names of labels or channels: capitals, blanks, hyphens."""
    return re.sub(r"[\s\-_]+", "_", name.strip().casefold())
