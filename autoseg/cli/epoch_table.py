"""The last epochs of a running training, as a table that a terminal shows in place of their log lines."""

import logging
from collections import deque

from rich.console import Group, RenderableType
from rich.text import Text

from autoseg.records.checkpoint import EpochHistory
from autoseg.text import format_duration

MAX_EPOCHS = 10
"""Rows of the table; the log file and the plot have all epochs."""

HEADER = """\
          loss,       loss,  Dice,   Dice,  learning                        peak
epoch  training  validation   mean  lowest      rate  seconds  waiting    memory"""
WIDTHS = (5, 8, 10, 5, 6, 8, 7, 7, 8)
"""Characters of each column; a line has 80 of them, two between columns."""


class EpochTable:
    """The last epochs and the time that remains, taken from the records of the log."""

    def __init__(self) -> None:
        self._epochs: deque[EpochHistory] = deque(maxlen=MAX_EPOCHS)
        self._remaining_seconds: float | None = None

    def take(self, record: logging.LogRecord) -> bool:
        """Filter of a log handler: take the record of an epoch out of the log, and let all others pass."""
        epoch = getattr(record, "epoch_history", None)
        if not isinstance(epoch, EpochHistory):
            return True
        self._epochs.append(epoch)
        self._remaining_seconds = getattr(record, "remaining_seconds", None)
        return False

    def above(self, bar: RenderableType) -> RenderableType:
        """The table with a progress bar below it; the bar alone before the first epoch has ended."""
        if not self._epochs:
            return bar
        caption = "Dice over validation patches, not the fold's score"
        if self._remaining_seconds is not None:
            caption = f"about {format_duration(self._remaining_seconds)} left; {caption}"
        lines = [HEADER, *map(_format_row, self._epochs), caption]
        return Group(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), bar)


def _format_row(epoch: EpochHistory) -> str:
    dice = [value for value in epoch.pseudo_dice.values() if value is not None]
    memory = epoch.peak_memory_bytes
    cells = (
        str(epoch.epoch),
        _format_number(epoch.train_loss, 4),
        _format_number(epoch.validation_loss, 4),
        _format_number(sum(dice) / len(dice) if dice else None, 3),
        _format_number(min(dice, default=None), 3),
        f"{epoch.learning_rate:.2g}",
        f"{epoch.seconds:.1f}",
        f"{100 * epoch.data_wait_fraction:.0f} %",
        "-" if memory is None else f"{memory / 1e9:.1f} GB",
    )
    return "  ".join(map(str.rjust, cells, WIDTHS))


def _format_number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
