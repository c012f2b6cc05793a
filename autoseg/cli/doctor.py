"""`autoseg doctor`: what works on this machine."""

import argparse
from pathlib import Path

from autoseg.cli.options import add_device, add_shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg doctor`."""
    parser.add_argument(
        "--measure-speed",
        type=Path,
        default=None,
        metavar="FILE",
        help="measure training steps (about 10 s) and write the result as JSON",
    )
    add_device(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print versions and resources; measure when asked."""
    from autoseg.cli.machine import save_throughput
    from autoseg.cli.main import DONE

    if arguments.measure_speed is None:
        _print_machine(arguments.device)
        return DONE
    from autoseg.training.probe import measure_training_speed

    throughput = measure_training_speed(arguments.device)
    save_throughput(throughput, arguments.measure_speed)
    for point in throughput:
        rate = point.macs_per_second / 1e9
        print(f"{point.dimensions}D network of {point.base_features} features: {rate:.1f} GMAC/s in training")
    return DONE


def _print_machine(device_name: str) -> None:
    import platform
    import shutil
    from importlib.metadata import version

    import torch

    from autoseg.cli.machine import core_count, gpu_memory_gigabytes
    from autoseg.networks.devices import choose_device, choose_dtype

    device = choose_device(device_name)
    memory = gpu_memory_gigabytes()
    rows = {
        "autoseg": version("autoseg"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        "cores": str(core_count()),
        "GPU": "none found" if memory is None else f"{memory:.1f} GB",
        "device used": str(device),
        "precision used": str(choose_dtype("auto", device)).removeprefix("torch."),
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB",
    }
    for name, value in rows.items():
        print(f"{name:>15}  {value}")
