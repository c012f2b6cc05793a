"""Which weights a fold keeps: those of the last step, or their moving average."""

import logging
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from autoseg.training.data.batch import Batch
from autoseg.training.data.device_feed import DeviceFeed
from autoseg.training.steps.pseudo_dice import PseudoDice, mean_dice
from autoseg.training.steps.run import Clock, TrainingRun

logger = logging.getLogger("autoseg.train")

MIN_BATCHES = 20
"""Compared on fewer, small labels would decide by chance."""


def choose_final_weights(
    run: TrainingRun, batches: Iterator[Batch] | None, end: Clock
) -> tuple[Literal["last", "average"], nn.Module]:
    """Compare last and averaged weights on the same validation patches and keep the better.

    The mean pseudo-Dice decides; where it is equal, or no label was seen, the average stays.

    Args:
        run: At the end of its training; `stopped` is set when a stop was requested meanwhile.
        batches: Validation patches; None: there are no validation cases, and the average stays untested.
        end: When the comparison has to be over; one batch is compared in any case.

    Returns:
        Which, and the network that has them.

    References:
        Own rule. An average of weights is better than the last ones while the learning rate is high (Polyak and
        Juditsky 1992); at the end of a schedule that falls to zero either may win.
    """
    if run.average is None:
        return "last", run.network
    if batches is None:
        return "average", run.kept_network
    last, average = _compare(run, (run.network.eval(), run.kept_network.eval()), batches, end)
    logger.info("validation patches: Dice %s with the last weights, %s with their average", _text(last), _text(average))
    if last is not None and average is not None and last > average:
        return "last", run.network
    return "average", run.kept_network


@torch.inference_mode()
def _compare(
    run: TrainingRun, networks: Sequence[nn.Module], batches: Iterator[Batch], end: Clock
) -> list[float | None]:
    """Mean pseudo-Dice of each network on the same patches."""
    counts = [PseudoDice(run.encoding) for _ in networks]
    feed = DeviceFeed(batches, run.settings.device, run.copy_stream, run.layout)
    for _ in range(max(run.spec.validation_steps, MIN_BATCHES)):
        image, target, *_ = feed.take()
        for network, count in zip(networks, counts, strict=True):
            with run.settings.threads.applied(), run.autocast():
                logits: Tensor = network(image)
            count.add(logits, run.find_labels(target))
        progress = run.agree(end)
        if run.stopped.is_set() or (end.limit_seconds is not None and progress >= 1.0):
            break
    for count in counts:
        count.sum_over(run.settings.ranks)
    return [mean_dice(count.dice()) for count in counts]


def _text(dice: float | None) -> str:
    return "unknown" if dice is None else f"{dice:.4f}"
