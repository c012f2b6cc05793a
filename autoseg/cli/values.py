"""Values of options: numbers with units, names, axes, labels; what cannot be read is refused with one sentence."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.imaging.datasets.labels.label_tables import LabelNames
    from autoseg.system import ThreadOption

AXES = "zyx"
"""Letters of the axes of a patch; one of two axes has the last two."""

MAX_COUNT = 10**9
"""Largest count that an option takes, of epochs or steps for example."""

MAX_SIZE = 2**16
"""Largest size or batch that an option takes, as in plans (`autoseg.records.network`)."""

MAX_WORKERS = 1024
"""Largest number of processes or devices that an option takes."""

MAX_NUMBER = 1e6
"""Largest quantity that an option takes: gigabytes, mm, a learning rate."""

MAX_SHOWN = 40
"""Characters of a wrong number that a message shows."""

MAX_SECONDS = 10 * 365 * 86400.0
"""Longest duration that an option takes: ten years."""

MAX_LABEL_DIGITS = 9
"""Largest number of digits of a label value."""

_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_GIGABYTES = {"mb": 1e-3, "m": 1e-3, "gb": 1.0, "g": 1.0, "gib": 1.073741824, "tb": 1e3}


def duration(text: str) -> float:
    """Read a duration such as 90s, 10min or 2h as seconds.

    Raises:
        argparse.ArgumentTypeError: If the text is not a positive number with a known unit.
    """
    return _quantity(text, _SECONDS, MAX_SECONDS, "a duration such as 90s, 10min or 2h, of at most ten years")


def gigabytes(text: str) -> float:
    """Read a size such as 8GB or 500MB as gigabytes.

    Raises:
        argparse.ArgumentTypeError: If the text is not a positive number with a known unit.
    """
    return _quantity(text, _GIGABYTES, MAX_NUMBER, "a size such as 8GB, of at most 1000000 GB")


def axis_letters(text: str) -> str:
    """Read `all`, `none` or a list of axes such as `z,y`.

    Raises:
        argparse.ArgumentTypeError: If it is something else, or names an axis twice.
    """
    letters = text.split(",")
    if text not in {"all", "none"} and (len(set(letters)) != len(letters) or not set(letters) <= set(AXES)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither all nor none nor a list of axes such as z,y,x")
    return text


def side_pair(text: str) -> tuple[str, str] | None:
    """Read `left kidney=right kidney`; None for `none`.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    if text == "none":
        return None
    left, separator, right = (part.strip() for part in text.partition("="))
    if not (left and separator and right):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a pair such as 'left kidney=right kidney' nor none")
    return left, right


def _quantity(text: str, units: dict[str, float], most: float, expected: str) -> float:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)\s*", text)
    unit = None if match is None else units.get(match[2].lower())
    quantity = 0.0 if match is None or unit is None else float(match[1]) * unit
    if not 0 < quantity <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return quantity


def channel_list(text: str) -> tuple[str, ...]:
    """Read `CT,PET` as two channel names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def named_labels(text: str) -> LabelNames:
    """Read the names of labels from `liver=1,tumour=2`, or with regions `whole=1+2,core=2`, or from a file.

    Raises:
        argparse.ArgumentTypeError: If it is something else, or a name or a value of a region occurs twice.
    """
    from autoseg.errors import DatasetError
    from autoseg.imaging.datasets.labels.label_tables import TABLE_ENDINGS, given_labels, read_label_names

    try:
        if text.lower().endswith(TABLE_ENDINGS) or ("=" not in text and Path(text).is_file()):
            return read_label_names(Path(text))
        return given_labels(_labels_in_text(text))
    except DatasetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _labels_in_text(text: str) -> dict[str, int | tuple[int, ...]]:
    """Values by name.

    Raises:
        argparse.ArgumentTypeError: If the text is something else, or a name or a value of a region occurs twice.
    """
    labels: dict[str, int | tuple[int, ...]] = {}
    for entry in text.split(","):
        name, _, numbers = (part.strip() for part in entry.rpartition("="))
        values = [number.strip() for number in numbers.split("+")]
        if not name or not all(map(_is_label_value, values)):
            raise argparse.ArgumentTypeError(
                f"{entry.strip()!r}: expected NAME=VALUE, such as liver=1,tumour=2, or NAME=VALUE+VALUE for a region"
            )
        if name in labels:
            raise argparse.ArgumentTypeError(f"the label {name!r} is given twice")
        if len(set(values)) != len(values):
            raise argparse.ArgumentTypeError(f"{entry.strip()!r}: a value is given twice")
        labels[name] = int(values[0]) if len(values) == 1 else tuple(map(int, values))
    return labels


def positive_integer(text: str) -> int:
    """Read a whole number from 1 to MAX_COUNT.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    return _whole_number(text, 1, MAX_COUNT)


def size(text: str) -> int:
    """Read a number of voxels or patches, from 1 to MAX_SIZE.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    return _whole_number(text, 1, MAX_SIZE)


def worker_number(text: str) -> int:
    """Read a number of processes or devices, from 1 to MAX_WORKERS.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    return _whole_number(text, 1, MAX_WORKERS)


def worker_count_from_zero(text: str) -> int:
    """Read a number of processes, from 0 to MAX_WORKERS.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    return _whole_number(text, 0, MAX_WORKERS)


def thread_option(text: str) -> ThreadOption:
    """Read a number of threads, from 1 to MAX_WORKERS, `all` or `auto`.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    words: dict[str, ThreadOption] = {"auto": "auto", "all": "all"}
    return words[text] if text in words else _whole_number(text, 1, MAX_WORKERS)


def _is_label_value(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_LABEL_DIGITS


def _whole_number(text: str, least: int, most: int) -> int:
    digits = text if text.isascii() and text.isdecimal() else ""
    number = int(digits) if 0 < len(digits) <= len(str(most)) else -1
    if not least <= number <= most:
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
        raise argparse.ArgumentTypeError(f"{shown!r} is not a whole number from {least} to {most}")
    return number


def positive_number(text: str) -> float:
    """Read a number above 0, such as 0.75, .75 or 7.5e-1, up to MAX_NUMBER.

    Raises:
        argparse.ArgumentTypeError: If it is something else, or not finite.
    """
    message = f"{text!r} is not a number above 0 and up to {MAX_NUMBER:.0f}, such as 0.75"
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(message) from error
    if not 0 < number <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(message)
    return number


def fraction(text: str) -> float:
    """Read a fraction from 0 up to, but below, 1.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    message = f"{text!r} is not a fraction of at least 0 and below 1, such as 0.05"
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(message) from error
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(message)
    return number


def key_and_value(text: str) -> tuple[str, str]:
    """Read `width=base` as a key and its value.

    Raises:
        argparse.ArgumentTypeError: If there is no key, or no equals sign.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE, such as width=base")
    return key, value


def count(text: str) -> int:
    """Read a whole number from 0 to MAX_COUNT.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    return _whole_number(text, 0, MAX_COUNT)
