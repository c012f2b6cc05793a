"""Train every configuration on every fold, here one after the other or on a cluster side by side.

A fold that cannot be trained does not stop the others; a cascade comes after the configuration before it, and is
skipped where label maps of that one are missing. Tested in tests/pipeline/test_order.py.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from autoseg.cluster.dask_workers import DaskCluster
from autoseg.cluster.trainings import cascade_order
from autoseg.costs.runs import RunCosts, Training, run_costs
from autoseg.errors import TrainingError, UsageError
from autoseg.folds import find_split
from autoseg.progress import ProgressBar
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.system import free_disk_bytes
from autoseg.text import format_duration, format_folds, format_memory

logger = logging.getLogger("autoseg.pipeline")


def finished_trainings(workspace: Workspace, plan: Plan) -> set[Training]:
    """Configurations and folds that have final weights."""
    return {Training(name, fold) for name in plan.configurations for fold in workspace.trained_folds(name)}


@dataclass
class _RunClock:
    """How long the trainings of a run have taken, and how long those that are left will take."""

    plan: Plan
    trainings: tuple[Training, ...]
    """All trainings of the run, in order."""
    finished: set[Training]
    """Those that need no time: they were finished before the run began."""
    seconds: dict[Training, float] = field(default_factory=dict)
    """Duration of each training of this run that is over."""

    def announce(self, training: Training, num_folds: int) -> None:
        """Log which training begins, and how long it and all others will take."""
        number = self.trainings.index(training)
        name, fold = training
        left = self._seconds_left(self.trainings[number:])
        logger.info(
            "training %d of %d: %s, fold %s (fold %d of %d)%s",
            number + 1, len(self.trainings), name, fold, number % num_folds + 1, num_folds,
            "" if left is None else f"; about {format_duration(left)} left for all trainings",
        )  # fmt: skip

    def _seconds_left(self, trainings: Sequence[Training]) -> float | None:
        expected = [
            self._expected_seconds(training.configuration) for training in trainings if training not in self.finished
        ]
        known = [seconds for seconds in expected if seconds is not None]
        return sum(known) if len(known) == len(expected) else None

    def _expected_seconds(self, name: str) -> float | None:
        """Mean of the trainings of this configuration that are over, else its limit."""
        measured = [seconds for (trained, _), seconds in self.seconds.items() if trained == name]
        if measured:
            return sum(measured) / len(measured)
        return self.plan.configurations[name].training.time_per_fold_seconds


def check_training_device(plan: Plan, device: str) -> None:
    """Refuse to train on the CPU what the driver's word has led to be planned for a GPU: it would take weeks."""
    from autoseg.networks.devices import choose_device, why_no_gpu

    planned = plan.budget.device
    if planned == "cpu" or device != "auto" or choose_device(device).type != "cpu":
        return
    if planned != "cuda":
        raise UsageError(f"planned for {planned}, and torch would train on the CPU: give --device {planned} again.")
    raise UsageError(
        f"planned for a GPU, and torch would train on the CPU: {why_no_gpu()}. Install a torch that fits the "
        "driver (autoseg doctor shows both), or plan for the CPU with --device cpu."
    )


def train_folds(workspace: Workspace, plan: Plan, folds: Sequence[str], device: str, bar: ProgressBar) -> list[str]:
    """Train these folds of every configuration; returns one sentence for each fold that could not be trained."""
    from autoseg.stages.train import train_fold
    from autoseg.training.options import TrainingOptions

    failures: list[str] = []
    order = training_order(plan)
    trainings = tuple(Training(configuration, fold) for configuration in order for fold in folds)
    clock = _RunClock(plan, trainings, finished_trainings(workspace, plan))
    for configuration in order:
        if fault := _find_missing_maps(workspace, plan, configuration, folds):
            logger.warning("warning: %s is skipped: %s", configuration, fault)
            continue
        for fold in folds:
            training = Training(configuration, fold)
            clock.announce(training, len(folds))
            began = time.monotonic()
            try:
                if plan.budget.devices > 1:
                    is_finished = train_on_devices(workspace, training, plan.budget.devices, device)
                else:
                    options = TrainingOptions(device=device)
                    is_finished = train_fold(workspace, configuration, fold, options, bar=bar).finished
            except TrainingError as error:
                failures.append(f"{training}: {error}")
                logger.warning("failed: %s", failures[-1])
                continue
            if not is_finished:
                raise TrainingError(f"{training}: training was interrupted. Run the same command again to resume.")
            if training not in clock.finished:
                clock.seconds[training] = time.monotonic() - began
    _refuse_to_select_nothing(workspace, plan, failures)
    return failures


def train_on_devices(
    workspace: Workspace, training: Training, devices: int, device: str, further: Sequence[str] = ()
) -> bool:
    """Train a fold in as many processes as devices were planned for, each with one of them.

    Args:
        workspace: Planned and preprocessed.
        training: Configuration and fold.
        devices: Number of processes.
        device: A name of `choose_device`.
        further: Further options of `autoseg train`.

    Returns:
        Whether the training is finished; False after a signal.

    Raises:
        TrainingError: If it failed; the processes have said why.
    """
    from autoseg.training.distributed import SIGNALLED, launch

    words = [
        "train",
        str(workspace.root),
        "-c",
        training.configuration,
        "-f",
        training.fold,
        "--device",
        device,
        *further,
    ]
    code = launch(devices, words)
    if code == 0 or code >= SIGNALLED:
        return code == 0
    raise TrainingError(f"{devices} processes trained together and failed (exit code {code}); the reason is above")


def train_folds_on_cluster(
    cluster: DaskCluster, workspace: Workspace, plan: Plan, folds: Sequence[str], device: str
) -> list[str]:
    """Train as `train_folds` does, but all that do not need each other at the same time."""
    from autoseg.training.programs import train_on_cluster

    failures: list[str] = []
    for group in cascade_order(plan):
        faults = {name: _find_missing_maps(workspace, plan, name, folds) for name in group}
        for name, fault in faults.items():
            if fault:
                logger.warning("warning: %s is skipped: %s", name, fault)
        trainings = [Training(name, fold) for name in group if not faults[name] for fold in folds]
        ended = train_on_cluster(cluster, workspace, trainings, device)
        for number, (training, failure) in enumerate(ended, start=1):
            if failure:
                failures.append(f"{training}: {failure}")
            logger.info("%s: %s (%d of %d)", training, failure or "trained", number, len(trainings))
    _refuse_to_select_nothing(workspace, plan, failures)
    return failures


def _refuse_to_select_nothing(workspace: Workspace, plan: Plan, failures: Sequence[str]) -> None:
    if failures and not any(workspace.trained_folds(name) for name in plan.configurations):
        raise TrainingError("\n".join(["no fold could be trained:", *failures]))


def training_order(plan: Plan) -> tuple[str, ...]:
    """Configuration names in the plan's order, but each cascade after the configuration before it."""
    return tuple(name for group in cascade_order(plan) for name in group)


def _find_missing_maps(workspace: Workspace, plan: Plan, name: str, folds: Sequence[str]) -> str:
    """Why label maps of the previous configuration keep these folds of a cascade from being trained; else empty."""
    from autoseg.inference.models.cascade_maps import load_previous

    if plan.configurations[name].previous_configuration is None:
        return ""
    dataset = read_record(DatasetDescription, workspace.dataset)
    splits = [find_split(workspace, dataset, fold) for fold in folds]
    try:
        for split in splits:
            load_previous(workspace, plan, name, [*split.training, *split.validation])
    except TrainingError as error:
        return str(error)
    return ""


def describe_trainings(workspace: Workspace, plan: Plan, fingerprint: Fingerprint, folds: Sequence[str]) -> list[str]:
    """Say what training a plan on these folds takes: trainings, time and disk."""
    order = training_order(plan)
    costs = run_costs(plan, fingerprint, order, folds, finished_trainings(workspace, plan))
    finished = f"; {len(costs.finished)} of them finished earlier" if costs.finished else ""
    free = free_disk_bytes(workspace.root)
    lines = [
        f"This run trains {len(order)} configuration{'s' if len(order) > 1 else ''} ({', '.join(order)}) on "
        f"{format_folds(folds)}: {len(costs.trainings)} training{'s' if len(costs.trainings) > 1 else ''}{finished}.",
        describe_time(plan, costs),
        f"Disk: at most {format_memory(costs.disk_bytes)} in {workspace.root}; {format_memory(free)} are free.",
    ]
    if costs.disk_bytes > free:
        lines.append("The disk may be too small: make room, or choose another place with -w.")
    return lines


def describe_time(plan: Plan, costs: RunCosts) -> str:
    """Say how long all trainings of a run take, as far as that is known."""
    if costs.seconds is None:
        return (
            "Time: as long as the planned steps take, which is known after the first training; --time-per-fold TIME "
            "limits it, autoseg-plan --profile measures a step."
        )
    limits = [configuration.training.time_per_fold_seconds or 0.0 for configuration in plan.configurations.values()]
    each = " to ".join(dict.fromkeys(format_duration(seconds) for seconds in (min(limits), max(limits))))
    together = format_duration(_whole_minutes(costs.seconds))
    return (
        f"Time: at most {together} for training, {each} each (--time-per-fold changes it); "
        "preprocessing and selection come on top."
    )


def _whole_minutes(seconds: float) -> float:
    """Seconds rounded up to minutes, from one minute on, so that "at most" stays true."""
    return seconds if seconds < 60 else 60.0 * math.ceil(seconds / 60)
