"""`autoseg doctor`: what works on this machine and what does not, faults of a workspace and, on request, speed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from autoseg import DISTRIBUTION
from autoseg.cli.options import add_device, add_json, add_shared, add_workers

if TYPE_CHECKING:
    from autoseg.records.budget import MeasuredThroughput, Throughput
    from autoseg.records.diagnosis import Diagnosis
    from autoseg.records.network import Architecture

MIN_SHARED_BYTES = 1e9
"""Free shared memory in bytes below which the doctor warns; containers have 64 MB unless they are told otherwise."""

MIN_DISK_SPEED = 50e6
"""Bytes a second below which the doctor calls a disk slow."""

MAX_START_SECONDS = 10.0
"""Start of a worker process in seconds above which the doctor calls it slow; local disks need 1 to 3 s."""


GZIP_SECONDS = 0.3
"""Duration of the measurement of gzip's speed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg doctor`."""
    parser.add_argument(
        "--measure-speed",
        type=Path,
        default=None,
        metavar="FILE",
        help="measure training and prediction (about 5 s per architecture) and write the result as JSON",
    )
    parser.add_argument(
        "--architectures",
        nargs="+",
        default=(),
        metavar="NAME",
        help="kinds of networks that --measure-speed measures (default: all; an unknown name lists them)",
    )
    parser.add_argument(
        "workspace", type=Path, nargs="?", default=None, metavar="WORKSPACE",
        help="look at its disk, its preprocessed cases and its locks too",
    )  # fmt: skip
    parser.add_argument(
        "--repair", action="store_true",
        help="preprocess damaged cases of WORKSPACE again, and remove locks and temporary files of processes "
        "that do not run any more",
    )  # fmt: skip
    add_device(parser)
    add_workers(parser)
    add_json(parser, "what was found or measured")
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print versions and resources, or measure speed when asked."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import print_json, printing_apart
    from autoseg.errors import UsageError

    if arguments.measure_speed is None and arguments.architectures:
        raise UsageError("--architectures says what --measure-speed measures; add --measure-speed FILE")
    if arguments.measure_speed is None and arguments.repair and arguments.workspace is None:
        raise UsageError("--repair needs the workspace: autoseg doctor WORKSPACE --repair")
    code = DONE
    found: Diagnosis | MeasuredThroughput
    with printing_apart(as_json=arguments.json):
        if arguments.measure_speed is None:
            found = diagnosis = _examine(arguments)
            code = DONE if diagnosis.is_sound else SOME_FAILED
        else:
            found = _measure_speed(arguments)
    if arguments.json:
        print_json(found)
    return code


def _examine(arguments: argparse.Namespace) -> Diagnosis:
    """Print versions and resources, and what is wrong with the workspace, if one is given."""
    from autoseg.cli.doctor_workspace import examine_workspace
    from autoseg.records.diagnosis import Diagnosis

    machine = _describe_machine(arguments.device, arguments.workspace or Path.cwd())
    _print_machine(machine)
    workspace = None if arguments.workspace is None else examine_workspace(arguments)
    return Diagnosis(machine=machine, workspace=workspace)


def _measure_speed(arguments: argparse.Namespace) -> MeasuredThroughput:
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.records.budget import MeasuredThroughput
    from autoseg.records.files import write_record
    from autoseg.training.probe import measure_training_speed

    keep_freed_memory()  # as training does
    throughput = []
    for point in measure_training_speed(arguments.device, _read_architectures(arguments.architectures)):
        throughput.append(point)
        print(_describe_speed(point), flush=True)
    measured = MeasuredThroughput(throughput=tuple(throughput))
    write_record(measured, arguments.measure_speed)
    return measured


def _describe_speed(point: Throughput) -> str:
    from autoseg.costs.architectures import ARCHITECTURES

    network = f"{point.dimensions}D {ARCHITECTURES[point.architecture].words} of {point.base_features} features"
    training = f"{network}: {point.macs_per_second / 1e9:.1f} GMAC/s in training"
    prediction = point.prediction_macs_per_second
    return training if prediction is None else f"{training}, {prediction / 1e9:.1f} in prediction"


def _read_architectures(names: Sequence[str]) -> tuple[Architecture, ...]:
    from autoseg.errors import UsageError
    from autoseg.records.network import Architecture

    known: tuple[Architecture, ...] = get_args(Architecture)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--architectures {' '.join(unknown)}: unknown; there are {', '.join(known)}")
    return tuple(name for name in known if name in names) or known


def _describe_machine(device_name: str, folder: Path) -> dict[str, str]:
    """Rows of the table, by name."""
    import platform

    import torch

    from autoseg.networks.devices import choose_device, choose_dtype
    from autoseg.system import free_disk_bytes

    device = choose_device(device_name)
    rows = {
        "autoseg": version(DISTRIBUTION),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        "cores": _describe_cores(),
        "memory": _describe_memory(),
        "GPU": _describe_gpu(device_name),
        "device used": str(device),
        "precision used": str(choose_dtype("auto", device)).removeprefix("torch."),
        "shared memory": _describe_shared_memory(),
        "free disk here": f"{free_disk_bytes(folder) / 1e9:.0f} GB",
        "disk speed here": _describe_disk_speed(folder),
        "gzip": _describe_gzip(),
        "worker start": _describe_worker_start(),
        "versions": "; ".join(_find_version_faults()) or "fit together",
    }
    return rows | {f"extra {name}": _describe_extra(name, packages) for name, packages in _read_extras().items()}


def _print_machine(machine: dict[str, str]) -> None:
    for name, value in machine.items():
        print(f"{name:>15}  {value}")


def _describe_gpu(device_name: str) -> str:
    """What the driver says of a GPU, and what torch can do with it."""
    import torch

    from autoseg.networks.devices import choose_device, describe_faulty_versions, why_no_gpu
    from autoseg.system import gpu_driver, gpu_memory_gigabytes, gpu_name
    from autoseg.training.probe import describe_torch_device

    device = choose_device(device_name)
    if device.type in ("mps", "xpu"):
        fault = describe_faulty_versions(device)
        parts = [describe_torch_device(device_name), "autoseg was never run on this type of device", fault]
        return "; ".join(part for part in parts if part)
    index = device.index or 0
    memory = gpu_memory_gigabytes(index)
    if memory is None:
        return "none found"
    driver = f"{memory:.1f} GB, {gpu_name(index)}, driver {gpu_driver(index)}"
    if reason := why_no_gpu():
        return f"{driver}; torch cannot use it: {reason}. Install the torch that fits this driver (pytorch.org)"
    major, minor = torch.cuda.get_device_capability(index)
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()  # type: ignore[no-untyped-call]
    libraries = [
        f"compute capability {major}.{minor}",
        f"cuDNN {cudnn}",
        f"NCCL {'.'.join(map(str, nccl))}" if nccl else "no NCCL",
        "Triton" if find_spec("triton") else "no Triton, so nothing is compiled",
    ]
    fault = describe_faulty_versions(torch.device("cuda", index))
    return "; ".join([driver, ", ".join(libraries), *([fault] if fault else [])])


def _describe_shared_memory() -> str:
    from autoseg.system import SHARED_MEMORY, free_disk_bytes

    if not SHARED_MEMORY.is_dir():
        return "not limited"
    free = free_disk_bytes(SHARED_MEMORY)
    small = "; too small for training on several GPUs at once: start the container with --shm-size 8g"
    return f"{free / 1e9:.1f} GB free in {SHARED_MEMORY}{small if free < MIN_SHARED_BYTES else ''}"


def _describe_disk_speed(folder: Path) -> str:
    from autoseg.system import measure_disk_speed

    try:
        speed = measure_disk_speed(folder)
    except OSError as error:
        return f"not measured: {error}"
    slow = "; slow: training waits for patches of cases that do not fit into memory; use a local disk (plan -w)"
    return f"writes {speed / 1e6:.0f} MB/s{slow if speed < MIN_DISK_SPEED else ''}"


def _describe_worker_start() -> str:
    from autoseg.system import measure_worker_start

    seconds = measure_worker_start()
    slow = "; slow: Python and its packages may lie on a network drive; install them on a local disk"
    return f"{seconds:.1f} s{slow if seconds > MAX_START_SECONDS else ''}"


def _find_version_faults() -> list[str]:
    """Packages that are missing or older than this distribution needs, and whether torch and numpy fit together."""
    import numpy as np
    import torch
    from packaging.requirements import Requirement

    faults = []
    for text in requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            faults.append(f"{requirement.name} is missing, {requirement} is needed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            faults.append(f"{requirement.name} {found} is installed, {requirement} is needed")
    try:
        torch.from_numpy(np.zeros(1))
    except RuntimeError as error:
        faults.append(f"torch {torch.__version__} cannot use numpy {np.__version__} ({error}); install a newer torch")
    return faults


def _describe_cores() -> str:
    import os

    from autoseg.system import container_core_limit, count_cores

    limit = container_core_limit()
    container = "" if limit is None else f"; the container has the time of {limit:g}"
    return f"{count_cores()} usable of {os.cpu_count()}{container}"


def _describe_memory() -> str:
    from autoseg.system import container_memory_limit, measure_available_memory, measure_total_memory

    available, limit = measure_available_memory(), container_memory_limit()
    free = "" if available is None else f", {available / 1e9:.1f} GB available"
    container = "" if limit is None else f"; the container may use {limit / 1e9:.1f} GB"
    return f"{measure_total_memory() / 1e9:.1f} GB{free}{container}"


def _describe_gzip() -> str:
    """Speed of writing .nii.gz files, which are most of the time of reading and writing volumes."""
    import tempfile
    import time
    from importlib.util import find_spec

    import numpy as np

    from autoseg.imaging.formats.gzip_files import open_gzip

    labels = np.repeat(np.random.default_rng(0).integers(0, 3, 2**16).astype(np.uint8), 16).tobytes()  # in runs
    written, began = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, open_gzip(Path(folder) / "labels.gz") as stream:
        while time.perf_counter() - began < GZIP_SECONDS:
            written += stream.write(labels)
    rate = written / (time.perf_counter() - began)
    return f"label maps are written with {rate / 1e6:.0f} MB/s ({'zlib' if find_spec('isal') is None else 'ISA-L'})"


def _read_extras() -> dict[str, list[str]]:
    """Packages of each optional part of the distribution, without the one for tests."""
    extras: dict[str, list[str]] = {}
    for requirement in requires(DISTRIBUTION) or ():
        match = re.fullmatch(r"""([\w.-]+).*;.*\bextra == ["']([\w-]+)["'].*""", requirement)
        if match is not None and match[2] != "test":
            extras.setdefault(match[2], []).append(match[1])
    return extras


def _describe_extra(name: str, packages: Sequence[str]) -> str:
    """Versions of the packages that are found, and how those that are missing are installed."""
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        hint = f"missing: {', '.join(missing)} (pip install '.[{name}]' in the clone)"
        return "; ".join([*([", ".join(found)] if found else []), hint])
    return ", ".join(found)
