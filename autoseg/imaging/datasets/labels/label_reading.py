"""How the label files of a dataset are read where their pixels are not label values: what users ask for, and hints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import UsageError
from autoseg.imaging.datasets.labels.label_colors import NamedColor, resolve_colors
from autoseg.imaging.formats.color_masks import COLOR_TOLERANCE
from autoseg.records.dataset import BACKGROUND, IGNORE, CaseFiles, LabelReading, LabelValues, Rgb

FULL_SCALES = (255, 65535)
"""Values that stand for 1 in masks of 8 and 16 bits that are meant to be looked at."""

MIN_ID = 1.0
"""Smallest number of an object."""

MIXED_SCALES = LabelReading(threshold=1.0)
"""Rule for a dataset whose masks of one structure are 0 and 1 in some files, and 0 and 255 in others."""

MIXED_SCALES_NOTE = "some masks are 0 and 1, others 0 and 255: both are read as one label (--label-threshold 1)"

_MAX_SUGGESTED = 20
"""Number of colours in a command that is suggested."""


@dataclass(frozen=True)
class ReadingOptions:
    """What the user says about the pixels of label files."""

    colors: tuple[NamedColor, ...] = ()
    """Colours of colour masks with the names of their labels; empty: label files have one value per pixel."""
    threshold: float | None = None
    """Smallest value of the structure in masks of a single one; None: pixels are label values."""
    are_ids: bool = False
    """Whether pixels are numbers of objects, all of one label."""


AS_LABEL_VALUES = ReadingOptions()
"""Pixels are label values."""


def resolve_reading(
    options: ReadingOptions, labels: Mapping[str, LabelValues] | None
) -> tuple[LabelReading | None, dict[str, LabelValues] | None]:
    """The rule for reading label files, and the labels.

    Args:
        options: What the user asks for.
        labels: Declared labels; None: not declared.

    Returns:
        The rule, None where pixels are label values; and the labels, None where they are not declared.

    Raises:
        UsageError: If colours and a threshold are given together, or they do not fit the labels.
    """
    declared = None if labels is None else dict(labels)
    asked = {
        "--label-colors": bool(options.colors),
        "--label-threshold": options.threshold is not None,
        "--label-ids": options.are_ids,
    }
    if sum(asked.values()) > 1:
        words = " and ".join(name for name, is_asked in asked.items() if is_asked)
        raise UsageError(f"{words} contradict each other: give only one of them")
    if options.colors:
        return resolve_colors(options.colors, labels)
    threshold = MIN_ID if options.are_ids else options.threshold
    if threshold is None:
        return None, declared
    foreground = {name: value for name, value in (labels or {}).items() if name != BACKGROUND}
    values = [value for value in foreground.values() if isinstance(value, int)]
    if foreground and (len(foreground) != 1 or not values or IGNORE in foreground):
        option = "--label-ids" if options.are_ids else "--label-threshold"
        raise UsageError(
            f"{option} makes one label of everything from {threshold:g} on, but the labels are "
            f"{', '.join(foreground)}. Leave it out, or declare one label"
        )
    value = values[0] if values else 1
    return LabelReading(threshold=threshold, threshold_value=value, are_ids=options.are_ids), declared


def with_own_numbers(cases: Sequence[CaseFiles], rule: LabelReading | None) -> tuple[CaseFiles, ...]:
    """Cases whose label maps are maps of objects, too, where the rule says that they hold numbers."""
    if rule is None or not rule.are_ids:
        return tuple(cases)
    return tuple(files.model_copy(update={"instances": files.instances or files.label}) for files in cases)


def describe_reading(rule: LabelReading | None) -> list[str]:
    """What the pixels of label files mean, where they are not label values."""
    if rule is None:
        return []
    if rule is MIXED_SCALES:
        return [MIXED_SCALES_NOTE]
    if rule.are_ids:
        return [f"label maps hold a number for each object, all of the label {rule.threshold_value}"]
    if rule.threshold is not None:
        return [
            f"values from {rule.threshold:g} on are the label {rule.threshold_value}, smaller ones background; files "
            "that hold 0 and 1 only are read as they are"
        ]
    colors = ", ".join(f"{color.rgb} is {color.value}" for color in rule.colors)
    return [f"label maps are colour masks, each pixel the nearest of these colours (red, green, blue): {colors}"]


def has_mixed_scales(values_by_file: Sequence[set[int]]) -> bool:
    """Whether some masks are 0 and 1 and others 0 and 255 (or 65535), with no other value anywhere.

    Args:
        values_by_file: Label values of each file, 0 among them or not.
    """
    foreground = [values - {0} for values in values_by_file]
    found = set().union(*foreground)
    return (
        1 in found and len(found) > 1 and found <= {1, *FULL_SCALES} and all(len(values) <= 1 for values in foreground)
    )


def suggest_colors(colors: Mapping[Rgb, int]) -> str:
    """A text for --label-colors that names all colours of a dataset: black, or the most frequent, is background.

    Args:
        colors: Number of pixels of all masks together by colour.
    """
    merged: dict[Rgb, int] = {}
    for rgb, count in sorted(colors.items(), key=lambda item: -item[1]):
        same = next((known for known in merged if np.linalg.norm(np.subtract(known, rgb)) <= COLOR_TOLERANCE), rgb)
        merged[same] = merged.get(same, 0) + count
    ordered = sorted(merged, key=lambda rgb: -merged[rgb])
    background = next((rgb for rgb in ordered if np.linalg.norm(rgb) <= COLOR_TOLERANCE), ordered[0])
    labels = [rgb for rgb in ordered if rgb != background][:_MAX_SUGGESTED]
    entries = [] if not any(background) else [f"{_numbers(background)}=background"]
    entries += [f"{_numbers(rgb)}=label_{number}" for number, rgb in enumerate(labels, start=1)]
    return ", ".join(entries)


def _numbers(rgb: Rgb) -> str:
    return ",".join(map(str, rgb))
