"""One epoch of training and one of validation, and the clock that both obey."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoseg.errors import TrainingError
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import TrainingSpec
from autoseg.training.data.augmentation.on_device import DeviceAugmentation
from autoseg.training.data.batch import Batch
from autoseg.training.data.feeding import DeviceBatch, DeviceFeed
from autoseg.training.distributed import Ranks
from autoseg.training.losses import SegmentationLoss
from autoseg.training.steps.averaging import WeightAverage
from autoseg.training.steps.optimizer import set_learning_rate, step_unless
from autoseg.training.steps.pseudo_dice import PseudoDice
from autoseg.training.steps.schedule import learning_rate

logger = logging.getLogger("autoseg.train")

MAX_CONSECUTIVE_BAD_STEPS = 20
"""Steps with a non-finite loss or gradient in a row before training gives up: one is bad luck, twenty a diagnosis. A
first fp16 scale of 65,536 may be halved 16 times for good reason."""


@dataclass(frozen=True)
class Clock:
    """Progress by time where a time was promised, so that a fold ends when it was promised to; else by steps."""

    total_steps: int
    limit_seconds: float | None
    """Training time allowed, over all resumed runs; None: steps decide."""
    elapsed_before: float = 0.0
    """Training seconds of earlier runs."""
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Training seconds so far, earlier runs included."""
        return self.elapsed_before + time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """Fraction of the training that is done after `step` steps, [0, 1]; 1 means stop."""
        done = step / self.total_steps if self.limit_seconds is None else self.elapsed() / self.limit_seconds
        return min(done, 1.0)

    def remaining_seconds(self, step: int) -> float | None:
        """Training seconds still to come, if the rest goes as fast as before; None at the very start."""
        if self.limit_seconds is not None:
            return max(self.limit_seconds - self.elapsed(), 0.0)
        progress = self.progress(step)
        return self.elapsed() * (1.0 - progress) / progress if progress > 0.0 else None


@dataclass
class TrainingRun:
    """The moving parts of one fold's training; made by `start_run`."""

    network: nn.Module
    """Owns the weights; its state dict is what checkpoints hold."""
    training_call: nn.Module
    """The network as a training step calls it: compiled, in parallel with other processes, or as it is."""
    loss: SegmentationLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Active in fp16 only."""
    average: WeightAverage | None
    spec: TrainingSpec
    encoding: LabelEncoding
    device: torch.device
    precision: torch.dtype
    ranks: Ranks
    augmentation: DeviceAugmentation | None
    """What the loader leaves to the device."""
    step: int = 0
    """Optimiser steps done."""
    bad_steps: int = 0
    """Number of the last steps in a row that were not finite."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set from outside (a signal) to stop after the current step."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set when all processes have agreed to stop."""


@dataclass(frozen=True)
class EpochResult:
    """What one training epoch gives."""

    mean_loss: float | None
    learning_rate: float
    data_wait_fraction: float


@dataclass(frozen=True)
class ValidationResult:
    """What one validation epoch gives."""

    mean_loss: float | None
    pseudo_dice: dict[str, float | None]


@dataclass(frozen=True)
class _QueuedStep:
    """A step whose figures are still on the device, perhaps not yet computed."""

    number: int
    cases: list[str]
    loss_and_norm: Tensor
    """Loss and length of the gradient, (2,)."""


def agree(run: TrainingRun, clock: Clock) -> float:
    """The first process's progress, for all; a stop asked of any process stops all of them."""
    progress, stop = run.ranks.agree(clock.progress(run.step), stop=run.stop.is_set())
    if stop:
        run.stopped.set()
    return progress


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
    feed = DeviceFeed(batches, run.device, run.augmentation)
    most_queued = 1 if run.device.type == "cuda" else 0  # a GPU computes the next step while this one's loss is read
    began, rate = time.monotonic(), 0.0
    losses: list[float] = []
    queued: deque[_QueuedStep] = deque()
    for remaining in reversed(range(run.spec.steps_per_epoch)):
        progress = agree(run, clock)
        if progress >= 1.0 or run.stopped.is_set():
            break
        batch = feed.take()
        rate = learning_rate(progress, run.spec)
        set_learning_rate(run.optimizer, rate)
        queued.append(_queue_step(run, batch, progress))
        run.step += 1
        after_step(run.step)
        if remaining:
            feed.fetch_next()
        while len(queued) > most_queued:
            losses.append(_look_at(run, queued.popleft()))
    losses += [_look_at(run, step) for step in queued]
    waited, seconds = feed.waited_seconds(), max(time.monotonic() - began, 1e-9)
    return EpochResult(mean_loss=_mean(losses), learning_rate=rate, data_wait_fraction=min(waited / seconds, 1.0))


@torch.inference_mode()
def validate_epoch(run: TrainingRun, batches: Iterator[Batch], clock: Clock) -> ValidationResult:
    """Measure the loss and the pseudo-Dice on random patches of the validation cases; one batch at least."""
    run.network.eval()
    feed = DeviceFeed(batches, run.device)
    pseudo_dice = PseudoDice(run.encoding)
    losses: list[Tensor] = []
    progress = agree(run, clock)
    for remaining in reversed(range(run.spec.validation_steps)):
        batch = feed.take()
        logits = predict_patches(run, run.network, batch.image)
        losses.append(run.loss(logits, batch.target, progress=progress))
        pseudo_dice.add(logits, batch.target)
        progress = agree(run, clock)
        if run.stopped.is_set() or (clock.limit_seconds is not None and progress >= 1.0):
            break
        if remaining:
            feed.fetch_next()
    pseudo_dice.sum_over(run.ranks)
    return ValidationResult(mean_loss=_mean(torch.stack(losses).tolist()), pseudo_dice=pseudo_dice.dice())


def predict_patches(run: TrainingRun, network: nn.Module, image: Tensor) -> Tensor:
    """Logits at full resolution, in the training's precision; the network is in evaluation mode."""
    with torch.autocast(run.device.type, run.precision, enabled=run.precision != torch.float32):
        logits: Tensor = network(image)
    return logits


def _queue_step(run: TrainingRun, batch: DeviceBatch, progress: float) -> _QueuedStep:
    """Give the device one optimiser step, which changes nothing when the loss or the gradient is not finite."""
    buffers = [(buffer, buffer.clone()) for buffer in run.network.buffers()]
    run.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(run.device.type, run.precision, enabled=run.precision != torch.float32):
        outputs = run.training_call(batch.image)
    loss = run.loss(outputs, batch.target, progress=progress)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), run.spec.gradient_clip)
    is_bad = ~torch.isfinite(loss.detach() + norm)
    step_unless(is_bad, run.optimizer, run.scaler)
    for buffer, before in buffers:
        _settle_statistics(run, buffer, before, is_bad)
    if run.average is not None:
        run.average.update(run.network)
    return _QueuedStep(run.step, batch.cases, torch.stack((loss.detach(), norm)))


def _settle_statistics(run: TrainingRun, buffer: Tensor, before: Tensor, is_bad: Tensor) -> None:
    """Take back what a bad step did to batch normalisation; the mean over processes, so that all validate the same."""
    buffer.copy_(torch.where(is_bad, before, buffer))
    if run.ranks.count > 1 and buffer.is_floating_point():
        buffer.copy_(run.ranks.sum(buffer) / run.ranks.count)


def _look_at(run: TrainingRun, step: _QueuedStep) -> float:
    """Read a step's loss; say it when the step was skipped, and give up when too many were.

    Raises:
        TrainingError: See `train_epoch`.
    """
    loss, norm = step.loss_and_norm.tolist()
    if math.isfinite(loss + norm):
        run.bad_steps = 0
        return float(loss)
    run.bad_steps += 1
    cases = ", ".join(step.cases) + (" or those of the other processes" if run.ranks.count > 1 else "")
    is_overflow = run.scaler.is_enabled() and math.isfinite(loss)  # the scale was too large, and is smaller now
    level = logging.DEBUG if is_overflow else logging.WARNING
    logger.log(level, "step %d skipped: loss or gradient not finite on cases %s", step.number, cases)
    if run.bad_steps >= MAX_CONSECUTIVE_BAD_STEPS:
        raise TrainingError(
            f"{run.bad_steps} training steps in a row gave a loss or gradient that is not finite, the last on the "
            f"cases {cases}. Look at these images for extreme values, or train with --precision fp32."
        )
    return float(loss)


def _mean(losses: list[float]) -> float | None:
    """Mean of the finite losses; None when there is none."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None
