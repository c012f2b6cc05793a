"""Pictures of a training run and of cases. Colours can be told apart by colour-blind people; nothing uses pyplot."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import attrgetter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from autoseg.records.case import Spacing
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.files import replacing

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B3A400")
"""After Okabe and Ito 2008; their yellow is darkened so that it also shows on white."""
MOST_CURVES = 7
"""More labels than colours are drawn alike, behind their mean."""
PAPERS = {False: ("white", "#222222", "#DDDDDD"), True: ("#15181c", "#E6E6E6", "#3A4048")}
"""Paper, ink and grid line; True: for dark screens."""
MOSAIC_COLUMNS = 3
"""Planes side by side."""
SMALLEST_MARGIN = 0.1
"""Of the image, around a foreground that is shown; small structures need their surroundings."""
MOSAIC_PAPER = "#101214"
DOTS_PER_INCH = 110
VISIBLE_RANGE = (0.5, 99.5)
"""Percentiles of the shown voxels that become black and white."""


@dataclass(frozen=True)
class Plane:
    """One slice, as it is shown: rows run downwards."""

    name: str
    image: NDArray[np.float32]
    """(rows, columns), or (rows, columns, 3) for colour."""
    reference: NDArray[np.generic]
    """Label indices, (rows, columns); 0 is background, index i has the colour i - 1."""
    prediction: NDArray[np.generic]
    pixel_aspect: float
    """Height of a pixel divided by its width."""


@dataclass(frozen=True)
class CasePicture:
    """One case of a mosaic."""

    title: str
    """One or two lines."""
    planes: tuple[Plane, ...]


def plot_progress(history: Sequence[EpochHistory], path: Path, title: str) -> None:
    """Draw how a fold's training went so far: loss, pseudo-Dice, learning rate, time; replace `path` at once."""
    figure, panels = _make_figure(rows=2, columns=2, dark=False)
    figure.suptitle(title, y=0.985)
    figure.text(0.5, 0.935, _say_extent(history), ha="center", fontsize=9)
    epochs = [line.epoch for line in history]
    loss, dice, rate, seconds = panels
    _draw_lines(
        loss,
        "loss",
        epochs,
        {"training": [line.train_loss for line in history], "validation": [line.validation_loss for line in history]},
    )
    _draw_pseudo_dice(dice, epochs, history)
    _draw_lines(rate, "learning rate", epochs, {"learning rate": [line.learning_rate for line in history]})
    _draw_lines(
        seconds,
        "seconds per epoch",
        epochs,
        {
            "whole epoch": [line.seconds for line in history],
            "of it waiting for data": [line.seconds * line.data_wait_fraction for line in history],
        },
    )
    seconds.set_ylim(bottom=0)
    _write(figure, path)


def draw_folds(histories: Mapping[str, Sequence[EpochHistory]], *, dark: bool = False) -> Figure:
    """Draw all folds of a configuration side by side: both losses and the mean pseudo-Dice, one line per fold."""
    figure, panels = _make_figure(rows=1, columns=3, dark=dark)
    curves: dict[str, Callable[[EpochHistory], float | None]] = {
        "training loss": attrgetter("train_loss"),
        "validation loss": attrgetter("validation_loss"),
        "mean pseudo-Dice (random patches)": _mean_pseudo_dice,
    }
    for panel, (title, values) in zip(panels, curves.items(), strict=True):
        panel.set_title(title)
        for colour, (fold, history) in zip(_colours(), histories.items(), strict=False):
            _draw_line(panel, [line.epoch for line in history], map(values, history), f"fold {fold}", colour)
    panels[2].set_ylim(0, 1)
    _add_legend(panels[0])
    return figure


def picture_case(
    title: str,
    image: NDArray[np.float32],
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    spacing: Spacing,
) -> CasePicture:
    """Cut the slices to show through the middle of the foreground.

    Args:
        title: Case and scores.
        image: (C, Z, Y, X), axes z, y, x towards superior, posterior, left. A single slice with three channels is
            shown in colour, else the first channel is shown.
        reference: Label indices, (Z, Y, X).
        prediction: Label indices, (Z, Y, X).
        spacing: mm, (z, y, x).

    Returns:
        Three planes, or one when there is only one slice; each cut to the foreground with as much again around it.
    """
    foreground = (reference != 0) | (prediction != 0)
    box, middle = box_around(foreground)
    names = ("axial", "coronal", "sagittal") if image.shape[1] > 1 else ("slice",)
    planes = []
    for axis, name in enumerate(names):
        rows, columns = (other for other in range(3) if other != axis)
        index: tuple[slice | int, ...] = (*box[:axis], middle[axis], *box[axis + 1 :])
        up = slice(None, None, -1 if axis > 0 else 1)  # the z axis runs upwards, rows run downwards
        in_colour = axis == 0 and image.shape[1] == 1 and image.shape[0] == 3
        shown = np.moveaxis(image[(slice(None), *index)], 0, -1) if in_colour else image[(0, *index)]
        plane = Plane(
            name=name,
            image=_to_grey_range(shown[up]),
            reference=reference[index][up].copy(),
            prediction=prediction[index][up].copy(),
            pixel_aspect=spacing[rows] / spacing[columns],
        )
        planes.append(plane)
    return CasePicture(title, tuple(planes))


def plot_cases(rows: Sequence[CasePicture], path: Path) -> None:
    """Write `draw_cases` as PNG, replacing `path` at once."""
    _write(draw_cases(rows), path)


def draw_cases(rows: Sequence[CasePicture]) -> Figure:
    """Draw a mosaic of cases: contours of the reference solid in colour, of the prediction dashed in white.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError("a mosaic needs at least one case")
    planes = max(len(row.planes) for row in rows)
    across = min(max(MOSAIC_COLUMNS // planes, 1), len(rows))  # cases side by side
    down = -(-len(rows) // across)
    inches = (3.1 * planes * across, 3.5 * down)
    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, facecolor=MOSAIC_PAPER)
    width, height = 1 / (across * planes), 1 / down
    for number, row in enumerate(rows):
        left, bottom = number % across * planes * width, 1 - (number // across + 1) * height
        figure.text(left + 0.01, bottom + 0.93 * height, row.title, color="white", fontsize=9, va="center")
        for column, plane in enumerate(row.planes):
            corner = (left + (column + 0.02) * width, bottom + 0.01 * height)
            _draw_plane(figure.add_axes((*corner, 0.96 * width, 0.85 * height)), plane)
    return figure


def encode_png(figure: Figure) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_plane(panel: Axes, plane: Plane) -> None:
    panel.set_axis_off()
    panel.imshow(plane.image, cmap="gray", vmin=0, vmax=1, aspect=plane.pixel_aspect, interpolation="nearest")
    values = np.union1d(np.unique(plane.reference), np.unique(plane.prediction))
    for value in values[values != 0]:
        colour = COLOURS[(int(value) - 1) % len(COLOURS)]
        _draw_contour(panel, plane.reference == value, colour, 2.0, "solid")
        _draw_contour(panel, plane.prediction == value, "white", 1.1, "dashed")


def _draw_contour(panel: Axes, mask: NDArray[np.bool_], colour: str, width: float, style: str) -> None:
    padded = np.pad(mask, 1)  # so that a structure that is cut by the border is closed there
    if mask.any():
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        panel.contour(columns, rows, padded, levels=[0.5], colors=[colour], linewidths=[width], linestyles=[style])


def box_around(foreground: NDArray[np.bool_]) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """The foreground's box with a margin of half its size, and the middle voxel of the foreground."""
    box: list[slice] = []
    middle: list[int] = []
    for axis, size in enumerate(foreground.shape):
        others = tuple(other for other in range(3) if other != axis)
        counts = foreground.sum(axis=others)
        found = np.flatnonzero(counts)
        if len(found) == 0:
            box.append(slice(0, size))
            middle.append(size // 2)
            continue
        first, last = int(found[0]), int(found[-1])
        margin = max((last + 1 - first) // 2, round(SMALLEST_MARGIN * size), 1)
        box.append(slice(max(first - margin, 0), min(last + 1 + margin, size)))
        middle.append(int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)))
    return tuple(box), tuple(middle)


def _to_grey_range(image: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = (float(bound) for bound in np.percentile(image, VISIBLE_RANGE))
    grey: NDArray[np.float32] = np.clip((image - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
    return grey


def _make_figure(rows: int, columns: int, *, dark: bool) -> tuple[Figure, list[Axes]]:
    paper, ink, line = PAPERS[dark]
    figure = Figure(figsize=(4.3 * columns, 2.9 * rows + 0.4), dpi=DOTS_PER_INCH, facecolor=paper)
    # Fixed margins: a layout engine would double the time of a picture that is drawn again after every epoch.
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.15 / rows, top=0.89, hspace=0.35, wspace=0.16)
    panels = []
    for position in range(rows * columns):
        panel = figure.add_subplot(rows, columns, position + 1, facecolor=paper)
        panel.grid(color=line, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.tick_params(colors=ink, labelsize=8)
        panel.title.set(color=ink, fontsize=10)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        panel.set_xlabel("epoch", color=ink, fontsize=8)
        panels.append(panel)
    return figure, panels


def _draw_lines(panel: Axes, title: str, epochs: Sequence[int], curves: Mapping[str, Sequence[float | None]]) -> None:
    panel.set_title(title)
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        _draw_line(panel, epochs, values, name, colour)
    if len(curves) > 1:
        _add_legend(panel)


def _draw_line(
    panel: Axes, epochs: Sequence[int], values: Iterable[float | None], name: str, colour: str, width: float = 1.6
) -> None:
    known = [np.nan if value is None else value for value in values]
    marker = "o" if len(epochs) < 20 else None
    panel.plot(epochs, known, color=colour, linewidth=width, marker=marker, markersize=3, label=name)


def _draw_pseudo_dice(panel: Axes, epochs: Sequence[int], history: Sequence[EpochHistory]) -> None:
    panel.set_title("pseudo-Dice (random patches)")
    names = list(dict.fromkeys(name for line in history for name in line.pseudo_dice))
    few = len(names) <= MOST_CURVES
    for position, name in enumerate(names):
        colour = COLOURS[position] if few else "#A0A0A0"
        values = [line.pseudo_dice.get(name) for line in history]
        _draw_line(panel, epochs, values, name if few else "_hidden", colour, 1.2)
    if len(names) > 1:  # behind the labels when these can be told apart, else before them
        _draw_line(
            panel, epochs, map(_mean_pseudo_dice, history), "mean", "#BBBBBB" if few else "#222222", 4 if few else 2
        )
        panel.lines[-1].set_zorder(1 if few else 3)
    panel.set_ylim(0, 1)
    if names:
        _add_legend(panel)


def _add_legend(panel: Axes) -> None:
    legend = panel.legend(fontsize=8, frameon=False, labelcolor=panel.title.get_color())
    legend.set_zorder(5)


def _colours() -> Iterable[str]:
    while True:
        yield from COLOURS


def _say_extent(history: Sequence[EpochHistory]) -> str:
    if not history:
        return "no epoch yet"
    minutes, memory = sum(line.seconds for line in history) / 60, history[-1].peak_memory_bytes
    said = f"{len(history)} epoch{'s' * (len(history) > 1)}, {history[-1].step} steps, {minutes:.3g} min"
    return said if memory is None else f"{said}, peak memory {memory / 1e9:.1f} GB"


def _mean_pseudo_dice(line: EpochHistory) -> float | None:
    known = [value for value in line.pseudo_dice.values() if value is not None]
    return sum(known) / len(known) if known else None


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
