"""The commands of a user, one after the other, on volumes made by code; and on real data where that is given."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np

from autoseg.imaging.arrays.storage import open_case
from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.records.budget import Budget, Throughput
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, Splits
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.stages.train import train_fold
from autoseg.testing import write_phantom_dataset
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import TRAINING_STREAM, BatchStream
from autoseg.training.data.loading import build_loader, default_workers, training_cases
from autoseg.training.options import TrainingOptions
from autoseg.training.steps.loop import train_epoch
from gpu_checks.machine import Machine
from gpu_checks.made_up import ENDLESS, ignore_step, start, with_schedule
from gpu_checks.results import Finding, Findings, SkippedError, at_most, must_be

NAME = "3d_fullres"
WORKERS = 2
STEPS, TINY_STEPS = 20, 2
MAX_OTHER_VOXELS = {"fp32": 1e-3, "auto": 5e-3, "bf16": 2e-2}
"""Fraction of voxels of a label map that may differ from the CPU's in float32."""

HIPPOCAMPUS_STEPS = 250
MAX_HIPPOCAMPUS_SECONDS = 3.0
RAM_BYTES = 2**33


def check_end_to_end(machine: Machine) -> Findings:
    """Plan, train with workers, resume, resume on the CPU, and predict phantoms; compare label maps with the CPU's."""
    dataset, workspace = machine.folder / "phantoms", Workspace(machine.folder / "phantoms.autoseg")
    write_phantom_dataset(dataset, training=4 if machine.is_tiny else 6, held_out=1)
    _plan_for_the_cpu(dataset, workspace)
    found = []
    for epochs, device in enumerate((machine.name, machine.name, "cpu", machine.name), start=2):
        checkpoint = train_fold(workspace, NAME, "0", _options(machine, device, epochs))
        wanted = epochs * (TINY_STEPS if machine.is_tiny else STEPS)
        name = f"steps after training up to epoch {epochs} on {device}"
        found.append(must_be(name, is_so=checkpoint.step == wanted, aim=str(wanted), value=str(checkpoint.step)))
    losses = [json.loads(line)["train_loss"] for line in _history(workspace).read_text().splitlines()]
    found.append(Finding("losses by epoch", ", ".join(f"{loss:.3f}" for loss in losses)))
    (image,) = (dataset / "imagesTs").iterdir()
    return found + _compare_predictions(machine, workspace, image)


def _plan_for_the_cpu(dataset: Path, workspace: Workspace) -> None:
    """A plan whose training takes seconds also on a CPU; without a promised time, so that steps decide."""
    speeds = tuple(Throughput(dimensions=number, base_features=8, macs_per_second=1e9) for number in (2, 3))
    budget = Budget(device="cpu", time_per_fold_seconds=60.0, throughput=speeds, configurations=(NAME,))
    plan_dataset(dataset, workspace, budget, PlanningOptions(planner="unet", folds=2))
    plan = read_record(Plan, workspace.plan)
    changes = {"time_per_fold_seconds": None, "mirror_axes": (0, 1, 2), "validation_steps": 2}
    configuration = plan.configurations[NAME]
    training = configuration.training.model_copy(update=changes)
    changed = configuration.model_copy(update={"training": training})
    write_record(plan.model_copy(update={"configurations": {NAME: changed}}), workspace.plan)


def _options(machine: Machine, device: str, epochs: int) -> TrainingOptions:
    steps = TINY_STEPS if machine.is_tiny else STEPS
    return TrainingOptions(device=device, epochs=epochs, steps_per_epoch=steps, workers=WORKERS)


def _history(workspace: Workspace) -> Path:
    return workspace.fold(NAME, "0") / "history.jsonl"


def _compare_predictions(machine: Machine, workspace: Workspace, image: Path) -> Findings:
    exact = _predict(workspace, image, "cpu", "fp32")
    found = [Finding("classes that were found", len(np.unique(exact)))]
    for precision, limit in MAX_OTHER_VOXELS.items():
        labels = _predict(workspace, image, machine.name, precision)
        name = f"fraction of other voxels than the CPU, {precision}"
        found.append(at_most(name, float(np.mean(labels != exact)), limit))
    return found


def _predict(workspace: Workspace, image: Path, device: str, precision: str) -> np.ndarray:
    predictor = Predictor(workspace.root, PredictionOptions(folds=["0"], device=device, precision=precision))
    return predictor.predict(image).labels


def check_hippocampus(machine: Machine) -> Findings:
    """Measure 250 steps of the plan for a GPU on Task04_Hippocampus, with its workers and augmentation."""
    if machine.hippocampus is None:
        raise SkippedError("the dataset was not given: --hippocampus FOLDER")
    workspace = Workspace(machine.folder / "hippocampus.autoseg")
    budget = Budget(device="cuda", configurations=(NAME,))
    plan = plan_dataset(machine.hippocampus, workspace, budget, PlanningOptions(planner="unet"), workers=None)
    configuration = plan.configurations[NAME]
    folder = workspace.preprocessed(configuration.preprocessed_as)
    cases = {case: open_case(folder, case) for case in read_record(Splits, workspace.splits).folds[0].training}
    stream = BatchStream(seed=(0, TRAINING_STREAM), rules=AugmentationRules(), intensity_on_device=machine.has_gpu)
    steps = TINY_STEPS if machine.is_tiny else HIPPOCAMPUS_STEPS
    run = start(
        machine, with_schedule(configuration, steps_per_epoch=steps), machine.fast_precision, encoding=plan.encoding
    )
    loaded = training_cases(cases, plan.encoding, ram_bytes=RAM_BYTES)
    workers = default_workers(machine.device)
    waiting: list[float] = []

    def epoch() -> None:
        waiting.append(train_epoch(run, batches, ENDLESS, ignore_step).data_wait_fraction)

    with closing(build_loader(loaded, configuration, plan.encoding, stream, workers=workers)) as batches:
        (seconds,) = machine.take_turns([epoch], 2 * MAX_HIPPOCAMPUS_SECONDS)
    shape = " x ".join(map(str, configuration.patch_size))
    return [
        Finding("patch, batch", f"{shape}, {configuration.batch_size}"),
        machine.judge(at_most(f"{steps} steps", seconds, MAX_HIPPOCAMPUS_SECONDS, "s")),
        Finding("device waits", waiting[-1]),
    ]
