"""How the label files of a dataset are read where their pixels are not label values: what users ask for, and hints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import UsageError
from autoseg.imaging.datasets.labels.label_colors import NamedColor, resolve_colors
from autoseg.imaging.formats.color_masks import COLOR_TOLERANCE
from autoseg.records.dataset import BACKGROUND, IGNORE, LabelReading, LabelValues, Rgb

FULL_SCALES = (255, 65535)
"""Values that stand for 1 in masks of 8 and 16 bits that are meant to be looked at."""

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
    if options.colors and options.threshold is not None:
        raise UsageError("--label-colors and --label-threshold contradict each other: give only one of them")
    if options.colors:
        return resolve_colors(options.colors, labels)
    if options.threshold is None:
        return None, declared
    foreground = {name: value for name, value in (labels or {}).items() if name != BACKGROUND}
    values = [value for value in foreground.values() if isinstance(value, int)]
    if foreground and (len(foreground) != 1 or not values or IGNORE in foreground):
        raise UsageError(
            f"--label-threshold makes one label of everything from {options.threshold:g} on, but the labels are "
            f"{', '.join(foreground)}. Leave it out, or declare one label"
        )
    return LabelReading(threshold=options.threshold, threshold_value=values[0] if values else 1), declared


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
