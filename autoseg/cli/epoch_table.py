"""How a training goes, as a table that a terminal shows while it runs."""

import logging
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoseg.records.checkpoint import EpochHistory

MOST_EPOCHS = 10
"""Rows; the log file and the plot have all."""

MOST_CLASSES = 5
"""Columns for classes; more are shown as their mean and their lowest."""


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
        self._lines = [*self._lines, line][-MOST_EPOCHS:]
        self._remaining_seconds = getattr(record, "remaining_seconds", None)
        return False

    def above(self, bar: RenderableType) -> RenderableType:
        """The table and the bar; the bar alone before the first epoch has ended."""
        if not self._lines:
            return bar
        return Group(draw_epochs(self._lines, self._remaining_seconds), bar)


def draw_epochs(lines: list[EpochHistory], remaining_seconds: float | None) -> Table:
    """One row per epoch.

    Args:
        lines: At least one.
        remaining_seconds: Until training will end; None: not known.
    """
    names = list(lines[-1].pseudo_dice)
    few = len(names) <= MOST_CLASSES
    caption = "pseudo: Dice over random validation patches, not the fold's score"
    if remaining_seconds is not None:
        minutes, seconds = divmod(round(remaining_seconds), 60)
        caption = f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left; {caption}"
    table = Table(box=None, padding=(0, 1), header_style="bold", caption=caption, caption_justify="left")
    classes = [f"pseudo\n{name}" for name in names] if few else ["pseudo\nmean", "pseudo\nlowest"]
    headers = ["\nepoch", "\nstep", "loss\ntraining", "loss\nvalidation", *classes]
    headers += ["learning\nrate", "seconds\nper epoch", "waiting\nfor data", "peak\nmemory"]
    for header in headers:
        table.add_column(Text(header), justify="right")
    for line in lines:
        known = [value for value in line.pseudo_dice.values() if value is not None]
        summary = [sum(known) / len(known), min(known)] if known else [None, None]
        table.add_row(*_cells(line, [line.pseudo_dice.get(name) for name in names] if few else summary))
    return table


def _cells(line: EpochHistory, dice: Iterable[float | None]) -> list[str]:
    memory = line.peak_memory_bytes
    return [
        str(line.epoch),
        str(line.step),
        *(_number(loss, 4) for loss in (line.train_loss, line.validation_loss)),
        *(_number(value, 3) for value in dice),
        f"{line.learning_rate:.2g}",
        f"{line.seconds:.1f}",
        f"{100 * line.data_wait_fraction:.0f} %",
        "-" if memory is None else f"{memory / 1e9:.1f} GB",
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
