"""How fast a training step is: by memory layout, compiled, and with everything around it."""

from contextlib import closing
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.costs.architectures import forward_macs, list_operations
from autoseg.networks.blocks import InstanceNormalization
from autoseg.records.plan import Configuration
from autoseg.training.data.loading import default_workers
from autoseg.training.probe import measure_training_speed
from autoseg.training.steps.loop import train_epoch
from autoseg.training.steps.run import TrainingRun
from gpu_checks.machine import Machine
from gpu_checks.made_up import (
    ENDLESS,
    ignore_step,
    large_configuration,
    noise_batches,
    start,
    training_stream,
    with_schedule,
)
from gpu_checks.results import Finding, Findings, SkippedError, at_least, at_most

SECONDS_PER_STEP_MEASUREMENT = 4.0
VOLUME, TINY_VOLUME = (220, 240, 240), (24, 20, 22)
"""A case that batches are drawn from."""

STEPS_PER_EPOCH, TINY_STEPS = 20, 2
MIN_FRACTION_OF_BARE_STEP = 0.95
MAX_WAITING = 0.05
MAX_PROBE_RATIO = 1.5
"""Time of a step that plans take from the measured speeds, augmentation included, relative to that of a bare step."""

AS_TRAINED, BY_SAMPLE = "as trained", "channels last, norm by sample"
LAYOUTS = {
    AS_TRAINED: None, "channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format,
    BY_SAMPLE: torch.channels_last_3d,
}  # fmt: skip
"""Memory layout by its title; None: the one that training chooses."""

MAX_RELATIVE_TIME = 1.05
"""Time of a step in the layout that training chooses, relative to the fastest one."""


@dataclass(frozen=True)
class BareStep:
    """A training step on one batch of noise that lies on the device, without anything around it."""

    run: TrainingRun
    image: Tensor
    target: Tensor

    def __call__(self) -> None:
        """Forward, backward, clipping and update."""
        run = self.run
        run.training_call.train()
        run.optimizer.zero_grad(set_to_none=True)
        with run.autocast():
            outputs = run.training_call(self.image)
        run.scaler.scale(run.loss(outputs, self.target)).backward()
        run.scaler.unscale_(run.optimizer)
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), run.spec.gradient_clip)
        run.scaler.step(run.optimizer)
        run.scaler.update()


def bare_step(
    machine: Machine, configuration: Configuration, layout: torch.memory_format | None = None, *, compiled: bool = False
) -> BareStep:
    """A step in a memory layout; None: the one that training takes."""
    run = start(machine, configuration, machine.fast_precision, compiled=compiled)
    if layout is not None:
        run.network.to(memory_format=layout)  # type: ignore[call-overload]  # knows no layouts
    own = layout or run.layout
    shape = (configuration.batch_size, *configuration.patch_size)
    image = torch.randn(shape[0], configuration.network.input_channels, *shape[1:], device=machine.device)
    target = torch.randint(0, 2, shape, device=machine.device)
    return BareStep(run, image.contiguous(memory_format=own), target)


def check_layouts(machine: Machine) -> Findings:
    """Measure nnU-Net's 3D network, 128 x 128 x 128, batch 2, bf16, in each memory layout."""
    configuration = large_configuration(machine)
    macs = forward_macs(configuration.network, configuration.patch_size) * configuration.batch_size
    found, seconds = [], {}
    for title, layout in LAYOUTS.items():
        forward = _normalize_by_sample if title == BY_SAMPLE else InstanceNormalization.forward
        with mock.patch.object(InstanceNormalization, "forward", forward):
            machine.start_peak()
            step = bare_step(machine, configuration, layout)
            (seconds[title],) = machine.take_turns([step], SECONDS_PER_STEP_MEASUREMENT)
        found.append(Finding(title, 1000 * seconds[title], "ms per step"))
        found.append(Finding(f"{title}, speed", macs / seconds[title] / 1e12, "TMAC/s"))
        if machine.has_cuda:
            found.append(Finding(f"{title}, peak of tensors", machine.peak_tensor_gigabytes(), "GB"))
        del step
    name, relative = "as trained, against the fastest", seconds[AS_TRAINED] / min(seconds.values())
    return [*found, machine.judge(at_most(name, relative, MAX_RELATIVE_TIME, "times"))]


def _normalize_by_sample(norm: InstanceNormalization, features: Tensor) -> Tensor:
    """Instance norm as batch norm of one sample at a time, which keeps channels last in memory."""
    parts = [
        functional.batch_norm(sample, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        for sample in torch.split(features, 1)
    ]
    return torch.cat(parts)


def check_compiled(machine: Machine) -> Findings:
    """Measure the same step compiled, and after how many steps compiling has paid."""
    if not machine.has_gpu:
        raise SkippedError("compiling takes a minute and does not pay on a CPU")
    configuration = large_configuration(machine)
    plain = bare_step(machine, configuration)
    made: list[BareStep] = []
    start_seconds = machine.seconds_of(lambda: made.append(bare_step(machine, configuration, compiled=True)))
    if made[0].run.training_call is made[0].run.network:
        raise SkippedError("torch.compile does not work here; the log says why")
    eager, compiled = machine.take_turns([plain, made[0]], SECONDS_PER_STEP_MEASUREMENT)
    found = [
        Finding("compiling", start_seconds, "s"),
        Finding("step", 1000 * eager, "ms"),
        Finding("compiled step", 1000 * compiled, "ms"),
    ]
    saved = eager - compiled
    return [*found, Finding("pays after", round(start_seconds / saved) if saved > 0 else "never", "steps")]


def check_probe(machine: Machine) -> Findings:
    """Compare what plans for limited time take for a step of a network of nnU-Net's size with what it takes."""
    configuration = large_configuration(machine)
    network, patch = configuration.network, configuration.patch_size
    (seconds,) = machine.take_turns([bare_step(machine, configuration)], SECONDS_PER_STEP_MEASUREMENT)
    macs, operations = forward_macs(network, patch) * configuration.batch_size, len(list_operations(network, patch))
    points = [point for point in measure_training_speed(machine.name, ("unet",)) if point.dimensions == 3]
    widest = max(points, key=lambda point: point.base_features)
    expected = macs / widest.macs_per_second + operations * (widest.seconds_per_operation or 0.0)
    return [
        *(Finding(f"3D, {p.base_features} features", p.macs_per_second / 1e12, "TMAC/s") for p in points),
        Finding("launch of an operation", 1e6 * (widest.seconds_per_operation or 0.0), "microseconds"),
        Finding("step as plans take it", 1000 * expected, "ms"),
        Finding("step", 1000 * seconds, "ms"),
        machine.judge(at_most("as plans take it, against measured", expected / seconds, MAX_PROBE_RATIO, "times")),
    ]


def check_loader(machine: Machine) -> Findings:
    """Train on batches of real workers with one and with four channels, and see how long the device waits."""
    found = []
    for channels in (1, 4):
        seconds, waiting, workers = _measure_loop(machine, large_configuration(machine, channels=channels))
        found.append(Finding(f"{channels} channels", 1000 * seconds, f"ms per step, {workers} workers"))
        name = f"{channels} channels, device waits"
        found.append(machine.judge(at_most(name, waiting, MAX_WAITING)))
    return found


def check_residual_encoder(machine: Machine) -> Findings:
    """Measure the whole loop of the residual encoder M at 128 x 128 x 128, batch 2, bf16 against its bare step."""
    configuration = large_configuration(machine, "residual_unet")
    (bare,) = machine.take_turns([bare_step(machine, configuration)], SECONDS_PER_STEP_MEASUREMENT)
    seconds, waiting, workers = _measure_loop(machine, configuration)
    name, relative = "speed of the loop, against the bare step", bare / seconds
    return [
        Finding("bare step", 1000 * bare, "ms"),
        Finding("step in the loop", 1000 * seconds, f"ms, {workers} workers"),
        Finding("device waits", waiting),
        machine.judge(at_least(name, relative, MIN_FRACTION_OF_BARE_STEP)),
    ]


def _measure_loop(machine: Machine, configuration: Configuration) -> tuple[float, float, int]:
    """Seconds per step, fraction of time that the device waits, and number of workers."""
    workers = default_workers(machine.device)
    steps = TINY_STEPS if machine.is_tiny else STEPS_PER_EPOCH
    run = start(machine, with_schedule(configuration, steps_per_epoch=steps), machine.fast_precision)
    stream = training_stream(has_rest_for_device=machine.has_gpu)
    batches = noise_batches(configuration, stream, TINY_VOLUME if machine.is_tiny else VOLUME, workers)
    waiting: list[float] = []

    def epoch() -> None:
        waiting.append(train_epoch(run, batches, ENDLESS, ignore_step).data_wait_fraction)

    with closing(batches):
        (seconds,) = machine.take_turns([epoch], 2 * SECONDS_PER_STEP_MEASUREMENT)
    measured = waiting[-max(1, len(waiting) // 2) :]  # before, workers still hold batches that were made ahead
    return seconds / steps, sum(measured) / len(measured), workers
