"""Memory and time of a training step, and time of a prediction, with a full head and with point heads of both strides.

Patch, batch and width are those of a planned configuration for all of them, so the workspace may have any head. Each
head is measured in a process of its own, on noise. On a CPU memory is the growth of the resident set up to its peak,
large tensors mapped by themselves, and time that of the processor, so that other programs do not count; on a GPU memory
is what torch allocated.

    python scripts/bench_heads.py acdc.autoseg -c 3d_fullres
    python scripts/bench_heads.py kvasir.autoseg -c 2d --steps 5 --batch-size 2

Dice of the same heads within a budget comes from bench_accuracy.py:

    python scripts/bench_accuracy.py points.autoseg Dataset027_ACDC --budget 10min --configurations 3d_fullres \
        -- --planner-option head=points
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from autoseg.costs.architectures import forward_macs
from autoseg.costs.memory import count_saved_elements, estimate_training_memory_bytes
from autoseg.networks.devices import choose_device, choose_dtype, synchronize
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import read_record
from autoseg.records.network import MIN_LEVELS, NetworkSpec
from autoseg.records.plan import Configuration, Plan
from autoseg.records.workspace import Workspace
from autoseg.training.steps.gradients import compute_gradients
from autoseg.training.steps.run import StepSettings
from autoseg.training.steps.setup import build_initial_network, start_run
from planners.heads import find_coarse_level

MMAP_BYTES = "65536"
"""Size from which the C library maps memory by itself, and gives it back; its ordinary heap leaves holes."""


class Measured(NamedTuple):
    """What one head costs."""

    peak_bytes: int
    step_seconds: float
    prediction_seconds: float


def main() -> None:
    """Measure every head, print one table."""
    options = _read_options()
    plan = read_record(Plan, Workspace(options.workspace).plan)
    name = options.configuration or next(iter(plan.configurations))
    configuration = plan.configurations[name]
    if options.batch_size:
        configuration = configuration.model_copy(update={"batch_size": options.batch_size})
    os.environ["MALLOC_MMAP_THRESHOLD_"] = MMAP_BYTES  # for the processes that measure
    table = Table("head", "kept, million", "estimate, MB", "measured, MB", "GMAC", "step, s", "prediction, s")
    for words, network in _list_networks(configuration.network, plan.encoding).items():
        changed = configuration.model_copy(update={"network": network})
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(_measure, (changed, plan.encoding, options.device, options.steps))
        table.add_row(words, *_describe(changed, measured, mixed=choose_dtype("auto", choose_device(options.device))))
    patch = " x ".join(map(str, configuration.patch_size))
    Console(width=120).print(f"{plan.dataset_name}, {name}, patch {patch}, batch {configuration.batch_size}", table)


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="planned; nothing in it changes")
    parser.add_argument("-c", "--configuration", help="of the plan; its first one otherwise")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not (%(default)s)")
    parser.add_argument("--batch-size", type=int, help="default: the plan's")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def _list_networks(network: NetworkSpec, encoding: LabelEncoding) -> dict[str, NetworkSpec]:
    """The network with each head that its levels allow."""
    nothing = {"head": "full", "coarse_level": 0, "independent_heads": False}
    networks = {"full": network.model_copy(update=nothing)}
    for stride in (2, 4):
        level = find_coarse_level(network.strides, stride)
        if level <= len(network.features) - MIN_LEVELS:
            points = {"head": "points", "coarse_level": level, "independent_heads": encoding.activation == "sigmoid"}
            networks[f"points, stride {stride}"] = network.model_copy(update=points)
    return networks


def _measure(configuration: Configuration, encoding: LabelEncoding, device_name: str, steps: int) -> Measured:
    device = choose_device(device_name)
    network = build_initial_network(configuration, seed=0)
    run = start_run(network, configuration, encoding, StepSettings(device, choose_dtype("auto", device)))
    shape = (configuration.batch_size, configuration.network.input_channels, *configuration.patch_size)
    image = torch.randn(shape).to(device).contiguous(memory_format=run.layout)
    target = torch.randint(len(encoding.values), (shape[0], *shape[2:])).to(device)
    before, seconds = _peak_bytes(device), []
    now: Callable[[], float] = time.process_time if device.type == "cpu" else time.perf_counter
    run.training_call.train()
    for _ in range(steps + 1):
        began = now()
        compute_gradients(run, image, target, progress=0.0)
        run.optimizer.step()
        synchronize(device)
        seconds.append(now() - began)
        run.step += 1
    peak = _peak_bytes(device) - before
    run.network.eval()
    with torch.inference_mode(), run.autocast():
        run.network(image[:1])
        began = now()
        run.network(image[:1])
        synchronize(device)
    return Measured(peak, statistics.median(seconds[1:]), now() - began)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _describe(configuration: Configuration, measured: Measured, *, mixed: torch.dtype) -> tuple[str, ...]:
    network, patch, batch = configuration.network, configuration.patch_size, configuration.batch_size
    estimate = estimate_training_memory_bytes(
        network, patch, batch, mixed_precision=mixed != torch.float32, optimizer=configuration.training.optimizer
    )
    return (
        f"{batch * count_saved_elements(network, patch) / 1e6:.0f}",
        f"{estimate / 1e6:.0f}",
        f"{measured.peak_bytes / 1e6:.0f}",
        f"{forward_macs(network, patch) / 1e9:.1f}",
        f"{measured.step_seconds:.2f}",
        f"{measured.prediction_seconds:.2f}",
    )


if __name__ == "__main__":
    main()
