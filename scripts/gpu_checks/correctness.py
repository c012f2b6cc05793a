"""Does it work at all: versions, every network in every precision, and the numbers of the CPU."""

import itertools
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from autoseg.costs.architectures import ARCHITECTURES
from autoseg.networks.build import build_network
from autoseg.networks.devices import describe_faulty_versions, use_precision, why_no_gpu
from autoseg.records.network import Architecture, NormalizationSpec
from autoseg.records.plan import Configuration
from autoseg.system import free_disk_bytes
from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.invented_data import measured_configuration
from autoseg.training.steps.loop import train_epoch, validate_epoch
from autoseg.training.steps.run import TrainingRun
from gpu_checks.machine import CPU, Machine
from gpu_checks.made_up import (
    ENDLESS,
    LABELS,
    REGIONS,
    ignore_step,
    large_configuration,
    ready_batches,
    rules_of,
    start,
    with_schedule,
)
from gpu_checks.results import Finding, Findings, at_most, must_be

SHARED_MEMORY = Path("/dev/shm")  # looked at, not written to
MAX_LOSS_DIFFERENCE = 1e-3
"""Between CPU and GPU after a few steps in float32: sums in another order."""

MAX_OTHER_LABELS = {"tf32": 1e-2, "bf16": 3e-2, "fp16": 1e-2}
"""Fraction of voxels of an untrained network, whose classes nearly tie, that get another label in fewer bits."""

COMPARED_STEPS = 4


def check_environment(machine: Machine) -> Findings:
    """Show what a support request needs, and versions that are known to be wrong."""
    planners = entry_points(group="autoseg.planners")
    found = [
        Finding("python", platform.python_version()),
        Finding("torch", torch.__version__),
        Finding("CUDA of torch", torch.version.cuda or "none"),
        Finding("cores", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0),
        Finding("SimpleITK", _version_of("SimpleITK")),
        Finding("triton", _version_of("triton")),
        must_be("planners", is_so=bool(planners), aim="installed", value=", ".join(sorted(p.name for p in planners))),
    ]
    if SHARED_MEMORY.is_dir():
        found.append(Finding("free shared memory", free_disk_bytes(SHARED_MEMORY) / 1e9, "GB"))
    return found + (_describe_gpu(machine) if machine.has_cuda else [Finding("GPU", why_no_gpu() or "not asked for")])


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _describe_gpu(machine: Machine) -> Findings:
    free, total = torch.cuda.mem_get_info(machine.device)
    capability = torch.cuda.get_device_capability(machine.device)
    fault = describe_faulty_versions(machine.device)
    return [
        Finding("GPU", torch.cuda.get_device_name(machine.device)),
        Finding("compute capability", ".".join(map(str, capability))),
        Finding("memory", total / 1e9, "GB"),
        Finding("free memory", free / 1e9, "GB"),
        Finding("cuDNN", torch.backends.cudnn.version() or 0),  # type: ignore[no-untyped-call]
        must_be("versions", is_so=not fault, aim="no known faults", value=fault),
    ]


def check_networks(machine: Machine) -> Findings:
    """Train and validate every network in two and three dimensions in every precision, with all augmentation."""
    faults, count = [], 0
    kinds = [
        (name, number)
        for name, description in ARCHITECTURES.items()
        for number in description.dimensions
        if description.build_small is not None  # networks of other packages are not known here
    ]
    for (architecture, number), precision in itertools.product(kinds, machine.precisions):
        for optimizer, encoding in (("sgd", LABELS), ("adamw", REGIONS)):
            configuration = with_schedule(_small(number, architecture), optimizer=optimizer, steps_per_epoch=2)
            run = start(machine, configuration, precision, encoding=encoding, tuned=False)
            run.augmentation = build_device_augmentation(configuration, rules_of(1.0))
            count += 1
            if not _trains_and_validates(run, configuration):
                faults.append(f"{architecture} {number}D {precision} {optimizer}")
    return [
        Finding("trainings", count),
        must_be("losses", is_so=not faults, aim="all finite", value=f"not finite: {', '.join(faults)}" * bool(faults)),
    ]


def _small(dimensions: Literal[2, 3], architecture: Architecture) -> Configuration:
    configuration = measured_configuration(dimensions, 8, architecture)
    changes = {
        "patch_size": (32, 32, 32) if dimensions == 3 else (64, 64),
        "normalization": (NormalizationSpec(scheme="zscore", use_mask=True),),
    }
    return configuration.model_copy(update=changes)


def _trains_and_validates(run: TrainingRun, configuration: Configuration) -> bool:
    trained = train_epoch(run, ready_batches(configuration), ENDLESS, ignore_step).mean_loss
    validated, _ = validate_epoch(run, ready_batches(configuration, for_validation=True), ENDLESS)
    return all(loss is not None and math.isfinite(loss) for loss in (trained, validated))


def check_first_steps(machine: Machine) -> Findings:
    """Compare the losses of the first steps in float32, augmentation included, with those of the CPU."""
    exact = _first_losses(Machine(CPU, machine.folder), "fp32")
    found = []
    for precision in machine.precisions:
        losses = _first_losses(machine, precision)
        difference = max(abs(one - other) for one, other in zip(losses, exact, strict=True))
        name = f"largest difference of a loss, {precision}"
        found.append(
            at_most(name, difference, MAX_LOSS_DIFFERENCE) if precision == "fp32" else Finding(name, difference)
        )
    return found


def _first_losses(machine: Machine, precision: str) -> list[float]:
    configuration = with_schedule(_small(3, "unet"), optimizer="sgd", steps_per_epoch=1, learning_rate=1e-3)
    run = start(machine, configuration, precision, tuned=False)
    # noise is drawn by the device's own generator, and so is another one
    run.augmentation = build_device_augmentation(configuration, rules_of(1.0, noise_probability=0.0))
    batches = ready_batches(configuration)
    losses = [train_epoch(run, batches, ENDLESS, ignore_step).mean_loss for _ in range(COMPARED_STEPS)]
    return [math.nan if loss is None else loss for loss in losses]


@torch.inference_mode()
def check_precisions(machine: Machine) -> Findings:
    """Compare the logits of a window in fewer bits with those in float32."""
    configuration = large_configuration(machine)
    torch.manual_seed(0)
    network = build_network(configuration.network, deep_supervision=False).to(machine.device).eval()
    window = torch.randn(1, 1, *configuration.patch_size).to(machine.device)
    exact = _logits(machine, network, window, "fp32")
    found = [must_be("logits in fp32", is_so=bool(torch.isfinite(exact).all()), aim="all finite")]
    for precision in machine.precisions[1:]:
        logits = _logits(machine, network, window, precision)
        others = float((logits.argmax(1) != exact.argmax(1)).float().mean())
        found.append(Finding(f"largest difference of a logit, {precision}", float((logits - exact).abs().max())))
        found.append(at_most(f"fraction of other labels, {precision}", others, MAX_OTHER_LABELS[precision]))
    use_precision("fp32", machine.device)
    return found


def _logits(machine: Machine, network: torch.nn.Module, window: Tensor, precision: str) -> Tensor:
    dtype = use_precision(precision, machine.device)
    with torch.autocast(machine.device.type, dtype, enabled=dtype != torch.float32):
        logits: Tensor = network(window)
    return logits.float()
