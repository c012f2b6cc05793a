"""How long a fold trains, in which epochs, and along which axes its patches are mirrored.

The schedule is asked for with every size of network that a planner considers where time is limited: when the budget
names a time per fold, and always for a CPU.

Example: 600 s per fold, of which 480 s are for training, and 0.3 s per step: with validation after each epoch 1,548
steps, in 30 epochs of 51.

nnU-Net mirrors all axes, patches in training and images at prediction. That makes the task eight times as varied in 3D,
and takes left and right from labels that have a side; both pay only in a long training. With limited time nothing is
mirrored, and prediction needs one pass instead of eight. Where a label has a side in its name (`left lung`), the
left-right axis is mirrored only if every such label has a partner with which it changes places
(`planners.rules.sides`), because a mirrored left lung lies and looks as a right one does. Then it is mirrored with
limited time, too: each side learns from both, and sides are confused less often.

Example of mirroring: task 4 of the Decathlon (hippocampus, 160 training cases), 8 feature maps, batch 4, 2.5 minutes on
two CPU cores, mean foreground Dice of 40 whole validation volumes: all axes 0.843, left-right 0.867, none 0.870. With
a hippocampus on either side of an image and labels named by side, 990 steps, 8 validation volumes: none 0.783,
left-right with labels that change places 0.852; voxels with the other side's label 8.0 % and 0.8 %.

References:
    Own rules. The full schedule is that of nnU-Net v2 (Isensee et al., Nature Methods 2021), which mirrors all axes.
    Differs: no mirroring with limited time; labels of two sides change places, and where they cannot, no mirroring
    from left to right.
"""

import math
from collections.abc import Sequence

from autoseg.costs.architectures import FORWARD_FRACTION
from autoseg.costs.runs import RESERVED_FRACTION
from autoseg.errors import BudgetError
from autoseg.records.budget import Budget
from autoseg.records.case import Triple
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NetworkSpec
from autoseg.records.sides import left_right_axes, read_axes
from autoseg.records.training import TrainingSpec
from planners.rules import Decided
from planners.rules.sides import describe_names, find_sides, find_unpaired
from planners.rules.speed import MIN_STEPS, is_measured, step_seconds

DEFAULT_CPU_SECONDS_PER_FOLD = 3600.0
"""Time per fold on a CPU when none is given: nnU-Net's full schedule would take weeks there."""

MAX_STEPS = 250_000
"""nnU-Net's full schedule; more time is not used."""

NOMINAL_EPOCHS = 30
"""An epoch is a report to the user: often enough to look at, rarely enough to cost nothing."""

MIN_STEPS_PER_EPOCH = 10
VALIDATION_FRACTION = 0.1
"""Validation steps per training step."""

MIN_VALIDATION_STEPS = 4
FAST_TRAINING = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 1e-2,
    "schedule": "cosine",
    "warmup_fraction": 0.05,
    "gradient_clip": 12.0,
}
"""AdamW with warm-up and cosine needs far fewer steps than SGD with Nesterov momentum, which wins on long schedules.
Neither a moving average of the weights nor twice the rate improved its mean Dice of 0.884 on the hippocampus."""


def time_per_fold(budget: Budget) -> float | None:
    """Seconds that a fold may take; None when the full schedule is planned."""
    if budget.time_per_fold_seconds is None and budget.device == "cpu":
        return DEFAULT_CPU_SECONDS_PER_FOLD
    return budget.time_per_fold_seconds


def is_limited(budget: Budget) -> bool:
    """Whether time decides, in training or at prediction."""
    return time_per_fold(budget) is not None or budget.latency_seconds is not None


def expected_steps(budget: Budget, network: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> float:
    """Training steps in the time of a fold; infinity without a limit."""
    seconds = time_per_fold(budget)
    if seconds is None:
        return math.inf
    return affordable_steps(seconds, step_seconds(budget, network, patch_size, batch_size))


def affordable_steps(seconds: float, seconds_per_step: float) -> float:
    """Training steps in the time of a fold, after the time for validation after each epoch is taken off."""
    with_validation = seconds_per_step * (1 + VALIDATION_FRACTION * FORWARD_FRACTION)
    return min(seconds * (1 - RESERVED_FRACTION) / with_validation, MAX_STEPS)


def choose_schedule(
    full: TrainingSpec,
    budget: Budget,
    network: NetworkSpec,
    patch_size: Sequence[int],
    batch_size: int,
    min_steps: int = MIN_STEPS,
) -> Decided[TrainingSpec]:
    """Divide the time into about 30 epochs of equal length; never promises more than fits.

    Args:
        full: The schedule without a limit of time; returned as it is when time is not limited.
        budget: Its time, device and measured throughput.
        network: The network that is trained.
        patch_size: Voxels.
        batch_size: Patches per step.
        min_steps: Steps below which the reason says that they are too few.

    Raises:
        BudgetError: If not even one epoch fits; names the time that one needs.
    """
    seconds = time_per_fold(budget)
    if seconds is None:
        return Decided(full, "nnU-Net's full schedule: long, because accuracy still rises late.")
    step = step_seconds(budget, network, patch_size, batch_size)
    steps_per_epoch = max(int(affordable_steps(seconds, step) / NOMINAL_EPOCHS), MIN_STEPS_PER_EPOCH)
    validation_steps = max(round(steps_per_epoch * VALIDATION_FRACTION), MIN_VALIDATION_STEPS)
    epoch_seconds = (steps_per_epoch + validation_steps * FORWARD_FRACTION) * step
    epochs = min(int(seconds * (1 - RESERVED_FRACTION) / epoch_seconds), MAX_STEPS // steps_per_epoch)
    if epochs == 0:
        needed = math.floor(epoch_seconds / (1 - RESERVED_FRACTION)) + 1
        raise BudgetError(
            f"{seconds:g} s per fold are too short to train a {network.dimensions}D network on this data: the smallest "
            f"one needs {needed} s. Give more with --time-per-fold.",
            "--time-per-fold",
            needed,
        )
    training = full.model_copy(
        update={
            **FAST_TRAINING,
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
            "validation_steps": validation_steps,
            "time_per_fold_seconds": seconds,
        }
    )
    return Decided(training, _explain_schedule(budget, network, seconds, epochs * steps_per_epoch, min_steps))


def _explain_schedule(budget: Budget, network: NetworkSpec, seconds: float, steps: int, min_steps: int) -> str:
    measured = "measured" if is_measured(budget, network) else "assumed, not measured"
    by_default = " (the default for a CPU)" if budget.time_per_fold_seconds is None else ""
    sentence = (
        f"{seconds:g} s per fold{by_default}, {RESERVED_FRACTION:.0%} of them kept for start-up and final validation, "
        f"leave {steps} steps at the {measured} speed; AdamW needs fewer steps than SGD."
    )
    if steps < min_steps:
        sentence += f" That is too few to learn well (at least {min_steps} are wanted): give more time."
    return sentence


def choose_mirror_axes(
    dimensions: int, fingerprint: Fingerprint, budget: Budget, transpose: Triple
) -> Decided[tuple[int, ...]]:
    """Spatial axes of the patch, 0 being the first of `patch_size`.

    Args:
        dimensions: 2 or 3.
        fingerprint: Names of its labels say which of them have a side. With such labels and images as stored no axis
            is mirrored, because any may run from left to right.
        budget: Axes that the user asked for; else limited time mirrors nothing but sides that change places, and a
            limited latency nothing at all.
        transpose: Patch axis i is working axis transpose[i]; a 2D patch has the last two.
    """
    asked = budget.overrides.mirror_axes
    if asked is not None:
        return Decided(read_axes(asked, dimensions), "Requested.")
    axes = tuple(range(dimensions))
    sides = find_sides(dimensions, fingerprint, budget, transpose)
    unpaired = find_unpaired(fingerprint, () if sides is None else sides.pairs)
    if is_limited(budget) and (sides is None or unpaired or budget.latency_seconds is not None):
        return Decided((), "None: with a short schedule, mirrored views cost more than they help.")
    if is_limited(budget) and sides is not None:
        reason = "Left-right alone: labels of the two sides change places, so each side learns from both; with a short "
        return Decided((sides.axis,), f"{reason}schedule, other mirrored views cost more than they help.")
    if sides is not None and not unpaired:
        return Decided(axes, "All axes, as nnU-Net does; but left-right, labels of the two sides change places.")
    if not unpaired:
        return Decided(axes, "All axes, as nnU-Net does: in a long training every view helps.")
    left_right = left_right_axes(transpose, dimensions, fingerprint.orientation)
    named = describe_names(unpaired)
    reason = f"All axes but left-right, which would swap the sides of labels ({named}). --mirror-axes overrides."
    if fingerprint.orientation == "as_stored":
        reason = (
            f"None: labels have a side ({named}), and in images as stored any axis may run from left to right. "
            "--mirror-axes overrides."
        )
    return Decided(tuple(axis for axis in axes if axis not in left_right), reason)
