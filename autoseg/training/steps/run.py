"""The moving parts of one fold's training, and the clock that says how far it is.

Tested in tests/training/steps/test_loop.py.
"""

import threading
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoseg.costs.runs import relative_cost
from autoseg.networks.device_types import Stream
from autoseg.networks.threads import ThreadChoice, own_threads
from autoseg.records.checkpoint import CompilingTrial
from autoseg.records.dataset import LabelEncoding
from autoseg.records.training import GrowingPatch, TrainingSpec
from autoseg.training.data.augmentation.on_device import DeviceAugmentation
from autoseg.training.data.growth import find_growing_patch
from autoseg.training.distributed import Ranks
from autoseg.training.losses import SegmentationLoss
from autoseg.training.losses.objects import ObjectLoss
from autoseg.training.steps.averaging import WeightAverage
from autoseg.training.steps.foreground import ForegroundWatch
from autoseg.training.steps.optimizer import learning_rate


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

    def remaining_seconds(self, step: int, training: TrainingSpec) -> float | None:
        """Training seconds still to come, if the rest goes as fast as before; None at the very start.

        Where steps decide, those of patches that have grown take longer, as the schedule estimates.
        """
        if self.limit_seconds is not None:
            return max(self.limit_seconds - self.elapsed(), 0.0)
        done = relative_cost(training, self.progress(step))
        return self.elapsed() * (relative_cost(training) - done) / done if done > 0.0 else None


@dataclass(frozen=True)
class StepSettings:
    """How training steps are computed."""

    device: torch.device
    precision: torch.dtype
    """Type of autocast; float32: none."""
    ranks: Ranks = field(default_factory=Ranks)
    """Processes that share each batch; the default is this one alone."""
    compiled: bool | None = False
    """Whether the network's training call is compiled; None: if a trial shows that it is earned back."""
    steps_left: int = 0
    """Number of optimiser steps that remain, for that trial."""
    seconds_left: float | None = None
    """Training time that remains where it was promised, for that trial; None: the steps decide."""
    threads: ThreadChoice = field(default_factory=own_threads)
    """Threads of the processor that compute; the default leaves torch's own number."""
    seed: int = 0
    """Seed of what is drawn within steps, with their number and that of the process."""


@dataclass(frozen=True)
class MemorySaving:
    """What a training step does to need less memory, at the price of time."""

    recompute: bool = False
    """Whether activations are computed again in the backward pass instead of being kept."""
    samples: int | None = None
    """Samples that go through the network at a time; None: the whole batch."""


@dataclass
class TrainingRun:
    """The moving parts of one fold's training; made by `start_run`."""

    network: nn.Module
    """Owns the weights; its state dict is what checkpoints hold."""
    training_call: nn.Module
    """The network as a training step calls it: compiled, in parallel with other processes, or as it is. Of a network
    that finds objects the network with its loss."""
    loss: SegmentationLoss | ObjectLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Active in fp16 only."""
    average: WeightAverage | None
    augmentation: DeviceAugmentation | None
    """What the loader leaves to a GPU; None on a CPU, where the loader does all of it."""
    spec: TrainingSpec
    encoding: LabelEncoding
    settings: StepSettings
    layout: torch.memory_format
    """Memory layout of the network, and of the images that it gets."""
    copy_stream: Stream | None = None
    """Stream of a GPU that copies batches while it computes; None on a device without streams."""
    foreground: ForegroundWatch = field(init=False)
    """Whether foreground is predicted at all."""
    rate_factor: float = 1.0
    """Factor on the learning rate of the schedule, after a restart."""
    schedule_start: float = 0.0
    """Progress at which the schedule began, after a restart."""
    saving: MemorySaving = field(default_factory=MemorySaving)
    """Grows when the device's memory turns out too small."""
    compiling: CompilingTrial | None = None
    """What was decided about compiling; None: nothing was measured."""
    step: int = 0
    """Optimiser steps done."""
    progress: float = 0.0
    """Fraction of the training that was done when all processes agreed on it last."""
    bad_steps: int = 0
    """Number of the last steps in a row that were not finite."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set from outside (a signal) to stop after the current step."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set when all processes have agreed to stop."""

    def __post_init__(self) -> None:
        self.foreground = ForegroundWatch(self.encoding)

    def learning_rate(self, progress: float) -> float:
        """Rate of the next step.

        Args:
            progress: Fraction of the whole training that is done, [0, 1].
        """
        of_schedule = (progress - self.schedule_start) / (1.0 - self.schedule_start)
        return self.rate_factor * learning_rate(of_schedule, self.spec)

    def find_labels(self, target: Tensor) -> Tensor:
        """Label indices of a target, (B, *S); where the network finds objects the target has their codes."""
        return target % len(self.encoding.values) if isinstance(self.loss, ObjectLoss) else target

    @property
    def kept_network(self) -> nn.Module:
        """The network that is validated and kept: the one with averaged weights where there is an average."""
        return self.network if self.average is None else self.average.network

    def agree(self, clock: Clock) -> float:
        """The first process's progress, for all; a stop asked of any process stops all of them."""
        progress, stop = self.settings.ranks.agree(clock.progress(self.step), stop=self.stop.is_set())
        if stop:
            self.stopped.set()
        self.progress = progress
        return progress

    def choose_patch(self, clock: Clock, number: int) -> GrowingPatch | None:
        """The smaller patch of a batch, while patches grow: by its number, or by the clock where time decides."""
        progress = clock.progress(number) if clock.limit_seconds is None else self.progress
        return find_growing_patch(self.spec, progress)

    def autocast(self) -> torch.autocast:
        """A context in which networks compute in the training's precision."""
        precision = self.settings.precision
        return torch.autocast(self.settings.device.type, precision, enabled=precision != torch.float32)
