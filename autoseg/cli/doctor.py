"""`autoseg doctor`: versions, devices, memory, optional packages and, on request, speed of this machine."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from autoseg import DISTRIBUTION
from autoseg.cli.options import add_device, add_shared

if TYPE_CHECKING:
    from autoseg.records.budget import Throughput
    from autoseg.records.network import Architecture


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
    add_device(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print versions and resources, or measure speed when asked."""
    from autoseg.cli.main import DONE
    from autoseg.errors import UsageError

    if arguments.measure_speed is None:
        if arguments.architectures:
            raise UsageError("--architectures says what --measure-speed measures; add --measure-speed FILE")
        _print_machine(arguments.device)
        return DONE
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.records.budget import MeasuredThroughput
    from autoseg.records.files import write_record
    from autoseg.training.probe import measure_training_speed

    keep_freed_memory()  # as training does
    throughput = []
    for point in measure_training_speed(arguments.device, _read_architectures(arguments.architectures)):
        throughput.append(point)
        print(_describe_speed(point), flush=True)
    write_record(MeasuredThroughput(throughput=tuple(throughput)), arguments.measure_speed)
    return DONE


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


def _print_machine(device_name: str) -> None:
    import platform

    import torch

    from autoseg.networks.devices import choose_device, choose_dtype
    from autoseg.system import free_disk_bytes, gpu_memory_gigabytes

    device = choose_device(device_name)
    memory = gpu_memory_gigabytes()
    rows = {
        "autoseg": version(DISTRIBUTION),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        "cores": _describe_cores(),
        "memory": _describe_memory(),
        "GPU": "none found" if memory is None else f"{memory:.1f} GB",
        "device used": str(device),
        "precision used": str(choose_dtype("auto", device)).removeprefix("torch."),
        "free disk here": f"{free_disk_bytes(Path.cwd()) / 1e9:.0f} GB",
    }
    rows |= {f"extra {name}": _describe_extra(name, packages) for name, packages in _read_extras().items()}
    for name, value in rows.items():
        print(f"{name:>15}  {value}")


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
