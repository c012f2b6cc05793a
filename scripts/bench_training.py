"""What a training step costs: the whole loop against the bare network, the augmentation alone, and nnU-Net's own step.

All ratios come from one run, in which the candidates take turns, so that other load on the machine hits all of them.

    python scripts/bench_training.py                                    on phantoms, planned here
    python scripts/bench_training.py WORKSPACE -c 3d_fullres --seconds 60
    python scripts/bench_training.py WORKSPACE --against-nnunet VENV --features 32 --batch 9
    python scripts/bench_training.py --augmentation                     bench_augmentation.py afterwards

VENV is the folder of a virtual environment with nnU-Net v2: its network, loss, optimiser and transforms run there, in
float32 and in torch's ordinary memory layout, as nnU-Net trains on a CPU.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import torch
from nnunet_process import start_nnunet
from rich.console import Console
from rich.table import Table

from autoseg.imaging.arrays.storage import open_case
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import choose_device, keep_freed_memory, use_precision
from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.records.budget import Budget
from autoseg.records.files import read_record
from autoseg.records.plan import Configuration, Plan, Splits
from autoseg.records.workspace import Workspace
from autoseg.testing import write_phantom_dataset
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import TRAINING_STREAM, Batch, BatchStream
from autoseg.training.data.loading import build_loader, default_workers, training_cases
from autoseg.training.steps.loop import train_epoch
from autoseg.training.steps.run import Clock, StepSettings, TrainingRun
from autoseg.training.steps.setup import build_initial_network, start_run

SECONDS_PER_TURN = 2.0
"""Steps of one candidate in a row: enough for a waiting share, few enough for other load to hit all alike."""

MIN_TURNS = 3

STEPS_PER_EPOCH = 250
"""nnU-Net's, for the seconds of an epoch."""

RAM_BYTES = 2**32

Row = tuple[str, str, str]
"""What, its value, and what it is compared with."""


def main() -> None:
    """Measure what the options ask for, and print one table."""
    options = _parse_options()
    keep_freed_memory()
    device = choose_device(options.device)
    title = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    table = Table("what", "value", "compared", title=title)
    with _open_workspace(options.workspace, device) as workspace:
        bench = Bench(workspace, options.configuration, device, options.precision)
        table.caption = bench.caption()
        rows = [*bench.measure_loop(options.seconds), *bench.measure_loader()]
        if options.against_nnunet is not None:
            features = options.features or bench.configuration.network.features[0]
            batch_size = options.batch or bench.configuration.batch_size
            rows += bench.compare_with_nnunet(options.against_nnunet, features, batch_size, options.seconds)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.augmentation:
        subprocess.run([sys.executable, Path(__file__).with_name("bench_augmentation.py")], check=True)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, nargs="?", help="planned and preprocessed; none: phantoms are made")
    parser.add_argument("-c", "--configuration", help="of the plan; its first one otherwise")
    parser.add_argument("--seconds", type=float, default=30.0, help="per comparison (%(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--augmentation", action="store_true", help="run bench_augmentation.py as well")
    parser.add_argument("--against-nnunet", type=Path, metavar="VENV", help="compare the step with nnU-Net's, 3D only")
    parser.add_argument("--features", type=int, help="against nnU-Net: at full resolution, doubled from level to level")
    parser.add_argument("--batch", type=int, help="against nnU-Net: samples")
    return parser.parse_args()


class Bench:
    """One configuration of a workspace on one device."""

    def __init__(self, workspace: Workspace, name: str | None, device: torch.device, precision: str) -> None:
        """Read the plan, and keep the cases of the first fold open."""
        self.plan = read_record(Plan, workspace.plan)
        self.name = name or next(iter(self.plan.configurations))
        self.configuration = self.plan.configurations[self.name]
        if self.configuration.previous_configuration is not None:
            raise SystemExit(f"{self.name} is the second stage of a cascade; measure another configuration with -c")
        folder = workspace.preprocessed(self.configuration.preprocessed_as)
        training = read_record(Splits, workspace.splits).folds[0].training
        self.cases = {case: open_case(folder, case) for case in training}
        self.device, self.precision = device, use_precision(precision, device)

    def caption(self) -> str:
        """What is measured."""
        network = self.configuration.network
        patch = " x ".join(map(str, self.configuration.patch_size))
        return (
            f"{self.plan.dataset_name}, {self.name}: {network.architecture} {network.features}, patch {patch}, batch "
            f"{self.configuration.batch_size}, {self.precision}"
        )

    def measure_loop(self, seconds: float) -> Iterator[Row]:
        """The whole loop, with the real loader, against the bare step on noise that lies in memory."""
        run, workers = self._start(self.configuration), default_workers(self.device)
        with closing(self._batches(workers)) as batches:
            bare = _bare_step(run, self.configuration)
            steps = max(1, round(SECONDS_PER_TURN / min(self._timed(bare, 1) for _ in range(3))))
            clock, waited = Clock(total_steps=10**9, limit_seconds=None), []
            run.spec = run.spec.model_copy(update={"steps_per_epoch": steps})

            def loop() -> None:
                waited.append(train_epoch(run, batches, clock, lambda _step: None).data_wait_fraction)

            loop()
            whole, alone = _take_turns([lambda: self._timed(loop, 1), lambda: self._timed(bare, steps)], seconds)
        ratio = statistics.median(one / other for one, other in zip(whole, alone, strict=True))
        step_seconds = statistics.median(whole) / steps
        yield "bare step, noise on the device", f"{steps / statistics.median(alone):.2f} steps/s", ""
        yield "whole loop, real batches", f"{1 / step_seconds:.2f} steps/s", f"{ratio:.3f} x the bare step's time"
        yield "waiting for data", f"{statistics.median(waited[1:]):.1%}", f"of the loop; {workers} workers"
        yield f"{STEPS_PER_EPOCH} steps", f"{STEPS_PER_EPOCH * step_seconds:.1f} s", f"{len(whole)} turns of {steps}"
        if self.device.type == "cuda":
            yield "device busy", f"{1 - statistics.median(waited[1:]):.1%}", ""

    def measure_loader(self) -> Iterator[Row]:
        """Samples per second that one core reads and augments."""
        with closing(self._batches(0)) as batches:
            seconds = [self._timed(lambda: next(batches), 1) for _ in range(30)]
        rate = self.configuration.batch_size / statistics.mean(seconds[5:])
        yield "reading and augmentation, one process", f"{rate:.1f} samples/s", ""

    def compare_with_nnunet(self, venv: Path, features: int, batch_size: int, seconds: float) -> Iterator[Row]:
        """The bare step against nnU-Net's, same network, patch and batch; the loader against its transforms."""
        network = self.configuration.network
        if network.dimensions != 3 or network.architecture != "unet":
            raise SystemExit(f"{self.name} is not a plain 3D U-Net; measure another configuration with -c")
        doubled = tuple(min(features * 2**level, 320) for level in range(len(network.features)))
        network = network.model_copy(update={"features": doubled})
        configuration = self.configuration.model_copy(update={"network": network, "batch_size": batch_size})
        bare = _bare_step(self._start(configuration), configuration)
        with start_nnunet(venv, configuration) as their, closing(self._batches(0)) as batches:
            self._timed(bare, 1), their("step")
            ours, theirs = _take_turns([lambda: self._timed(bare, 1), lambda: their("step")], seconds)
            draw = [lambda: self._timed(lambda: next(batches), 1), lambda: their("sample")]
            drawn, made = _take_turns(draw, SECONDS_PER_TURN)
        ratio = statistics.median(other / one for one, other in zip(ours, theirs, strict=True))
        yield f"step, {features} features, batch {batch_size}", f"{statistics.median(ours):.3f} s", ""
        yield "nnU-Net's step", f"{statistics.median(theirs):.3f} s", f"{ratio:.2f} x ours"
        own, other = statistics.mean(drawn[2:]) / self.configuration.batch_size, statistics.mean(made[2:])
        yield "nnU-Net's transforms, one process", f"{1 / other:.1f} samples/s", f"{other / own:.2f} x our time"

    def _start(self, configuration: Configuration) -> TrainingRun:
        network = build_initial_network(configuration, 0)
        return start_run(network, configuration, self.plan.encoding, StepSettings(self.device, self.precision))

    def _batches(self, workers: int) -> Generator[Batch, None, None]:
        cases = training_cases(self.cases, self.plan.encoding, ram_bytes=RAM_BYTES)
        """Made as in training, which leaves most of the augmentation to a GPU."""
        on_device = device_type(self.device).is_gpu
        stream = BatchStream(seed=(0, TRAINING_STREAM), rules=AugmentationRules(), intensity_on_device=on_device)
        return build_loader(cases, self.configuration, self.plan.encoding, stream, workers=workers)

    def _timed(self, work: Callable[[], object], times: int) -> float:
        """Seconds, until the device has done everything."""
        began = time.perf_counter()
        for _ in range(times):
            work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began


def _bare_step(run: TrainingRun, configuration: Configuration) -> Callable[[], None]:
    """The same network, loss and optimiser on one batch of noise that is on the device already."""
    shape = (configuration.batch_size, *configuration.patch_size)
    image = torch.randn(shape[0], configuration.network.input_channels, *shape[1:], device=run.settings.device)
    image = image.contiguous(memory_format=run.layout)
    target = torch.randint(0, len(run.encoding.values), shape, device=run.settings.device)

    def step() -> None:
        run.training_call.train()
        run.optimizer.zero_grad(set_to_none=True)
        with run.autocast():
            outputs = run.training_call(image)
        run.scaler.scale(run.loss(outputs, target)).backward()
        run.scaler.unscale_(run.optimizer)
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), run.spec.gradient_clip)
        run.scaler.step(run.optimizer)
        run.scaler.update()

    return step


def _take_turns(candidates: Sequence[Callable[[], float]], seconds: float) -> list[list[float]]:
    """Let the candidates take turns for so long; what each turn gave, by candidate."""
    took: list[list[float]] = [[] for _ in candidates]
    end = time.perf_counter() + seconds
    while len(took[0]) < MIN_TURNS or time.perf_counter() < end:
        for measured, candidate in zip(took, candidates, strict=True):
            measured.append(candidate())
    return took


@contextmanager
def _open_workspace(folder: Path | None, device: torch.device) -> Iterator[Workspace]:
    """The given one, or one with phantoms that is gone afterwards."""
    if folder is not None:
        yield Workspace(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        dataset, workspace = Path(temporary) / "phantoms", Workspace(Path(temporary) / "workspace")
        write_phantom_dataset(dataset, training=10, held_out=0)
        kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
        budget = Budget(device=kind, time_per_fold_seconds=600.0, configurations=("3d_fullres",))
        plan_dataset(dataset, workspace, budget, PlanningOptions())
        yield workspace


if __name__ == "__main__":
    main()
