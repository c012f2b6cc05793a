"""How fast this machine trains and predicts, for plans that depend on it: measured once, and kept for the next plan.

A measurement takes ten seconds to a minute, so it is kept in the user's folder of caches, in a file for each machine:
processor, threads, GPU and the versions of autoseg and torch. It is made again when the file is damaged, or when the
machine is clearly busier or quieter than it was then, which the load of other programs and the time of a fixed matrix
product tell. torch is loaded in a process of its own, so that planning stays light.
"""

import argparse
import hashlib
import logging
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from autoseg import DISTRIBUTION
from autoseg.cli.planning_request import PlanningDevice, find_workspace
from autoseg.core_load import MIN_LOAD, measure_others_load
from autoseg.costs.architectures import ARCHITECTURES
from autoseg.errors import RecordError, UsageError
from autoseg.pipeline import PlanningOptions
from autoseg.plugins import find_architectures, find_planner, find_tried_architectures
from autoseg.progress import Progress, ProgressBar, no_bar, no_progress
from autoseg.records.budget import Budget, KeptSpeed, MeasuredMachine, MeasuredThroughput, Throughput
from autoseg.records.files import read_record, scratch_folder, write_record
from autoseg.records.network import Architecture
from autoseg.records.plan import Plan
from autoseg.records.trials import Trials
from autoseg.system import (
    count_cores,
    count_threads,
    find_installed_weights,
    gpu_busy_fraction,
    gpu_name,
    processor_name,
    user_cache_folder,
)

logger = logging.getLogger("autoseg.plan")

MAX_LOAD_RATIO = 2.0
"""Ratio of the times of the matrix product, now and then, from which the machine is another one. Plans follow the speed
slowly (half of it is one network level or a fraction of the steps less), and what other programs do changes by the
minute."""

MAX_LOAD_CHANGE = 0.3
"""Difference of the fractions of the cores that other programs use from which it is measured again."""

LOAD_SECONDS = 0.2
"""Time in which the load of other programs is measured."""

MAX_GPU_BUSY_CHANGE = 0.3
"""Difference of the fractions of time in which a GPU works for others from which it is measured again."""

_PRODUCT_SIZE = 768
"""Rows and columns of the matrices: a product of 8 ms on one core, too large for its caches."""

_PRODUCT_SECONDS = 0.15
"""Time that products are repeated for."""

_POINTS_PER_DIMENSION = 2
"""Networks that are measured for an architecture and a number of axes."""


def add_speed(
    budget: Budget,
    options: PlanningOptions,
    device: PlanningDevice,
    arguments: argparse.Namespace,
    *,
    bar: ProgressBar = no_bar,
) -> Budget:
    """Add the speed of training and prediction when the plan depends on it; measures it where it is not known.

    A workspace that was planned with the same budget keeps its measurement: the plan comes out the same, and what was
    trained stays valid. Where nothing is trained yet, it is measured again if the machine is clearly busier or quieter
    than it was then.

    Args:
        budget: Budget of `read_request`.
        options: Options of `read_request`.
        device: Device of `read_request`.
        arguments: Options of the command.
        bar: Progress display.

    Returns:
        The budget with the device's speed, where a limit of time needs it and it can be known.

    Raises:
        UsageError: If the measurement fails.
    """
    if options.keep_plan:
        return budget
    if budget.device != "cpu" and budget.time_per_fold_seconds is None and budget.latency_seconds is None:
        return budget
    has_trials = options.trial_seconds is not None
    architectures: Sequence[Architecture] = find_architectures(find_planner(options.planner), budget)
    if has_trials:
        installed = budget.model_copy(update={"installed_weights": find_installed_weights()})
        architectures = find_tried_architectures(options.planner, installed)
    architectures = [name for name in architectures if ARCHITECTURES[name].build_small is not None]
    earlier = None if arguments.measure_again else _earlier_budget(arguments, of_trials=has_trials)
    known = set() if earlier is None else {point.architecture for point in earlier.throughput}
    found_later = {"throughput": (), "installed_weights": (), "external_networks": (), "finds_objects": False}
    is_same = earlier is not None and earlier.model_copy(update=found_later) == budget and known >= set(architectures)
    if (
        earlier is not None
        and is_same
        and (find_workspace(arguments).has_training or not _is_outdated(earlier, device))
    ):
        logger.info("keeping the speed measured for the earlier plan (--measure-again measures it again)")
        return earlier
    if not architectures:  # other packages' networks, each of which is measured by itself
        return budget
    if not device.is_here:
        logger.info("there is no GPU here that can be measured: its speed is assumed")
        return budget
    throughput = find_speed(device, architectures, measure_again=arguments.measure_again, bar=bar)
    return budget.model_copy(update={"throughput": throughput})


def _is_outdated(earlier: Budget, device: PlanningDevice) -> bool:
    """Whether the speed of an earlier plan is the one that is kept, and the machine is busier or quieter by now."""
    machine = _describe_machine(device)
    path = _file_of(machine)
    if path is None or not path.exists() or not device.is_here:
        return False
    try:
        kept = read_record(KeptSpeed, path)
    except RecordError:  # whoever uses it says so, and measures
        return False
    is_same = kept.machine == machine and all(point in kept.throughput for point in earlier.throughput)
    return is_same and bool(_describe_change(kept, _describe_moment(machine, device)))


def _earlier_budget(arguments: argparse.Namespace, *, of_trials: bool) -> Budget | None:

    workspace = find_workspace(arguments)
    try:
        if of_trials:  # the plan that they led to names the winner's configuration alone
            return read_record(Trials, workspace.trials_record).budget if workspace.trials_record.exists() else None
        return read_record(Plan, workspace.plan).budget if workspace.plan.exists() else None
    except RecordError as error:  # planning replaces it
        logger.info("the earlier plan cannot be read and is replaced: %s", error)
        return None


def find_speed(
    device: PlanningDevice, architectures: Sequence[Architecture], *, measure_again: bool = False, bar: ProgressBar
) -> tuple[Throughput, ...]:
    """Give the kept speed of these architectures; measure those that are not known, and keep them.

    Args:
        device: Device that is here.
        architectures: Architectures that the plan may use.
        measure_again: Whether what was kept is replaced.
        bar: Progress display.

    Raises:
        UsageError: If the measurement fails.
    """
    machine = _describe_machine(device)
    path = _file_of(machine)
    now = _describe_moment(machine, device)
    kept = None if measure_again or path is None else _read_kept(path, now)
    points = () if kept is None else kept.throughput
    known = {point.architecture for point in points}
    missing = [name for name in architectures if name not in known]
    if missing:
        logger.info("measuring the speed of training and prediction (%s)", ", ".join(missing))
        if device.kind == "cpu" and now.others_load >= MIN_LOAD:
            logger.warning(
                "warning: other programs use %.1f of %d cores: the speed is measured beside them, and the plan is made "
                "for what they leave. End them and plan again, if training is to have the whole machine.",
                now.others_load, count_cores(),
            )  # fmt: skip
        with bar("measuring") as progress, scratch_folder("speed") as folder:
            points += measure_throughput(device.name, missing, folder, progress)
        _keep(now.model_copy(update={"throughput": points}), path)
    elif kept is not None:
        logger.info("using the speed measured on %s (--measure-again measures it again)", _describe_time(kept))
    return tuple(point for point in points if point.architecture in architectures)


def _describe_moment(machine: MeasuredMachine, device: PlanningDevice) -> KeptSpeed:
    """How busy the machine is now, without its speed."""
    return KeptSpeed(
        machine=machine,
        measured=datetime.now().astimezone().isoformat(timespec="minutes"),
        others_load=measure_others_load(LOAD_SECONDS) or 0.0,
        product_seconds=time_product(),
        gpu_busy_fraction=gpu_busy_fraction(device.gpu_index) if device.kind == "cuda" else None,
        throughput=(),
        has_large_patches=True,
    )


def _describe_machine(device: PlanningDevice) -> MeasuredMachine:
    is_gpu = device.kind == "cuda"
    return MeasuredMachine(
        autoseg=version(DISTRIBUTION),
        torch=version("torch"),
        processor=processor_name(),
        threads=count_threads(),
        device=f"{gpu_name(device.gpu_index)}, cuda:{device.gpu_index}" if is_gpu else "cpu",
    )


def _file_of(machine: MeasuredMachine) -> Path | None:
    """File that keeps the speed of a machine; machines that share a home have files of their own."""
    folder = user_cache_folder()
    key = hashlib.blake2b(machine.model_dump_json().encode(), digest_size=6).hexdigest()
    return None if folder is None else folder / "autoseg" / f"speed_{key}.json"


def time_product() -> float:
    """Seconds of a fixed matrix product without disturbance by others, which tells how fast the processor is now."""
    matrix = np.random.default_rng(0).standard_normal((_PRODUCT_SIZE, _PRODUCT_SIZE), dtype=np.float32)
    end, shortest = time.monotonic() + _PRODUCT_SECONDS, math.inf
    with threadpool_limits(1):  # several would wait for each other
        while time.monotonic() < end or math.isinf(shortest):
            began = time.perf_counter()
            np.matmul(matrix, matrix)
            shortest = min(shortest, time.perf_counter() - began)
    return shortest


def _read_kept(path: Path, now: KeptSpeed) -> KeptSpeed | None:
    """What was kept, if it is sound and the machine is about as busy as it was then; else says why not."""
    if not path.exists():
        return None
    try:
        kept = read_record(KeptSpeed, path)
    except RecordError as error:
        logger.info("the kept speed is damaged and is measured again: %s", str(error).splitlines()[0])
        return None
    if now.machine.device != "cpu" and not kept.has_large_patches:
        logger.info("%s is the speed of small patches alone, of an older version, and is measured again", path)
        return None
    if kept.machine != now.machine:
        logger.info("%s is the speed of another machine or version and is measured again", path)
        return None
    change = _describe_change(kept, now)
    if change:
        logger.info("%s than when its speed was measured on %s: measuring again", change, _describe_time(kept))
        return None
    return kept


def _describe_change(kept: KeptSpeed, now: KeptSpeed) -> str:
    """How much busier or quieter the machine is now; empty where it is about the same."""
    cores = count_cores()
    if now.machine.device == "cpu" and abs(now.others_load - kept.others_load) > MAX_LOAD_CHANGE * cores:
        word = "busier" if now.others_load > kept.others_load else "quieter"
        return f"the machine is {word} (others use {now.others_load:.1f} of {cores} cores, {kept.others_load:.1f} then)"
    ratio = now.product_seconds / kept.product_seconds
    if not 1 / MAX_LOAD_RATIO < ratio < MAX_LOAD_RATIO:
        factor = f"{max(ratio, 1 / ratio):.1f} times"
        return f"the machine is slower (a product takes {factor} as long)" if ratio > 1 else (
            f"the machine is faster (a product took {factor} as long)"
        )  # fmt: skip
    then, busy = kept.gpu_busy_fraction, now.gpu_busy_fraction
    if then is not None and busy is not None and abs(busy - then) > MAX_GPU_BUSY_CHANGE:
        return f"the GPU is {'busier' if busy > then else 'quieter'} ({busy:.0%} of the time, {then:.0%} then)"
    return ""


def _describe_time(kept: KeptSpeed) -> str:
    return kept.measured[:16].replace("T", " at ")


def _keep(speed: KeptSpeed, path: Path | None) -> None:
    """Write the measurement; a folder that cannot be written is no reason to stop."""
    if path is None:
        logger.info("the measured speed is not kept: this user has no home")
        return
    try:
        write_record(speed, path)
    except OSError as error:
        logger.info("the measured speed is not kept: %s cannot be written: %s", path, error)


def measure_throughput(
    device: str, architectures: Sequence[Architecture], folder: Path, progress: Progress = no_progress
) -> tuple[Throughput, ...]:
    """Measure the speed of training and prediction in a process of its own, so that planning never loads torch.

    Args:
        device: cpu, cuda or cuda:N.
        architectures: Architectures to be measured.
        folder: Where the measurement's files may lie for a moment.
        progress: Called after each network.

    Raises:
        UsageError: If the measurement fails; the message holds its output.
    """
    result, log = folder / ".throughput.json", folder / ".throughput.log"
    command = [
        sys.executable, "-u", "-m", "autoseg", "doctor",
        "--device", device, "--measure-speed", str(result), "--architectures", *architectures,
    ]  # fmt: skip
    total = _POINTS_PER_DIMENSION * sum(len(ARCHITECTURES[name].dimensions) for name in architectures)
    output = []
    try:
        with log.open("w+", encoding="utf-8") as errors:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
                for line in process.stdout or ():
                    output.append(line)
                    progress(min(len(output), total), total)
            errors.seek(0)
            if process.returncode != 0:
                raise UsageError(f"measuring the speed of {device} failed:\n{''.join(output)}{errors.read()}")
        return read_record(MeasuredThroughput, result).throughput
    finally:
        result.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
