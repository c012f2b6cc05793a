"""Whether a training is as fast as its plan expects: a plan that was made for another speed has the wrong size.

Example: 600 s per fold, of which 480 s are for 30 epochs of 27 steps, so that an epoch is expected to take between 15.5
and 16 s. Epochs of 40 s are 2.5 times as long: other programs are busy, or the machine was faster when it was measured.
Epochs of 2 s mean that the machine was busy when it was measured: a much larger network would get as many steps.

Tested in tests/training/folds/test_pace.py.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from autoseg.core_load import MIN_LOAD
from autoseg.costs.runs import RESERVED_FRACTION
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.files import read_record
from autoseg.records.provenance import Provenance
from autoseg.records.training import TrainingSpec
from autoseg.records.workspace import Workspace
from autoseg.text import format_command
from autoseg.training.folds.fold import Fold

logger = logging.getLogger("autoseg.train")

MAX_DIFFERENCE = 1.5
"""Ratio of the speeds, planned and real, from which on it is said: half of it is within what machines do by chance."""

EPOCHS = 3
"""Last epochs whose mean counts; the first one of a training, which sets up kernels, never does."""

MAX_STEPS = 250_000
"""Steps of the longest schedule (nnU-Net's): a plan of so many was not sized by the speed."""


@dataclass
class Pace:
    """Compares the epochs of a training with its plan, and says once when they differ much."""

    fold: Fold
    earlier: int
    """Epochs that were trained before this process began."""
    is_told: bool = False

    def tell(self, history: Sequence[EpochHistory], load: float) -> None:
        """Log one sentence, if the plan does not fit and that was not said yet.

        Args:
            history: All epochs, the last one just finished.
            load: Cores that other programs use now.
        """
        own = [epoch for epoch in history[self.earlier + 1 :] if epoch.patch_size is None]
        recent = own[-EPOCHS:]  # what smaller patches cost is estimated, not planned by speed
        planned = self.fold.plan.configurations[self.fold.configuration_name].training
        if self.is_told or len(recent) < min(EPOCHS, 2) or not _is_as_planned(self.fold, planned):
            return
        if sentence := describe_pace(planned, mean(epoch.seconds for epoch in recent), load):
            logger.warning("%s: %s, and train with --restart", sentence, _planning_command(self.fold.workspace))
            self.is_told = True


def describe_pace(planned: TrainingSpec, epoch_seconds: float, load: float) -> str:
    """Say that epochs take much longer or shorter than planned, and why; empty if they do not, or no time was planned.

    Args:
        planned: Schedule that the plan made for a time per fold.
        epoch_seconds: What an epoch takes.
        load: Cores that other programs use now.
    """
    seconds, steps = planned.time_per_fold_seconds, planned.epochs * planned.steps_per_epoch
    if seconds is None or steps + planned.steps_per_epoch > MAX_STEPS:
        return ""
    shortest, longest = (seconds * (1 - RESERVED_FRACTION) / epochs for epochs in (planned.epochs + 1, planned.epochs))
    takes = f"an epoch takes {epoch_seconds:.3g} s"
    if epoch_seconds > MAX_DIFFERENCE * longest:
        ratio = epoch_seconds / longest
        why = f"other programs use {load:.1f} cores" if load >= MIN_LOAD else "the machine was faster when measured"
        return (
            f"{takes}, {ratio:.1f} times as long as planned ({why}): about {steps / ratio:.0f} of {steps} steps fit "
            "the time. End other programs, or plan again for this speed"
        )
    if epoch_seconds < shortest / MAX_DIFFERENCE:
        ratio = shortest / epoch_seconds
        return (
            f"{takes}, the plan expects {ratio:.1f} times as much (the machine was busy when its speed was measured): "
            "a larger network fits the time. Plan again"
        )
    return ""


def _is_as_planned(fold: Fold, planned: TrainingSpec) -> bool:
    """Whether the plan was made by the measured speed of such a device, and its schedule and loss are trained."""
    budget, spec = fold.plan.budget, fold.spec
    return (
        bool(budget.throughput)
        and (budget.device, budget.devices) == (fold.device.type, fold.ranks.count)
        and spec.loss == planned.loss
        and (spec.steps_per_epoch, spec.validation_steps, spec.time_per_fold_seconds)
        == (planned.steps_per_epoch, planned.validation_steps, planned.time_per_fold_seconds)
    )


def _planning_command(workspace: Workspace) -> str:
    """The command that planned, which measures again; its beginning where no command did."""
    path = workspace.provenance("plan")
    command = read_record(Provenance, path).command if path.exists() else ""
    if "plan " not in command and "run " not in command:
        command = format_command("autoseg-plan", "DATASET", "-w", workspace.root)
    return command if "--measure-again" in command else f"{command} --measure-again"
