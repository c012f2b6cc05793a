"""`autoseg doctor`: versions, devices, memory and, on request, speed of this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
    throughput = measure_training_speed(arguments.device, _read_architectures(arguments.architectures))
    write_record(MeasuredThroughput(throughput=throughput), arguments.measure_speed)
    for point in throughput:
        print(_describe_speed(point))
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
    import shutil
    from importlib.metadata import version

    import torch

    from autoseg.networks.devices import choose_device, choose_dtype
    from autoseg.system import count_cores, gpu_memory_gigabytes

    device = choose_device(device_name)
    memory = gpu_memory_gigabytes()
    rows = {
        "autoseg": version(DISTRIBUTION),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        "cores": str(count_cores()),
        "GPU": "none found" if memory is None else f"{memory:.1f} GB",
        "device used": str(device),
        "precision used": str(choose_dtype("auto", device)).removeprefix("torch."),
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB",
    }
    for name, value in rows.items():
        print(f"{name:>15}  {value}")
