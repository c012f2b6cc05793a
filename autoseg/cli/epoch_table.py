"""How a training goes, as a table that a terminal shows while it runs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoseg.records.checkpoint import EpochHistory

MAX_EPOCHS = 10
"""Rows; the log file and the plot have all."""

MAX_CLASSES = 5
"""Columns for classes; more are shown as their mean and their lowest."""

FIRST_TO_GO = ("peak memory", "step", "waiting for data", "learning rate", "seconds per epoch")
"""Columns that a narrow terminal has no room for, in this order."""

MAX_GONE_FOR_CLASSES = 3
"""So many of them make room for the classes, as a line of the log speaks of waiting when it matters; then the classes
become their mean and their lowest."""

COLUMN_GAP = 2
"""Characters between two columns."""


class EpochTable:
    """The last epochs of the training that goes on; made of the log's own records, which it replaces."""

    def __init__(self) -> None:
        self._lines: list[EpochHistory] = []
        self._remaining_seconds: float | None = None

    def take(self, record: logging.LogRecord) -> bool:
        """A filter for the log: take an epoch's record, and let all others pass."""
        line = getattr(record, "epoch_history", None)
        if not isinstance(line, EpochHistory):
            return True
        self._lines = [*self._lines, line][-MAX_EPOCHS:]
        self._remaining_seconds = getattr(record, "remaining_seconds", None)
        return False

    def above(self, bar: RenderableType, width: int) -> RenderableType:
        """The table and the bar; the bar alone before the first epoch has ended.

        Args:
            bar: Goes below the table.
            width: Of the terminal, characters.
        """
        if not self._lines:
            return bar
        return Group(draw_epochs(self._lines, self._remaining_seconds, width), bar)


def draw_epochs(lines: Sequence[EpochHistory], remaining_seconds: float | None, width: int) -> Table:
    """One row per epoch; columns are left out rather than figures cut.

    Args:
        lines: At least one.
        remaining_seconds: Until training will end; None: not known.
        width: Of the terminal, characters.
    """
    caption = "pseudo: Dice over validation patches, not the fold's score"
    if remaining_seconds is not None:
        minutes, seconds = divmod(round(remaining_seconds), 60)
        caption = f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left; {caption}"
    table = Table(
        box=None, padding=(0, COLUMN_GAP, 0, 0), pad_edge=False, header_style="bold", caption=caption,
        caption_justify="left",
    )  # fmt: skip
    columns = _choose_columns(lines, width)
    for column in columns:
        table.add_column(Text(f"{column.above}\n{column.name}"), justify="right")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


@dataclass(frozen=True)
class _Column:
    above: str
    """First line of the header."""
    name: str
    """Second line of the header."""
    cells: tuple[str, ...]
    """One per epoch."""

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.above, self.name, *self.cells)))


def _choose_columns(lines: Sequence[EpochHistory], width: int) -> list[_Column]:
    """The fullest choice that fits; the leanest one where none does."""
    classes, summary = _class_columns(lines), _summary_columns(lines)
    choices = [(summary, FIRST_TO_GO[:gone]) for gone in range(len(FIRST_TO_GO) + 1)]
    if len(classes) <= MAX_CLASSES:
        choices = [(classes, FIRST_TO_GO[:gone]) for gone in range(MAX_GONE_FOR_CLASSES + 1)] + choices
    before, after = _columns_before(lines), _columns_after(lines)
    columns: list[_Column] = []
    for dice, gone in choices:
        columns = [column for column in (*before, *dice, *after) if f"{column.above} {column.name}".strip() not in gone]
        if sum(column.width + COLUMN_GAP for column in columns) - COLUMN_GAP <= width:
            break
    return columns


def _columns_before(lines: Sequence[EpochHistory]) -> list[_Column]:
    return [
        _Column("", "epoch", tuple(str(line.epoch) for line in lines)),
        _Column("", "step", tuple(str(line.step) for line in lines)),
        _Column("loss", "training", tuple(_number(line.train_loss, 4) for line in lines)),
        _Column("loss", "validation", tuple(_number(line.validation_loss, 4) for line in lines)),
    ]


def _class_columns(lines: Sequence[EpochHistory]) -> list[_Column]:
    return [
        _Column("pseudo", name, tuple(_number(line.pseudo_dice.get(name), 3) for line in lines))
        for name in lines[-1].pseudo_dice
    ]


def _summary_columns(lines: Sequence[EpochHistory]) -> list[_Column]:
    known = [[value for value in line.pseudo_dice.values() if value is not None] for line in lines]
    return [
        _Column("pseudo", "mean", tuple(_number(sum(dice) / len(dice) if dice else None, 3) for dice in known)),
        _Column("pseudo", "lowest", tuple(_number(min(dice, default=None), 3) for dice in known)),
    ]


def _columns_after(lines: Sequence[EpochHistory]) -> list[_Column]:
    memory = (line.peak_memory_bytes for line in lines)
    return [
        _Column("learning", "rate", tuple(f"{line.learning_rate:.2g}" for line in lines)),
        _Column("seconds", "per epoch", tuple(f"{line.seconds:.1f}" for line in lines)),
        _Column("waiting", "for data", tuple(f"{100 * line.data_wait_fraction:.0f} %" for line in lines)),
        _Column("peak", "memory", tuple("-" if size is None else f"{size / 1e9:.1f} GB" for size in memory)),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
