"""history.jsonl: one line per epoch, for scripts and for the plot."""

import json
import logging
from pathlib import Path

from autoseg.records.checkpoint import EpochHistory
from autoseg.records.files import write_text
from autoseg.training.loop import EpochResult, ValidationResult

logger = logging.getLogger("autoseg.train")

DATA_WAIT_WARNING = 0.05
"""Above this share of waiting the log says what to change."""


def history_line(
    epoch: int, step: int, seconds: float, trained: EpochResult, validated: ValidationResult
) -> EpochHistory:
    """Put the figures of one epoch together."""
    return EpochHistory(
        epoch=epoch,
        step=step,
        seconds=seconds,
        data_wait_fraction=trained.data_wait_fraction,
        train_loss=trained.mean_loss,
        validation_loss=validated.mean_loss,
        pseudo_dice=validated.pseudo_dice,
        learning_rate=trained.learning_rate,
    )


def log_line(line: EpochHistory) -> None:
    """Say how the epoch went; and what to change when the network had to wait for batches."""
    dice = "  ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in line.pseudo_dice.items())
    logger.info(
        "epoch %d  step %d  loss %s  validation %s  pseudo-Dice %s  %.1f s  waiting for data: %.0f %%",
        line.epoch, line.step, _number(line.train_loss), _number(line.validation_loss), dice, line.seconds,
        100 * line.data_wait_fraction,
    )  # fmt: skip
    if line.data_wait_fraction > DATA_WAIT_WARNING and line.epoch == 0:
        logger.info("the network waits for batches; more processes may help (--workers)")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def write_history(history: list[EpochHistory], path: Path) -> None:
    """Write all lines anew, atomically."""
    write_text("".join(line.model_dump_json() + "\n" for line in history), path)


def read_history(path: Path, before: int) -> list[EpochHistory]:
    """Lines of the epochs that the checkpoint knows; later ones will be trained again."""
    if before == 0 or not path.exists():
        return []
    lines = [EpochHistory.model_validate(json.loads(text)) for text in path.read_text(encoding="utf-8").splitlines()]
    return lines[:before]
