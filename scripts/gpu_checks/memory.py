"""Memory of the device: over many epochs, when there is too little, and against what plans say."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from autoseg.costs.memory import estimate_gpu_bytes
from autoseg.networks.devices import check_device_works, is_out_of_memory
from autoseg.records.budget import Budget
from autoseg.records.case import Spacing, Triple
from autoseg.records.plan import Configuration
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint
from autoseg.training.steps.loop import train_epoch, validate_epoch
from gpu_checks.machine import Machine
from gpu_checks.made_up import ENDLESS, ignore_step, large_configuration, ready_batches, start, with_schedule
from gpu_checks.results import Finding, Findings, at_most, must_be
from gpu_checks.steps import bare_step

EPOCHS, FIRST_EPOCHS = 24, 2
MAX_GROWTH = 1.1
"""Reserved memory after all epochs, relative to that after the first ones."""

SMALL_FRACTION = 0.01
"""Fraction of the device's memory that is left to a training that cannot fit."""

MAX_ESTIMATE_ERROR = 0.15
MAX_FRACTION_OF_FREE = 0.8
"""Estimated memory of a plan that is measured, relative to the free memory of the device."""


@dataclass(frozen=True)
class PlannedCase:
    """One plan whose memory is measured."""

    name: str
    planner: str
    configuration: Literal["2d", "3d_fullres"]
    spacing: Spacing
    shape: Triple
    channels: int = 1
    gigabytes: float | None = None
    """Memory to plan for; None: the planner's own."""


CUBE, CUBE_SPACING = (240, 240, 240), (1.5, 1.5, 1.5)
SLICES, SLICE_SPACING = (24, 320, 320), (6.0, 0.8, 0.8)
PLANNED = (
    PlannedCase("unet 3D", "unet", "3d_fullres", CUBE_SPACING, CUBE),
    PlannedCase("unet 3D, thick slices, 4 channels", "unet", "3d_fullres", SLICE_SPACING, SLICES, channels=4),
    PlannedCase("unet 2D", "unet", "2d", SLICE_SPACING, SLICES),
    PlannedCase("resenc-m 3D", "resenc-m", "3d_fullres", CUBE_SPACING, CUBE),
    PlannedCase("resenc-l 3D", "resenc-l", "3d_fullres", CUBE_SPACING, CUBE),
    PlannedCase("unext 3D", "unext", "3d_fullres", CUBE_SPACING, CUBE),
)


def check_epochs(machine: Machine) -> Findings:
    """Find out whether memory stays reserved for nothing as epochs follow each other."""
    machine.need_cuda()
    configuration = with_schedule(large_configuration(machine, channels=4), steps_per_epoch=2)
    run = start(machine, configuration, machine.fast_precision, tuned=False)
    batches, others = ready_batches(configuration), ready_batches(configuration, for_validation=True)
    reserved = []
    for epoch in range(EPOCHS):
        train_epoch(run, batches, ENDLESS, ignore_step)
        validate_epoch(run, others, ENDLESS)
        if epoch + 1 in (FIRST_EPOCHS, EPOCHS):
            reserved.append(torch.cuda.memory_reserved(machine.device) / 1e9)
    return [
        Finding(f"reserved after {FIRST_EPOCHS} epochs", reserved[0], "GB"),
        at_most(f"reserved after {EPOCHS} epochs", reserved[1], MAX_GROWTH * reserved[0], "GB"),
    ]


def check_too_little_memory(machine: Machine) -> Findings:
    """Train with a hundredth of the memory: it ends with an error that is known to be one of memory."""
    machine.need_cuda()
    configuration = with_schedule(large_configuration(machine), steps_per_epoch=1)
    machine.start_peak()
    torch.cuda.set_per_process_memory_fraction(SMALL_FRACTION)
    try:
        error = _error_of(lambda: _train_an_epoch(machine, configuration))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        machine.start_peak()
    check_device_works(machine.device)
    if error is None:
        return [Finding("ends with", "nothing: it fitted, perhaps with smaller parts of batches")]
    text = f"{type(error).__name__}: {error}"[:200]
    return [
        must_be("ends with", is_so=is_out_of_memory(error), aim="an error of memory", value=text),
        must_be("device works afterwards", is_so=True, aim="yes"),
    ]


def _train_an_epoch(machine: Machine, configuration: Configuration) -> None:
    run = start(machine, configuration, machine.fast_precision, tuned=False)
    train_epoch(run, ready_batches(configuration), ENDLESS, ignore_step)


def _error_of(work: Callable[[], None]) -> Exception | None:
    """What `work` raises."""
    try:
        work()
    except Exception as error:  # noqa: BLE001  # which error it is, is what is asked
        return error.with_traceback(None)  # the traceback holds tensors
    return None


def check_estimates(machine: Machine) -> Findings:
    """Measure the memory of a training step of six plans against what the plan says."""
    machine.need_cuda()
    free_gigabytes = torch.cuda.mem_get_info(machine.device)[0] / 1e9
    found = []
    for planned in PLANNED:
        configuration = plan_configuration(planned)
        estimated = (configuration.estimates.training_memory_bytes or math.nan) / 1e9
        found.append(Finding(f"{planned.name}, estimated", estimated, "GB"))
        if estimated < MAX_FRACTION_OF_FREE * free_gigabytes:
            found += _measure_plan(machine, planned.name, configuration, estimated)
    return found


def _measure_plan(machine: Machine, name: str, configuration: Configuration, estimated: float) -> Findings:
    machine.start_peak()
    step = bare_step(machine, with_schedule(configuration))  # no average of weights, which no estimate counts
    for _ in range(2):  # the optimiser's states come into being in the first one
        step()
    measured = machine.peak_tensor_gigabytes()
    free, total = torch.cuda.mem_get_info(machine.device)
    driver, expected = (total - free) / 1e9, estimate_gpu_bytes(round(1e9 * estimated)) / 1e9
    return [
        Finding(f"{name}, measured", measured, "GB"),
        at_most(f"{name}, error of the estimate", abs(estimated / measured - 1), MAX_ESTIMATE_ERROR),
        Finding(f"{name}, of the GPU, estimated", expected, "GB"),
        Finding(f"{name}, of the GPU, by its driver", driver, "GB"),
        at_most(f"{name}, of the GPU, error", abs(expected / driver - 1), MAX_ESTIMATE_ERROR),
    ]


def plan_configuration(planned: PlannedCase) -> Configuration:
    """Plan cases that do not exist for a GPU."""
    channels = tuple(f"MR{number}" for number in range(planned.channels))
    cases = 40
    fingerprint = synthetic_fingerprint(
        [planned.spacing] * cases, [planned.shape] * cases, channel_names=channels, label_values=(0, 1, 2)
    )
    budget = Budget(device="cuda", configurations=(planned.configuration,), memory_gigabytes=planned.gigabytes)
    return make_plan(fingerprint, budget, planned.planner).configurations[planned.configuration]
