"""PNG figures of trainings and of augmented patches, in colours that colour-blind people can distinguish; no pyplot."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from autoseg.records.checkpoint import EpochHistory
from autoseg.records.files import replacing

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B3A400")
"""After Okabe and Ito 2008; their yellow is darkened so that it also shows on white."""
MAX_CURVES = 7
"""Labels that get a colour of their own; with more, all are grey and their mean is drawn on top."""
PAPER, INK, GRID_LINE = "white", "#222222", "#DDDDDD"
MOSAIC_COLUMNS = 3
"""Number of planes side by side."""
MOSAIC_PAPER = "#101214"
DOTS_PER_INCH = 110
VISIBLE_RANGE = (0.5, 99.5)
"""Percentiles of the intensities that are shown as black and white."""

Plane = tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.int16] | None]
"""Intensities in [0, 1], label indices, and those of the previous cascade step: (rows, columns), rows run downwards."""


@dataclass(frozen=True)
class PatchVersions:
    """One training patch, original and augmented."""

    title: str
    """Title of one or two lines."""
    images: NDArray[np.float32]
    """Intensities of one channel, (V, Z, Y, X) or (V, Y, X); the first version is the original patch."""
    labels: NDArray[np.int16]
    """Label indices, same shape as `images`; 0 is background, index i has the colour i - 1."""
    previous: NDArray[np.int16] | None
    """Label indices that the previous cascade step predicted; None outside cascades."""
    pixel_aspect: float
    """Height of a voxel divided by its width within the shown planes."""

    def shown_planes(self) -> Iterator[Plane]:
        """The plane with most foreground of each version; all have one grey range, that of the original patch."""
        low, high = np.percentile(self.images[0], VISIBLE_RANGE)
        shown = np.clip((self.images - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
        for version, labels in enumerate(self.labels):
            index = (version,) if labels.ndim == 2 else (version, _plane_with_most_foreground(labels))
            yield shown[index], self.labels[index], None if self.previous is None else self.previous[index]


def plot_progress(history: Sequence[EpochHistory], path: Path, title: str) -> None:
    """Draw the training of a fold so far: loss, pseudo-Dice, learning rate, seconds; replace `path` atomically."""
    figure, panels = _make_figure(rows=2, columns=2)
    figure.suptitle(title, y=0.985)
    figure.text(0.5, 0.935, _describe_extent(history), ha="center", fontsize=9)
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
            "waiting for data": [line.seconds * line.data_wait_fraction for line in history],
        },
    )
    seconds.set_ylim(bottom=0)
    _write(figure, path)


def draw_versions(rows: Sequence[PatchVersions]) -> Figure:
    """Draw a mosaic of patches: contours of the labels solid in colour, those of the previous step dashed in white.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError("a mosaic needs at least one patch")
    planes = max(len(row.labels) for row in rows)
    across = min(max(MOSAIC_COLUMNS // planes, 1), len(rows))  # patches side by side
    down = -(-len(rows) // across)
    inches = (3.1 * planes * across, 3.5 * down)
    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, facecolor=MOSAIC_PAPER)
    width, height = 1 / (across * planes), 1 / down
    for number, row in enumerate(rows):
        left, bottom = number % across * planes * width, 1 - (number // across + 1) * height
        figure.text(left + 0.01, bottom + 0.93 * height, row.title, color="white", fontsize=9, va="center")
        for column, plane in enumerate(row.shown_planes()):
            corner = (left + (column + 0.02) * width, bottom + 0.01 * height)
            _draw_plane(figure.add_axes((*corner, 0.96 * width, 0.85 * height)), plane, row.pixel_aspect)
    return figure


def _draw_plane(panel: Axes, plane: Plane, pixel_aspect: float) -> None:
    image, labels, previous = plane
    panel.set_axis_off()
    panel.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=pixel_aspect, interpolation="nearest")
    values = np.unique(labels) if previous is None else np.union1d(labels, previous)
    for value in values[values != 0]:
        colour = COLOURS[(int(value) - 1) % len(COLOURS)]
        _draw_contour(panel, labels == value, colour, 2.0, "solid")
        if previous is not None:
            _draw_contour(panel, previous == value, "white", 1.1, "dashed")


def _draw_contour(panel: Axes, mask: NDArray[np.bool_], colour: str, width: float, style: str) -> None:
    padded = np.pad(mask, 1)  # so that a structure that is cut by the border is closed there
    if mask.any():
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        panel.contour(columns, rows, padded, levels=[0.5], colors=[colour], linewidths=[width], linestyles=[style])


def _make_figure(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.3 * columns, 2.9 * rows + 0.4), dpi=DOTS_PER_INCH, facecolor=PAPER)
    # Fixed margins: a layout engine would double the time of a figure that is drawn again after every epoch.
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.15 / rows, top=0.89, hspace=0.35, wspace=0.16)
    panels = []
    for position in range(rows * columns):
        panel = figure.add_subplot(rows, columns, position + 1, facecolor=PAPER)
        panel.grid(color=GRID_LINE, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GRID_LINE)
        panel.tick_params(colors=INK, labelsize=8)
        panel.title.set(color=INK, fontsize=10)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        panel.set_xlabel("epoch", color=INK, fontsize=8)
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
    few = len(names) <= MAX_CURVES
    for position, name in enumerate(names):
        colour = COLOURS[position] if few else "#A0A0A0"
        values = [line.pseudo_dice.get(name) for line in history]
        _draw_line(panel, epochs, values, name if few else "_hidden", colour, 1.2)
    if len(names) > 1:  # behind the labels where these have colours, else in front of them
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


def _describe_extent(history: Sequence[EpochHistory]) -> str:
    if not history:
        return "no epoch yet"
    minutes, memory = sum(line.seconds for line in history) / 60, history[-1].peak_memory_bytes
    extent = f"{len(history)} epoch{'s' * (len(history) > 1)}, {history[-1].step} steps, {minutes:.3g} min"
    return extent if memory is None else f"{extent}, peak memory {memory / 1e9:.1f} GB"


def _mean_pseudo_dice(line: EpochHistory) -> float | None:
    known = [value for value in line.pseudo_dice.values() if value is not None]
    return sum(known) / len(known) if known else None


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def plot_versions(rows: Sequence[PatchVersions], label_names: Mapping[int, str], path: Path) -> None:
    """Draw the plane with most foreground of each version with contours of its labels; replace `path` atomically.

    All versions of a patch share one grey range, so that changes of brightness and contrast are visible. Contours of
    the labels of the previous cascade step are dashed.

    Args:
        rows: Patches to draw, at least one.
        label_names: Names by label index, from 1.
        path: PNG file to write.
    """
    figure = draw_versions(rows)
    lines = [Line2D([], [], color=COLOURS[(index - 1) % len(COLOURS)], linewidth=2) for index in label_names]
    figure.legend(
        lines, list(label_names.values()), loc="upper right", ncols=8, fontsize=9, frameon=False, labelcolor="white"
    )
    _write(figure, path)


def _plane_with_most_foreground(labels: NDArray[np.int16]) -> int:
    """Position along the first axis; the middle where there is no foreground."""
    counts = np.count_nonzero(labels, axis=(1, 2))
    return int(counts.argmax()) if counts.any() else len(labels) // 2
