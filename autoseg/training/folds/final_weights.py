"""Which weights a fold keeps: those of the last step, or their moving average."""

import copy
import logging
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from autoseg.training.data.batch import Batch
from autoseg.training.data.feeding import DeviceFeed
from autoseg.training.steps.averaging import WeightAverage
from autoseg.training.steps.loop import Clock, TrainingRun, agree, predict_patches
from autoseg.training.steps.pseudo_dice import PseudoDice, mean_dice

logger = logging.getLogger("autoseg.train")

MIN_BATCHES = 20
"""Compared on fewer, small labels would decide by chance."""


def averaged_weights(run: TrainingRun) -> dict[str, Tensor]:
    """The moving average, where there is one; else the weights of the last step."""
    return run.network.state_dict() if run.average is None else run.average.weights()


def choose_final_weights(
    run: TrainingRun, batches: Iterator[Batch] | None, end: Clock
) -> tuple[Literal["last", "average"], dict[str, Tensor]]:
    """Compare last and averaged weights on the same validation patches and keep the better.

    The mean pseudo-Dice decides; where it is equal, or no label was seen, the average stays.

    Args:
        run: At the end of its training; `stopped` is set when a stop was asked for meanwhile.
        batches: Validation patches; None: there are no validation cases, and the average stays untested.
        end: When the comparison has to be over; one batch is compared in any case.

    Returns:
        Which, and the weights.

    References:
        Own rule. An average of weights is better than the last ones while the learning rate is high (Polyak and
        Juditsky 1992); at the end of a schedule that falls to zero either may win.
    """
    if run.average is None:
        return "last", run.network.state_dict()
    if batches is None:
        return "average", run.average.weights()
    last, average = _compare(run, run.average, batches, end)
    logger.info("validation patches: Dice %s with the last weights, %s with their average", _text(last), _text(average))
    if last is not None and average is not None and last > average:
        return "last", run.network.state_dict()
    return "average", run.average.weights()


@torch.inference_mode()
def _compare(
    run: TrainingRun, average: WeightAverage, batches: Iterator[Batch], end: Clock
) -> tuple[float | None, float | None]:
    """Mean pseudo-Dice of the last and of the averaged weights."""
    averaged = copy.deepcopy(run.network)
    averaged.load_state_dict(average.weights())
    networks = (run.network.eval(), averaged.eval())
    counts = (PseudoDice(run.encoding), PseudoDice(run.encoding))
    feed = DeviceFeed(batches, run.device)
    for _ in range(max(run.spec.validation_steps, MIN_BATCHES)):
        batch = feed.take()
        for network, count in zip(networks, counts, strict=True):
            count.add(predict_patches(run, network, batch.image), batch.target)
        progress = agree(run, end)
        if run.stopped.is_set() or (end.limit_seconds is not None and progress >= 1.0):
            break
    for count in counts:
        count.sum_over(run.ranks)
    return mean_dice(counts[0].dice()), mean_dice(counts[1].dice())


def _text(dice: float | None) -> str:
    return "unknown" if dice is None else f"{dice:.4f}"
