"""One epoch of training and one of validation, and the clock that both obey."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoseg.errors import TrainingError
from autoseg.networks.build import build_network
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Configuration, TrainingSpec
from autoseg.training.averaging import WeightAverage
from autoseg.training.batch import Batch
from autoseg.training.losses import SegmentationLoss, build_loss
from autoseg.training.optimizer import build_optimizer, set_learning_rate
from autoseg.training.pseudo_dice import PseudoDice
from autoseg.training.schedule import learning_rate

logger = logging.getLogger("autoseg.train")

MAX_CONSECUTIVE_BAD_STEPS = 20
"""Steps with a non-finite loss or gradient in a row before training gives up: one is bad luck, twenty a diagnosis."""


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
        """Share of the training that is done after `step` steps, [0, 1]; 1 means stop."""
        done = step / self.total_steps if self.limit_seconds is None else self.elapsed() / self.limit_seconds
        return min(done, 1.0)


@dataclass
class TrainingRun:
    """The moving parts of one fold's training."""

    network: nn.Module
    loss: SegmentationLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Active in fp16 only."""
    average: WeightAverage | None
    spec: TrainingSpec
    encoding: LabelEncoding
    device: torch.device
    precision: torch.dtype
    step: int = 0
    """Optimiser steps done."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set from outside (a signal) to stop after the current step."""


def start_run(
    configuration: Configuration,
    spec: TrainingSpec,
    encoding: LabelEncoding,
    device: torch.device,
    precision: torch.dtype,
    *,
    seed: int,
) -> TrainingRun:
    """Build network, loss and optimiser for the first step.

    Args:
        configuration: Describes the network.
        spec: The configuration's schedule, with the user's overrides.
        encoding: Labels of the dataset.
        device: Where to compute.
        precision: Type of autocast; float32: none.
        seed: Of the initial weights.
    """
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # pinned memory belongs to the current device
        torch.backends.cudnn.benchmark = True  # every batch has the same shape
    layout = torch.channels_last_3d if configuration.network.dimensions == 3 else torch.channels_last
    network = build_network(configuration.network, deep_supervision=True)
    network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    num_outputs = len(configuration.network.features) - 1
    return TrainingRun(
        network=network,
        loss=build_loss(encoding, batch_dice=spec.batch_dice, num_outputs=num_outputs),
        optimizer=build_optimizer(network, spec),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        average=None if spec.weight_average_decay is None else WeightAverage(network, spec.weight_average_decay),
        spec=spec,
        encoding=encoding,
        device=device,
        precision=precision,
    )


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
    run.network.train()
    began, waited = time.monotonic(), 0.0
    losses: list[Tensor] = []
    bad_steps, rate = 0, 0.0
    for _ in range(run.spec.steps_per_epoch):
        progress = clock.progress(run.step)
        if progress >= 1.0 or run.stop.is_set():
            break
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        rate = learning_rate(progress, run.spec)
        set_learning_rate(run.optimizer, rate)
        loss = _training_step(run, batch)
        run.step += 1
        after_step(run.step)
        bad_steps = bad_steps + 1 if loss is None else 0
        if loss is not None:
            losses.append(loss)
        elif bad_steps >= MAX_CONSECUTIVE_BAD_STEPS:
            raise TrainingError(
                f"{bad_steps} training steps in a row gave a loss or gradient that is not finite, the last on the "
                f"cases {', '.join(batch['cases'])}. Look at these images for extreme values, or train with "
                "--precision fp32."
            )
    seconds = max(time.monotonic() - began, 1e-9)
    return EpochResult(mean_loss=_mean(losses), learning_rate=rate, data_wait_fraction=min(waited / seconds, 1.0))


@torch.inference_mode()
def validate_epoch(run: TrainingRun, batches: Iterator[Batch], clock: Clock) -> ValidationResult:
    """Measure the loss and the pseudo-Dice on random patches of the validation cases; one batch at least."""
    run.network.eval()
    pseudo_dice = PseudoDice(run.encoding)
    losses: list[Tensor] = []
    for _ in range(run.spec.validation_steps):
        image, target = _to_device(next(batches), run)
        with torch.autocast(run.device.type, run.precision, enabled=run.precision != torch.float32):
            logits = run.network(image)
        losses.append(run.loss(logits, target))
        pseudo_dice.add(logits, target)
        if run.stop.is_set() or (clock.limit_seconds is not None and clock.progress(run.step) >= 1.0):
            break
    return ValidationResult(mean_loss=_mean(losses), pseudo_dice=pseudo_dice.dice())


def _training_step(run: TrainingRun, batch: Batch) -> Tensor | None:
    """Do one optimiser step; give the loss, or None when it was skipped because something was not finite."""
    image, target = _to_device(batch, run)
    run.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(run.device.type, run.precision, enabled=run.precision != torch.float32):
        outputs = run.network(image)
    loss = run.loss(outputs, target)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), run.spec.gradient_clip)
    if not run.scaler.is_enabled() and not bool(torch.isfinite(loss.detach() + norm)):
        logger.warning("step %d skipped: loss or gradient not finite on cases %s", run.step, ", ".join(batch["cases"]))
        return None
    run.scaler.step(run.optimizer)  # skips the step itself when an fp16 gradient overflowed
    run.scaler.update()
    if not bool(torch.isfinite(loss.detach())):
        return None
    if run.average is not None:
        run.average.update(run.network)
    return loss.detach()


def _to_device(batch: Batch, run: TrainingRun) -> tuple[Tensor, Tensor]:
    image, target = torch.from_numpy(batch["image"]), torch.from_numpy(batch["target"])
    if run.device.type == "cuda":
        image, target = image.pin_memory(), target.pin_memory()
    layout = torch.channels_last_3d if image.ndim == 5 else torch.channels_last
    image = image.to(run.device, non_blocking=True, memory_format=layout)
    return image, target.to(run.device, non_blocking=True).long()  # widened there: fewer bytes to copy


def _mean(losses: list[Tensor]) -> float | None:
    """Mean of the finite losses; None when there is none."""
    if not losses:
        return None
    mean = float(torch.stack(losses).float().nanmean())
    return mean if math.isfinite(mean) else None
