"""Pictures of label maps on their images, for people to look at: one slice of a 2D image, a contact sheet of a volume.

Labels are tinted and outlined in the colours of the colour tables, with their names below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from autoseg.imaging.arrays.display import Window, box_around, display_grey, display_image, through_plane_axis
from autoseg.imaging.formats.volume import Volume, canonical_orientation, orient_array, orient_grid
from autoseg.inference.models.label_colors import LabelColor
from autoseg.records.case import Spacing
from autoseg.records.files import replacing

NUM_CELLS = 9
"""Slices of a contact sheet, at most."""

CELL_EDGE = 320
"""Pixels of the longer edge of a slice in a contact sheet."""

MIN_PICTURE_EDGE, MAX_PICTURE_EDGE = 480, 2048
"""Pixels of the longer edge of the overlay of a 2D image: small images are enlarged, large ones reduced."""

TINT = 0.3
"""Part of a label's colour in the pixels of its area; outlines have the whole colour."""

_GAP, _LINE, _FONT_SIZE = 4, 20, 13
"""Pixels between slices, of a line of the legend, and of its letters."""


@dataclass(frozen=True)
class _Cut:
    """One slice."""

    image: NDArray[np.float32]
    """Intensities as displayed, in [0, 1], (Y, X) or (Y, X, 3)."""
    labels: NDArray[np.integer]
    """Label values, (Y, X)."""
    pixel_aspect: float
    """Height of a pixel divided by its width."""
    caption: str = ""


def write_overlay(
    volume: Volume, labels: NDArray[np.integer], names: Sequence[LabelColor], window: Window | None, path: Path
) -> None:
    """Write a picture of an image with its label map as PNG, atomically.

    Args:
        volume: The image, (C, Z, Y, X) in stored order; three channels of a 2D image are shown as colours, else the
            first channel.
        labels: Label values, (Z, Y, X) in stored order.
        names: Names and colours of the label values.
        window: Range of the first channel's intensities that is shown; None: its percentiles.
        path: File to write.

    Raises:
        OSError: If the file cannot be written.
    """
    picture = draw_overlay(volume, labels, names, window)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def draw_overlay(
    volume: Volume, labels: NDArray[np.integer], names: Sequence[LabelColor], window: Window | None
) -> Image.Image:
    """Draw what `write_overlay` writes; axes as in the report: canonical orientation, superior and anterior up."""
    orientation = canonical_orientation(volume.grid)
    image, values = orient_array(volume.array, orientation), orient_array(labels, orientation)
    spacing = orient_grid(volume.grid, orientation).spacing
    colors = {label.value: label.color for label in names}
    present = [label for label in names if (values == label.value).any()]
    if 1 in values.shape:
        cells = [_draw(_cut_flat(image, values, spacing, window), colors, MIN_PICTURE_EDGE, MAX_PICTURE_EDGE)]
    else:
        cells = [_draw(cut, colors, CELL_EDGE, CELL_EDGE) for cut in _cut_volume(image, values, spacing, window)]
    return _with_legend(_arrange(cells), present)


def draw_slice(
    axis: int,
    grey: NDArray[np.float32],
    labels: NDArray[np.integer],
    names: Sequence[LabelColor],
    pixel_aspect: float,
) -> Image.Image:
    """Draw one slice of a volume in canonical orientation, superior and anterior up, without a legend.

    Args:
        axis: Axis across the slice: 0, 1 or 2 for z, y, x.
        grey: Intensities as displayed, in [0, 1], (Y, X) of the slice.
        labels: Label values, (Y, X).
        names: Colours of the label values.
        pixel_aspect: Height of a pixel divided by its width.
    """
    colors = {label.value: label.color for label in names}
    return _draw(_Cut(*_upright(axis, grey, labels), pixel_aspect), colors, MIN_PICTURE_EDGE, MAX_PICTURE_EDGE)


def _cut_flat(image: NDArray[np.float32], values: NDArray[np.integer], spacing: Spacing, window: Window | None) -> _Cut:
    axis = values.shape.index(1)
    shown = display_image(np.take(image, 0, axis=1 + axis), in_colour=True, window=window)
    return _Cut(*_upright(axis, shown, np.take(values, 0, axis=axis)), _pixel_aspect(axis, spacing))


def _cut_volume(
    image: NDArray[np.float32], values: NDArray[np.integer], spacing: Spacing, window: Window | None
) -> list[_Cut]:
    """Evenly spaced slices through the labels, cut to the labels with a margin; the middle one where there are none."""
    axis = through_plane_axis(values.shape, spacing)
    box, middle = box_around(values != 0)
    other_axes = tuple(other for other in range(3) if other != axis)
    found = np.flatnonzero((values != 0).any(axis=other_axes))
    places = [middle[axis]] if len(found) == 0 else _evenly_spaced(found)
    in_plane = tuple(box[other] for other in other_axes)
    grey = display_grey(image[0], window)
    return [
        _Cut(
            *_upright(axis, np.take(grey, place, axis=axis)[in_plane], np.take(values, place, axis=axis)[in_plane]),
            _pixel_aspect(axis, spacing),
            f"{place + 1}/{values.shape[axis]}",
        )
        for place in places
    ]


def _evenly_spaced(found: NDArray[np.integer]) -> list[int]:
    """Up to NUM_CELLS of these positions, the middle ones of equal parts."""
    count = min(NUM_CELLS, len(found))
    return [int(found[int((part + 0.5) * len(found) / count)]) for part in range(count)]


def _upright(
    axis: int, image: NDArray[np.float32], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """The slice with superior up, where its rows are z: z runs upwards, rows run downwards."""
    return (image, labels) if axis == 0 else (image[::-1], labels[::-1])


def _pixel_aspect(axis: int, spacing: Spacing) -> float:
    rows, columns = (other for other in range(3) if other != axis)
    return spacing[rows] / spacing[columns]


def _draw(cut: _Cut, colors: dict[int, tuple[int, int, int]], min_edge: int, max_edge: int) -> Image.Image:
    """A slice with its labels; its longer edge is brought to `min_edge` to `max_edge` pixels."""
    height, width = cut.labels.shape[0] * max(cut.pixel_aspect, 1.0), cut.labels.shape[1] / min(cut.pixel_aspect, 1.0)
    factor = min(max(min_edge / max(height, width), 1.0), max_edge / max(height, width))
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    shown = Image.fromarray(np.round(np.clip(cut.image, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    pixels = np.asarray(shown.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    values = np.asarray(Image.fromarray(cut.labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    table = np.zeros((int(values.max()) + 1, 3), dtype=np.float32)
    for value, color in colors.items():
        if value < len(table):
            table[value] = color
    weight = np.where(_find_outlines(values), 1.0, np.where(values != 0, TINT, 0.0)).astype(np.float32)[..., np.newaxis]
    mixed = Image.fromarray(np.round(pixels * (1 - weight) + table[values] * weight).astype(np.uint8))
    if cut.caption:
        ImageDraw.Draw(mixed).text((4, 2), cut.caption, fill=(255, 255, 255), font=_font())
    return mixed


def _find_outlines(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Labelled pixels, (Y, X), with a neighbour of another value."""
    padded = np.pad(values, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    outlines: NDArray[np.bool_] = (values != 0) & np.logical_or.reduce([values != other for other in neighbours])
    return outlines


def _arrange(cells: Sequence[Image.Image]) -> Image.Image:
    """Cells of equal size in rows, black between them."""
    columns = int(np.ceil(np.sqrt(len(cells))))
    rows = -(-len(cells) // columns)
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP))
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (column * (width + _GAP), row * (height + _GAP)))
    return sheet


def _with_legend(sheet: Image.Image, labels: Sequence[LabelColor]) -> Image.Image:
    """The sheet with the names of these labels below, in their colours."""
    rows = _break_lines(labels or [LabelColor(0, "no label", (0, 0, 0))], sheet.width)
    whole = Image.new("RGB", (sheet.width, sheet.height + _LINE * len(rows)))
    whole.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, row in enumerate(rows):
        top = sheet.height + number * _LINE
        for left, label in row:
            draw.rectangle((left, top + 4, left + 11, top + 15), fill=label.color)
            draw.text((left + 16, top + 2), label.name, fill=(255, 255, 255), font=_font())
    return whole


def _break_lines(labels: Sequence[LabelColor], width: int) -> list[list[tuple[int, LabelColor]]]:
    """Lines of labels with their positions from the left."""
    rows: list[list[tuple[int, LabelColor]]] = [[]]
    left = 4
    for label in labels:
        needed = 28 + round(_font().getlength(label.name))
        if left + needed > width and rows[-1]:
            rows.append([])
            left = 4
        rows[-1].append((left, label))
        left += needed
    return rows


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_FONT_SIZE)
