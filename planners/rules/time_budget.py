"""How wide a network, how large a patch and how many steps fit in a given time.

Called once per configuration when the budget names a time per fold, and always for a CPU; starts from the patch and
batch that the memory rules chose and only ever makes them smaller.

Example: 600 s per fold, of which 480 s are for training; a network of 8 feature maps and batch 4 needs
4 * 1.5e9 multiply-accumulates per step, and the device does 2e10 per second: 0.3 s per step, 1,600 steps before
validation is counted, more than the 1,500 wanted. With 16 feature maps (about 4 times as many) only 400 steps would
remain, so 8 are taken.

References:
    Own rule. The shape of the network follows nnU-Net v2 (Isensee et al., Nature Methods 2021) at every width.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Throughput
from autoseg.records.plan import NetworkSpec, TrainingSpec
from planners.compute import forward_macs
from planners.rules.topology import MINIMUM_EDGE, Topology, compute_topology

DEFAULT_CPU_SECONDS_PER_FOLD = 3600.0
"""For a CPU without a stated time: nnU-Net's full schedule would take weeks there."""

WIDTHS = (32, 24, 16, 8)
"""Feature maps at full resolution, best first; the widest is nnU-Net's, below 8 a U-Net hardly learns."""

WANTED_STEPS = 1500
"""A wider network is taken only if it gets so many steps: with fewer, a narrower one trained longer is better."""

MINIMUM_STEPS = 600
"""The patch of the narrowest network shrinks until it gets so many steps: with fewer it is not trained at all."""

MOST_STEPS = 250_000
"""nnU-Net's full schedule; more time is not used."""

RESERVED_FRACTION = 0.2
"""Of the fold's time, kept for start-up and the final validation of whole volumes."""

LARGEST_BATCH = {2: 12, 3: 2}
"""By dimension: with limited time more steps teach more than larger batches. In 3D, 2.5 minutes on two cores with 8
feature maps (hippocampus, 40 whole validation volumes): batch 4 gave 0.870 in 550 steps, batch 2 0.878 in 994."""

SMALLEST_BATCH = {2: 2, 3: 2}
"""By dimension: halved down to this before the patch shrinks, because context is worth more."""

NOMINAL_EPOCHS = 30
"""An epoch is a report to the user: often enough to look at, rarely enough to cost nothing."""

FEWEST_STEPS_PER_EPOCH = 10
VALIDATION_SHARE = 0.1
"""Validation steps per training step."""

FEWEST_VALIDATION_STEPS = 4
VALIDATION_STEP_COST = 1 / 3
"""Of a training step: forward only, where the backward pass costs twice the forward pass."""

ASSUMED_MACS_PER_SECOND = {"cpu": 10e9, "cuda": 1e12}
"""Without a measurement: what two slow cores, or a small graphics card, do in a whole step."""

FAST_TRAINING = {
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 1e-2,
    "schedule": "cosine",
    "warmup_fraction": 0.05,
    "gradient_clip": 12.0,
}
"""AdamW with warm-up and cosine needs far fewer steps than SGD with Nesterov momentum, which wins on long schedules."""


@dataclass(frozen=True)
class Sized:
    """Size of a network and of its batches."""

    topology: Topology
    base_features: int
    batch_size: int


def time_per_fold(budget: Budget) -> float | None:
    """Seconds of one fold, or None for the full schedule; a CPU always has a limit."""
    if budget.time_per_fold_seconds is None and budget.device == "cpu":
        return DEFAULT_CPU_SECONDS_PER_FOLD
    return budget.time_per_fold_seconds


def fit_time(
    largest: Sized,
    budget: Budget,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    network_for: Callable[[Topology, int], NetworkSpec],
) -> Sized:
    """The widest network that gets the wanted steps; else the narrowest with a batch and patch that get the minimum.

    Candidates are tried in one fixed order, from the most to the least expensive, so more time never gives a
    smaller network. The last candidate is taken when none gets its steps.

    Args:
        largest: What fits the memory; returned as it is when time is not limited.
        budget: Its time, device and measured throughput.
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels.
        network_for: Network of a topology and a number of base features.
    """
    seconds = time_per_fold(budget)
    if seconds is None:
        return largest
    chosen = largest
    for chosen, required_steps in _candidates(largest, spacing, median_shape):
        network = network_for(chosen.topology, chosen.base_features)
        step = step_seconds(budget, network, chosen.topology.patch_size, chosen.batch_size)
        if affordable_steps(seconds, step) >= required_steps:
            break
    return chosen


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
        PlanningError: If not even one epoch fits; names the time that one needs.
    """
    seconds = time_per_fold(budget)
    if seconds is None:
        return full
    step = step_seconds(budget, network, patch_size, batch_size)
    steps_per_epoch = max(int(affordable_steps(seconds, step) / NOMINAL_EPOCHS), FEWEST_STEPS_PER_EPOCH)
    validation_steps = max(round(steps_per_epoch * VALIDATION_SHARE), FEWEST_VALIDATION_STEPS)
    epoch_seconds = (steps_per_epoch + validation_steps * VALIDATION_STEP_COST) * step
    epochs = min(int(seconds * (1 - RESERVED_FRACTION) / epoch_seconds), MOST_STEPS // steps_per_epoch)
    if epochs == 0:
        needed = math.floor(epoch_seconds / (1 - RESERVED_FRACTION)) + 1
        raise PlanningError(
            f"{seconds:g} s per fold are too short to train a {network.dimensions}D network on this data: the smallest "
            f"one needs {needed} s. Give more with --time-per-fold."
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


def explain_time(budget: Budget, largest: Sized, chosen: Sized, training: TrainingSpec) -> dict[str, str]:
    """Reasons for what the time decided, by the decision's name; empty when time is not limited."""
    if training.time_per_fold_seconds is None:
        return {}
    steps = training.epochs * training.steps_per_epoch
    measured = "measured" if _measured(budget, len(chosen.topology.patch_size)) else "assumed, not measured"
    by_default = " (the default for a CPU)" if budget.time_per_fold_seconds is None else ""
    schedule = (
        f"{training.time_per_fold_seconds:g} s per fold{by_default}, {RESERVED_FRACTION:.0%} of them kept for start-up "
        f"and final validation, leave {steps} steps at the {measured} speed; AdamW needs fewer steps than SGD."
    )
    if steps < MINIMUM_STEPS:
        schedule += f" That is too few to learn well (at least {MINIMUM_STEPS} are wanted): give more time."
    reasons = {"schedule": schedule, "base_features": _explain_width(chosen)}
    if chosen.batch_size != largest.batch_size:
        reasons["batch_size"] = (
            f"With little time more steps teach more than larger batches; memory allows {largest.batch_size}."
        )
    if chosen.topology != largest.topology:
        reasons["patch_size"] = (
            f"Memory allows {largest.topology.patch_size}, halved along the relatively longest axis until "
            f"{MINIMUM_STEPS} steps fit the time."
        )
    return reasons


def _explain_width(chosen: Sized) -> str:
    if chosen.base_features == WIDTHS[-1]:
        return f"The narrowest network; wider ones would get fewer than {WANTED_STEPS} steps."
    if chosen.base_features == WIDTHS[0]:
        return f"nnU-Net's width: even so at least {WANTED_STEPS} steps fit the time."
    return f"The widest network that gets at least {WANTED_STEPS} steps in the time."


def _candidates(largest: Sized, spacing: Sequence[float], median_shape: Sequence[float]) -> Iterator[tuple[Sized, int]]:
    """Sizes and the steps they must get; first narrower, then smaller batches, then smaller patches."""
    dimensions = len(spacing)
    batch_size = min(largest.batch_size, LARGEST_BATCH[dimensions])
    for base_features in WIDTHS[:-1]:
        yield Sized(largest.topology, base_features, batch_size), WANTED_STEPS
    yield Sized(largest.topology, WIDTHS[-1], batch_size), MINIMUM_STEPS
    while batch_size // 2 >= SMALLEST_BATCH[dimensions]:
        batch_size //= 2
        yield Sized(largest.topology, WIDTHS[-1], batch_size), MINIMUM_STEPS
    topology = _halve(spacing, median_shape, largest.topology)
    while topology is not None:
        yield Sized(topology, WIDTHS[-1], batch_size), MINIMUM_STEPS
        topology = _halve(spacing, median_shape, topology)


def _halve(spacing: Sequence[float], median_shape: Sequence[float], topology: Topology) -> Topology | None:
    """Halve the axis that is longest relative to the median; None when no axis can be halved any more.

    No axis ever grows: an axis whose halving would make another one be padded further is passed over.
    """
    old = topology.patch_size
    ratios = [edge / size for edge, size in zip(old, median_shape, strict=True)]
    for axis in sorted(range(len(old)), key=lambda axis: (ratios[axis], axis), reverse=True):
        if old[axis] < 2 * MINIMUM_EDGE:
            continue
        halved = compute_topology(spacing, [edge / 2 if i == axis else edge for i, edge in enumerate(old)])
        grows = any(new > edge for new, edge in zip(halved.patch_size, old, strict=True))
        if halved.levels > 1 and halved.patch_size != old and not grows:
            return halved
    return None


def affordable_steps(seconds: float, seconds_per_step: float) -> float:
    """Training steps in the time of a fold, validation after each epoch paid for."""
    with_validation = seconds_per_step * (1 + VALIDATION_SHARE * VALIDATION_STEP_COST)
    return min(seconds * (1 - RESERVED_FRACTION) / with_validation, MOST_STEPS)


def step_seconds(budget: Budget, network: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> float:
    """Expected time of one training step."""
    macs = forward_macs(network, patch_size) * batch_size
    return macs / macs_per_second(budget, network.dimensions, network.features[0])


def macs_per_second(budget: Budget, dimensions: int, base_features: int) -> float:
    """Throughput at a width: interpolated between measured widths in the logarithm of the width.

    Beyond the widest measured network it stays as there; below the narrowest it falls in proportion to the width,
    because narrow convolutions use a device badly. An assumed figure where nothing was measured.
    """
    measured = _measured(budget, dimensions)
    if not measured:
        return ASSUMED_MACS_PER_SECOND[budget.device]
    if base_features <= measured[0].base_features:
        return measured[0].macs_per_second * base_features / measured[0].base_features
    for low, high in itertools.pairwise(measured):
        if low.base_features < base_features <= high.base_features:
            position = math.log(base_features / low.base_features) / math.log(high.base_features / low.base_features)
            return low.macs_per_second + position * (high.macs_per_second - low.macs_per_second)
    return measured[-1].macs_per_second


def _measured(budget: Budget, dimensions: int) -> list[Throughput]:
    points = [point for point in budget.throughput if point.dimensions == dimensions]
    return sorted(points, key=lambda point: (point.base_features, point.macs_per_second))
