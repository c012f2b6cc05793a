"""Where the host waits for the GPU although it could give it the next work."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.steps.loop import train_epoch, validate_epoch
from gpu_checks.machine import Machine
from gpu_checks.made_up import ENDLESS, ignore_step, large_configuration, ready_batches, rules_of, start, with_schedule
from gpu_checks.results import Finding, Findings, at_most

STEPS = 8
VALIDATION_STEPS = 4
MAX_WAITS_PER_VALIDATION = 2
"""The losses of all batches, and the counts of all labels, are read at its end."""


def check_waits(machine: Machine) -> Findings:
    """Count what torch calls synchronising in an epoch; the event that a step's loss waits for is none of them."""
    machine.need_cuda()
    schedule = {"steps_per_epoch": STEPS, "validation_steps": VALIDATION_STEPS}
    configuration = with_schedule(large_configuration(machine), **schedule)
    run = start(machine, configuration, machine.fast_precision, tuned=False)
    run.augmentation = build_device_augmentation(configuration, rules_of(1.0))
    batches, others = ready_batches(configuration), ready_batches(configuration, for_validation=True)
    for _ in range(2):  # tables are made, memory is reserved
        train_epoch(run, batches, ENDLESS, ignore_step)
        validate_epoch(run, others, ENDLESS)
    training = _count_waits(lambda: train_epoch(run, batches, ENDLESS, ignore_step))
    validation = _count_waits(lambda: validate_epoch(run, others, ENDLESS))
    return [
        at_most(f"waits in {STEPS} training steps", training.total(), 0),
        at_most(f"waits in a validation of {VALIDATION_STEPS} batches", validation.total(), MAX_WAITS_PER_VALIDATION),
        *(Finding(f"waits at {place}", number) for place, number in (training + validation).most_common()),
    ]


def _count_waits(work: Callable[[], object]) -> Counter[str]:
    """How often the host waited, by file and line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
    return Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits)
