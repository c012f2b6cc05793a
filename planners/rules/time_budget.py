"""How wide a network, how large a patch and how many steps fit in a given time.

Called once per configuration when the budget names a time per fold or a latency, and always for a CPU; starts from the
patch and batch that the memory rules chose and only ever makes them smaller.

Example: 600 s per fold, of which 480 s are for training; a network of 8 feature maps and batch 4 needs
4 * 1.5e9 multiply-accumulates per step, and the device does 2e10 per second: 0.3 s per step, 1,600 steps before
validation is counted, more than the 1,500 wanted. With 16 feature maps (about 4 times as many) only 400 steps would
remain, so 8 are taken.

References:
    Own rule. The shape of the network follows nnU-Net v2 (Isensee et al., Nature Methods 2021) at every width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from autoseg.errors import BudgetError
from autoseg.records.budget import Budget
from autoseg.records.network import NetworkSpec
from autoseg.records.plan import Configuration, TrainingSpec
from planners.rules.latency import explain_latency, keeps_latency, needed_latency, prediction_seconds
from planners.rules.speed import FORWARD_FRACTION, is_measured, step_seconds
from planners.rules.topology import MIN_EDGE, Topology, compute_topology

DEFAULT_CPU_SECONDS_PER_FOLD = 3600.0
"""For a CPU without a stated time: nnU-Net's full schedule would take weeks there."""

WANTED_STEPS = 1500
"""A wider network is taken only if it gets so many steps: with fewer, a narrower one trained longer is better."""

MIN_STEPS = 600
"""The patch of the narrowest network shrinks until it gets so many steps: with fewer it is not trained at all."""

MAX_STEPS = 250_000
"""nnU-Net's full schedule; more time is not used."""

RESERVED_FRACTION = 0.2
"""Of the fold's time, kept for start-up and the final validation of whole volumes."""

MAX_BATCH = {2: 12, 3: 2}
"""By dimension: with limited time more steps teach more than larger batches. In 3D, 2.5 minutes on two cores with 8
feature maps (hippocampus, 40 whole validation volumes): batch 4 gave 0.870 in 550 steps, batch 2 0.878 in 994."""

MIN_BATCH = {2: 2, 3: 2}
"""By dimension: halved down to this before the patch shrinks, because context is worth more."""

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

Tried on the hippocampus (fold 0, 40 whole validation volumes, 8 feature maps, batch 2, 2,000 steps, which two cores do
in about 5 minutes): as it is 0.8844; a moving average of the weights (0.99) and a rate of 6e-3 0.8837; the average and
changes of intensity half as likely 0.8828; the average and 16 feature maps for the same time, 1,000 steps, 0.8825.
One run each: nothing was better, so no average is planned."""


@dataclass(frozen=True)
class Sized:
    """Size of a network and of its batches."""

    topology: Topology
    base_features: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Room:
    """What may be made smaller when time is short, and what for."""

    widths: tuple[int, ...]
    """Feature maps at full resolution, best first."""
    network_for: Callable[[Topology, int], NetworkSpec]
    """Network of a topology and a number of base features."""
    spacing: tuple[float, ...]
    """(z, y, x) or (y, x), mm."""
    median_shape: tuple[float, ...]
    """Same axes, voxels."""
    image_shape: tuple[float, float, float]
    """Median image at that spacing, all axes."""
    max_levels: int | None = None
    """As deep as the network is meant to be; None: no limit."""
    fixed_patch: bool = False
    """The user chose the patch."""
    fixed_batch: bool = False
    """The user chose the batch size."""


def time_per_fold(budget: Budget) -> float | None:
    """Seconds of one fold, or None for the full schedule; a CPU always has a limit."""
    if budget.time_per_fold_seconds is None and budget.device == "cpu":
        return DEFAULT_CPU_SECONDS_PER_FOLD
    return budget.time_per_fold_seconds


def is_limited(budget: Budget) -> bool:
    """Whether time decides, in training or at prediction."""
    return time_per_fold(budget) is not None or budget.latency_seconds is not None


def fit_time(largest: Sized, budget: Budget, room: Room) -> Sized:
    """The widest network that gets the wanted steps; else the narrowest with a batch and patch that get the minimum.

    Candidates are tried in one fixed order, from the most to the least expensive, so more time never gives a
    smaller network. A candidate that predicts too slowly is passed over. The last one is taken when none gets its
    steps.

    Args:
        largest: What fits the memory; returned as it is when time is not limited.
        budget: Its times, device and measured throughput.
        room: What may be made smaller.

    Raises:
        BudgetError: If none predicts a median case fast enough; names the latency that would do.
    """
    if not is_limited(budget):
        return largest
    chosen, fastest = None, math.inf
    for candidate, required_steps in _candidates(largest, budget, room):
        network = room.network_for(candidate.topology, candidate.base_features)
        patch_size = candidate.topology.patch_size
        prediction = prediction_seconds(budget, network, patch_size, room.image_shape, passes=1)
        fastest = min(fastest, prediction)
        if not keeps_latency(budget, prediction):
            continue
        chosen = candidate
        if expected_steps(budget, network, patch_size, candidate.batch_size) >= required_steps:
            break
    if chosen is None:
        needed = needed_latency(fastest)
        raise BudgetError(
            f"No {len(room.spacing)}D network of this planner predicts a median case within "
            f"{budget.latency_seconds:g} s: the fastest needs {needed:.10g} s. Give more with --latency.",
            "--latency",
            needed,
        )
    return chosen


def expected_steps(budget: Budget, network: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> float:
    """Training steps in the time of a fold; no end of them without a limit."""
    seconds = time_per_fold(budget)
    if seconds is None:
        return math.inf
    return affordable_steps(seconds, step_seconds(budget, network, patch_size, batch_size))


def fit_schedule(
    full: TrainingSpec, budget: Budget, network: NetworkSpec, patch_size: Sequence[int], batch_size: int
) -> TrainingSpec:
    """Divide the time into about 30 epochs of equal length; never promises more than fits.

    Args:
        full: The schedule without a limit of time; returned as it is when time is not limited.
        budget: Its time, device and measured throughput.
        network: To be trained.
        patch_size: Voxels.
        batch_size: Patches per step.

    Raises:
        BudgetError: If not even one epoch fits; names the time that one needs.
    """
    seconds = time_per_fold(budget)
    if seconds is None:
        return full
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
    return full.model_copy(
        update={
            **FAST_TRAINING,
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
            "validation_steps": validation_steps,
            "time_per_fold_seconds": seconds,
        }
    )


def explain_time(
    budget: Budget, largest: Sized, chosen: Sized, configuration: Configuration, room: Room
) -> dict[str, str]:
    """Reasons for what time decided, by the decision's name; empty when time is not limited."""
    reasons = {}
    if configuration.training.time_per_fold_seconds is not None:
        reasons["schedule"] = _explain_schedule(budget, configuration)
    if is_limited(budget):
        reasons["base_features"] = _explain_width(budget, chosen, configuration.network, room)
    if chosen.batch_size != largest.batch_size:
        reasons["batch_size"] = (
            f"With little time more steps teach more than larger batches; memory allows {largest.batch_size}."
        )
    if chosen.topology != largest.topology:
        reasons["patch_size"] = (
            f"Memory allows {largest.topology.patch_size}, halved along the relatively longest axis until "
            f"{MIN_STEPS} steps fit the time."
        )
    return reasons


def _explain_schedule(budget: Budget, configuration: Configuration) -> str:
    training = configuration.training
    steps = training.epochs * training.steps_per_epoch
    measured = "measured" if is_measured(budget, configuration.network) else "assumed, not measured"
    by_default = " (the default for a CPU)" if budget.time_per_fold_seconds is None else ""
    sentence = (
        f"{training.time_per_fold_seconds:g} s per fold{by_default}, {RESERVED_FRACTION:.0%} of them kept for start-up "
        f"and final validation, leave {steps} steps at the {measured} speed; AdamW needs fewer steps than SGD."
    )
    if steps < MIN_STEPS:
        sentence += f" That is too few to learn well (at least {MIN_STEPS} are wanted): give more time."
    return sentence


def _explain_width(budget: Budget, chosen: Sized, network: NetworkSpec, room: Room) -> str:
    reasons = []
    if time_per_fold(budget) is not None:
        reasons.append(_explain_steps(chosen.base_features, room.widths))
    if budget.latency_seconds is not None:
        seconds = prediction_seconds(budget, network, chosen.topology.patch_size, room.image_shape, passes=1)
        reasons.append(explain_latency(budget, seconds))
    return " ".join(reasons)


def _explain_steps(base_features: int, widths: Sequence[int]) -> str:
    if len(widths) == 1:
        return "The only width that was allowed."
    if base_features == widths[-1]:
        return f"The narrowest network; wider ones would get fewer than {WANTED_STEPS} steps."
    if base_features == widths[0]:
        return f"The full width: even so at least {WANTED_STEPS} steps fit the time."
    return f"The widest network that gets at least {WANTED_STEPS} steps in the time."


def _candidates(largest: Sized, budget: Budget, room: Room) -> Iterator[tuple[Sized, int]]:
    """Sizes and the steps they must get; first narrower, then smaller batches, then smaller patches.

    Without a time per fold only the width is left to vary: batch and patch do not make prediction faster.
    """
    dimensions, narrowest = len(room.spacing), room.widths[-1]
    if time_per_fold(budget) is None:
        yield from ((replace(largest, base_features=width), MIN_STEPS) for width in room.widths)
        return
    batch_size = largest.batch_size
    if not room.fixed_batch:
        batch_size = min(batch_size, MAX_BATCH[dimensions])
    for base_features in room.widths[:-1]:
        yield Sized(largest.topology, base_features, batch_size), WANTED_STEPS
    yield Sized(largest.topology, narrowest, batch_size), MIN_STEPS
    while not room.fixed_batch and batch_size // 2 >= MIN_BATCH[dimensions]:
        batch_size //= 2
        yield Sized(largest.topology, narrowest, batch_size), MIN_STEPS
    topology = None if room.fixed_patch else _halve(room, largest.topology)
    while topology is not None:
        yield Sized(topology, narrowest, batch_size), MIN_STEPS
        topology = _halve(room, topology)


def _halve(room: Room, topology: Topology) -> Topology | None:
    """Halve the axis that is longest relative to the median; None when no axis can be halved any more.

    The other axes lose padding that a shallower network does not need. No axis ever grows: one whose halving would
    make another one be padded further is passed over.
    """
    old = topology.patch_size
    ratios = [edge / size for edge, size in zip(old, room.median_shape, strict=True)]
    unpadded = [min(edge, size) for edge, size in zip(old, room.median_shape, strict=True)]
    for axis in sorted(range(len(old)), key=lambda axis: (ratios[axis], axis), reverse=True):
        if old[axis] < 2 * MIN_EDGE:
            continue
        edges = [old[i] / 2 if i == axis else edge for i, edge in enumerate(unpadded)]
        halved = compute_topology(room.spacing, edges, room.max_levels)
        grows = any(new > edge for new, edge in zip(halved.patch_size, old, strict=True))
        if halved.levels > 1 and halved.patch_size != old and not grows:
            return halved
    return None


def affordable_steps(seconds: float, seconds_per_step: float) -> float:
    """Training steps in the time of a fold, validation after each epoch paid for."""
    with_validation = seconds_per_step * (1 + VALIDATION_FRACTION * FORWARD_FRACTION)
    return min(seconds * (1 - RESERVED_FRACTION) / with_validation, MAX_STEPS)
