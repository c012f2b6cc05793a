"""One epoch of training and one of validation, and the clock that both obey."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.errors import TrainingError
from autoseg.networks.detection.mask_rcnn import MaskRCNN
from autoseg.networks.device_types import Event, device_type
from autoseg.records.training import GrowingPatch
from autoseg.training.data.batch import Batch
from autoseg.training.data.device_feed import DeviceBatch, DeviceFeed
from autoseg.training.losses.objects import ObjectLoss
from autoseg.training.steps.gradients import compute_gradients
from autoseg.training.steps.optimizer import set_learning_rate, step_unless
from autoseg.training.steps.pseudo_dice import PseudoDice
from autoseg.training.steps.run import Clock, TrainingRun

logger = logging.getLogger("autoseg.train")

MAX_CONSECUTIVE_BAD_STEPS = 20
"""Steps with a non-finite loss or gradient in a row before training gives up: one is bad luck, twenty a diagnosis. A
first fp16 scale of 65,536 may be halved 16 times for good reason."""


@dataclass(frozen=True)
class EpochResult:
    """What one training epoch gives."""

    mean_loss: float | None
    learning_rate: float
    data_wait_fraction: float
    patch_size: tuple[int, ...] | None
    """Smaller patch of the last step, while patches grow."""


@dataclass(frozen=True)
class QueuedStep:
    """A step that a GPU has been given, and perhaps not yet computed."""

    number: int
    cases: list[str]
    figures: Tensor
    """Loss and length of the gradient, (2,), on the host; valid after `computed`."""
    computed: Event | None
    """None on a device without streams, where reading them waits."""


def train_epoch(
    run: TrainingRun, batches: Iterator[Batch], clock: Clock, after_step: Callable[[int], None]
) -> EpochResult:
    """Train until the epoch's steps are done, the clock has run out, or a stop is requested.

    Args:
        run: Changed in place.
        batches: One is taken per step.
        clock: Says how far training is.
        after_step: Called with the number of steps done.

    Raises:
        TrainingError: If too many steps in a row have a non-finite loss or gradient.
    """
    run.training_call.train()
    device = run.settings.device
    feed = DeviceFeed(batches, device, run.copy_stream, run.layout, run.augmentation)
    # a GPU computes the next step while this one's loss is read
    max_queued = 1 if device_type(device).has_streams else 0
    began, rate = time.monotonic(), 0.0
    losses: list[float] = []
    queued: deque[QueuedStep] = deque()
    cost, growing = 0.0, None
    while cost < run.spec.steps_per_epoch:
        progress = run.agree(clock)
        if progress >= 1.0 or run.stopped.is_set():
            break
        growing = run.choose_patch(clock, run.step)
        step_cost = _step_cost(growing, clock)
        cost += step_cost
        rate = run.learning_rate(progress)
        set_learning_rate(run.optimizer, rate)
        with run.settings.threads.timed(step_cost):
            batch = feed.take()
            queued.append(_queue_step(run, batch, progress))
            run.step += 1
            after_step(run.step)
            if cost < run.spec.steps_per_epoch:
                feed.fetch_next()
            while len(queued) > max_queued:
                losses.append(_read_loss(run, queued.popleft()))
    losses += [_read_loss(run, step) for step in queued]
    waited, seconds = feed.waited_seconds(), max(time.monotonic() - began, 1e-9)
    return EpochResult(
        mean_loss=_mean(losses),
        learning_rate=rate,
        data_wait_fraction=min(waited / seconds, 1.0),
        patch_size=None if growing is None else growing.patch_size,
    )


def _step_cost(growing: GrowingPatch | None, clock: Clock) -> float:
    """Steps of an epoch that a step counts for; small patches count less where time decides how many there are."""
    return 1.0 if growing is None or clock.limit_seconds is None else growing.cost_fraction


@torch.inference_mode()
def validate_epoch(
    run: TrainingRun, batches: Iterator[Batch], clock: Clock
) -> tuple[float | None, dict[str, float | None]]:
    """Predict random patches of the validation cases with the network that is kept; one batch at least.

    Returns:
        The mean loss, None if no loss was finite; and the pseudo-Dice by label.
    """
    network = run.kept_network.eval()
    feed = DeviceFeed(batches, run.settings.device, run.copy_stream, run.layout)
    pseudo_dice = PseudoDice(run.encoding)
    losses: list[Tensor] = []
    progress = run.agree(clock)
    for remaining in reversed(range(run.spec.validation_steps)):
        batch = feed.take()
        parts = torch.split(batch.image, run.saving.samples or len(batch.image))
        with run.settings.threads.applied(), run.autocast():
            logits = torch.cat([network(part) for part in parts])
            losses.append(_validation_loss(run, network, batch, logits, progress))
        pseudo_dice.add(logits, run.find_labels(batch.target))
        if remaining:
            feed.fetch_next()
        progress = run.agree(clock)
        if run.stopped.is_set() or (clock.limit_seconds is not None and progress >= 1.0):
            break
    pseudo_dice.sum_over(run.settings.ranks)
    return _mean(torch.stack(losses).tolist()), pseudo_dice.dice()


def _validation_loss(
    run: TrainingRun, network: nn.Module, batch: DeviceBatch, logits: Tensor, progress: float
) -> Tensor:
    """The loss of a validation batch; where objects are found none of them means nothing yet, so nobody watches."""
    if isinstance(network, MaskRCNN):
        of_objects: Tensor = ObjectLoss(network)(batch.image, batch.target, progress)
        return of_objects
    run.foreground.add(logits, batch.target)
    return run.loss(logits, batch.target, progress, batch.maps)


def _queue_step(run: TrainingRun, batch: DeviceBatch, progress: float) -> QueuedStep:
    """Give the device one optimiser step, which changes nothing when the loss or the gradient is not finite."""
    buffers = [(buffer, buffer.clone()) for buffer in run.network.buffers()]
    loss = compute_gradients(run, batch.image, batch.target, progress, batch.maps)
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), run.spec.gradient_clip)
    is_bad = ~torch.isfinite(loss + norm)
    step_unless(is_bad, run.optimizer, run.scaler)
    for buffer, before in buffers:
        _settle_statistics(run, buffer, before, is_bad)
    if run.average is not None:
        run.average.update(run.network)
    return _queued_step(run.step, batch.cases, torch.stack((loss, norm)))


def _queued_step(number: int, cases: list[str], figures: Tensor) -> QueuedStep:
    """Let a GPU copy the figures when it has computed them: reading them then waits for this step, not for the next."""
    row = device_type(figures.device)
    if not row.has_streams:
        return QueuedStep(number, cases, figures, None)
    on_host = figures.to("cpu", non_blocking=True)
    computed: Event = row.module.Event()
    computed.record()
    return QueuedStep(number, cases, on_host, computed)


def _settle_statistics(run: TrainingRun, buffer: Tensor, before: Tensor, is_bad: Tensor) -> None:
    """Take back what a bad step did to batch normalisation; the mean over processes, so that all validate the same."""
    buffer.copy_(torch.where(is_bad, before, buffer))
    ranks = run.settings.ranks
    if ranks.count > 1 and buffer.is_floating_point():
        buffer.copy_(ranks.sum(buffer) / ranks.count)


def _read_loss(run: TrainingRun, step: QueuedStep) -> float:
    """Read a step's loss; log that the step was skipped, and give up when too many were.

    Raises:
        TrainingError: See `train_epoch`.
    """
    if step.computed is not None:
        step.computed.synchronize()
    loss, norm = step.figures.tolist()
    if math.isfinite(loss + norm):
        run.bad_steps = 0
        return float(loss)
    run.bad_steps += 1
    names = ", ".join(step.cases) + (" or those of the other processes" if run.settings.ranks.count > 1 else "")
    is_overflow = run.scaler.is_enabled() and math.isfinite(loss)  # the scale was too large, and is smaller now
    level = logging.DEBUG if is_overflow else logging.WARNING
    logger.log(level, "step %d skipped: loss or gradient not finite on cases %s", step.number, names)
    if run.bad_steps >= MAX_CONSECUTIVE_BAD_STEPS:
        raise TrainingError(
            f"{run.bad_steps} training steps in a row gave a loss or gradient that is not finite, the last on the "
            f"cases {names}. Look at these images for extreme values, or train with --precision fp32."
        )
    return float(loss)


def _mean(losses: list[float]) -> float | None:
    """Mean of the finite losses; None when there is none."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None
