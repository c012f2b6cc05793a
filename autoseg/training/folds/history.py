"""history.jsonl: one line per epoch, for scripts and for the plot; and the log line of an epoch."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from autoseg.records.checkpoint import EpochHistory
from autoseg.records.files import read_records, write_text
from autoseg.system import count_cores
from autoseg.text import format_duration, format_sizes

logger = logging.getLogger("autoseg.train")

DATA_WAIT_WARNING = 0.05
"""Fraction of an epoch spent waiting for data above which the log gives advice."""

MUCH_WORSE = 0.1
"""Growth of that fraction after which the log repeats the advice."""


def log_line(
    line: EpochHistory,
    *,
    earlier: Sequence[EpochHistory] = (),
    workers: int = 0,
    remaining_seconds: float | None = None,
) -> None:
    """Log the figures of an epoch, and advice when the network had to wait for batches.

    The log record carries the epoch and the remaining time as attributes `epoch_history` and `remaining_seconds`, so
    that a terminal can show them in another form.

    Args:
        line: The epoch.
        earlier: The epochs before it; advice on waiting is repeated only when waiting has become much worse.
        workers: Processes that prepare batches.
        remaining_seconds: Time until the end of training in seconds; None: not known.
    """
    dice = "  ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in line.pseudo_dice.items())
    memory = "" if line.peak_memory_bytes is None else f"  peak memory {line.peak_memory_bytes / 1e9:.1f} GB"
    patch = "" if line.patch_size is None else f"  patch {format_sizes(line.patch_size)}"
    left = "" if remaining_seconds is None else f"  about {format_duration(remaining_seconds)} left"
    logger.info(
        "epoch %d  step %d  loss %s  validation %s  pseudo-Dice %s  learning rate %.2g  %.1f s  "
        "waiting for data: %.0f %%%s%s%s",
        line.epoch,
        line.step,
        _number(line.train_loss),
        _number(line.validation_loss),
        dice,
        line.learning_rate,
        line.seconds,
        100 * line.data_wait_fraction,
        patch,
        memory,
        left,
        extra={"epoch_history": line, "remaining_seconds": remaining_seconds},
    )
    limit = DATA_WAIT_WARNING
    for before in earlier:
        if before.data_wait_fraction > limit:  # the advice was given then
            limit = before.data_wait_fraction + MUCH_WORSE
    if line.data_wait_fraction > limit:
        logger.warning("%s", advise_on_waiting(line.data_wait_fraction, workers, count_cores()))


def advise_on_waiting(wait_fraction: float, workers: int, cores: int) -> str:
    """What to change when the network waits for batches.

    Workers are to deliver a batch in the time that the network takes for one, `1 - wait_fraction` of a step. With n
    workers they now take a whole step each n batches, so n / (1 - wait_fraction) of them would do; without any, one
    process takes `wait_fraction` of a step for a batch.

    Args:
        wait_fraction: Fraction of the epoch, (0, 1].
        workers: Processes that prepare batches now; 0: the training process does it.
        cores: Number of cores that this process may use.
    """
    working = max(1.0 - wait_fraction, 0.01)
    wanted = math.ceil((workers or wait_fraction) / working)
    waited = f"the network waited for batches for {100 * wait_fraction:.0f} % of this epoch"
    if workers >= cores:
        return f"{waited}; all {cores} cores prepare them already, only more cores would help"
    return f"{waited}; try --workers {min(wanted, cores)} instead of {workers}, and keep it if epochs become shorter"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def write_history(history: list[EpochHistory], path: Path) -> None:
    """Write all lines, atomically."""
    write_text("".join(line.model_dump_json() + "\n" for line in history), path)


def read_history(path: Path, before: int) -> list[EpochHistory]:
    """Lines of the epochs that the checkpoint knows; later ones will be trained again.

    Raises:
        RecordError: If a line is damaged.
    """
    if before == 0 or not path.exists():
        return []
    return read_records(EpochHistory, path)[:before]
