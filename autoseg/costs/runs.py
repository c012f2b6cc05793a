"""What a whole run takes, before it begins: trainings, time and disk."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.records.training import TrainingSpec

RESERVED_FRACTION = 0.2
"""Part of a fold's time that planners keep for start-up and the final validation of whole volumes."""

NUMBER_BYTES = 4
"""Bytes of a weight, and of a voxel of a preprocessed channel before compression."""


class Training(NamedTuple):
    """One configuration on one fold."""

    configuration: str
    fold: str

    @override
    def __str__(self) -> str:
        return f"{self.configuration}, fold {self.fold}"


@dataclass(frozen=True)
class RunCosts:
    """Trainings of a run and what they need."""

    trainings: tuple[Training, ...]
    """All of them, in order."""
    finished: tuple[Training, ...]
    """Those that are trained already."""
    seconds: float | None
    """Longest time of all trainings that are not finished, their validation included; None: the number of steps
    decides, and how long they take is not known before one is trained."""
    disk_bytes: int
    """Upper bound of all files: arrays and label maps are stored compressed."""


def run_costs(
    plan: Plan,
    fingerprint: Fingerprint,
    configurations: Sequence[str],
    folds: Sequence[str],
    finished: Collection[Training] = (),
) -> RunCosts:
    """Costs of training these configurations on these folds.

    Args:
        plan: With time limits, networks and spacings.
        fingerprint: With the shapes of all cases.
        configurations: Names in the plan, in the order of training.
        folds: Names of folds.
        finished: Trainings that are finished; others than those of this run do not count.
    """
    trainings = tuple(Training(name, fold) for name in configurations for fold in folds)
    done = tuple(training for training in trainings if training in finished)
    limits = [
        plan.configurations[training.configuration].training.time_per_fold_seconds
        for training in trainings
        if training not in done
    ]
    known = [seconds for seconds in limits if seconds is not None]
    return RunCosts(
        trainings=trainings,
        finished=done,
        seconds=sum(known) if len(known) == len(limits) else None,
        disk_bytes=sum(_disk_bytes(plan, fingerprint, name, len(folds)) for name in configurations),
    )


def relative_cost(training: TrainingSpec, until: float = 1.0) -> float:
    """Time of the steps up to a progress, where steps decide; 1 is the time of all steps with the own patch.

    Example: with smaller patches of half the cost until 0.4, all steps take 0.8, and those until 0.5 take 0.3.
    """
    cost, began = 0.0, 0.0
    for growing in training.growing_patches:
        cost += max(min(growing.until, until) - began, 0.0) * growing.cost_fraction
        began = growing.until
    return cost + max(until - began, 0.0)


def _disk_bytes(plan: Plan, fingerprint: Fingerprint, name: str, num_folds: int) -> int:
    """Preprocessed cases, weights of every fold, and a label map of every case with one byte per voxel."""
    configuration = plan.configurations[name]
    channels = len(plan.channel_names) + 1
    voxels = sum(preprocessed_voxels(case, configuration, plan) for case in fingerprint.cases)
    arrays = round(voxels * channels * NUMBER_BYTES) if configuration.preprocessed_as == name else 0
    label_maps = sum(math.prod(case.shape) for case in fingerprint.cases)
    return arrays + label_maps + num_folds * _weights_bytes(configuration)


def preprocessed_voxels(case: CaseFingerprint, configuration: Configuration, plan: Plan) -> float:
    """Voxels of a case after cropping and resampling for a configuration."""
    axes = plan.transpose[-len(configuration.spacing) :]  # a 2D configuration keeps the slices of the first axis
    growth = math.prod(case.spacing[axis] for axis in axes) / math.prod(configuration.spacing)
    return math.prod(case.cropped_shape) * growth


def _weights_bytes(configuration: Configuration) -> int:
    """Final, best and last weights; the last ones with the optimiser's state and a moving average."""
    training = configuration.training
    of_optimizer = 2 if training.optimizer == "adamw" else 1
    average = 0 if training.weight_average_decay is None else 1
    return configuration.estimates.parameters * NUMBER_BYTES * (3 + of_optimizer + average)
