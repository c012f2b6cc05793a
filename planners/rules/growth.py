"""Smaller patches that training begins with, from the smallest that the network can take to the planned one.

Small patches give many cheap steps, with a larger part of foreground, in which the network learns how voxels look;
large ones teach it where they are. Weights, optimiser and course of the learning rate are the same throughout, because
a U-Net takes patches of any legal size.

    smallest patch    one voxel at the lowest level along each axis, two along the longest
    next patches      the axis that is relatively shortest grows by the network's total stride, until all are planned
    batch             larger while patches are small: by the root of the factor by which a patch has fewer voxels

Example: patch 40 x 56 x 40, batch 2, total stride 8: the smallest patch is 8 x 16 x 8, of which a batch has 18. Of the
13 sizes below 40 x 56 x 40 a training with limited time takes 3: 8 x 16 x 8, 16 x 16 x 16 and 24 x 32 x 24.

References:
    Fischer et al., "Progressive growing of patch size: resource-efficient curriculum learning for dense prediction
    tasks", MICCAI 2024, and its extension of 2025, in which batches are larger while patches are small. As there, a
    full schedule takes all legal sizes, each for the same number of steps. Differs: which axis grows next, how large
    batches are, and with limited time fewer sizes and more time for the planned patch.
"""

import math
from collections.abc import Iterator, Sequence

from autoseg.records.budget import Budget
from autoseg.records.network import NetworkSpec
from autoseg.records.training import GrowingPatch
from planners.rules import Decided
from planners.rules.schedule import time_per_fold
from planners.rules.speed import WANTED_STEPS

MAX_SIZES = 50
"""Smaller patches at most, so that each is trained for some epochs of a full schedule."""

LIMITED_SIZES = 3
"""Smaller patches in a training with limited time."""

LIMITED_FRACTION = 0.5
"""Fraction of a training with limited time that they take together, each the same."""

FIXED_COST = 0.1
"""Fraction of a step's time that does not depend on the patch: update of the weights, calls of operations. Measured on
one core: 0.04 to 0.16."""


FAR_APART_REASON = "Slices are far apart, where such patches gave more in ten minutes (ACDC: Dice 0.877, not 0.836)"

FEW_STEPS_REASON = (
    f"The planned patch alone gets fewer than {WANTED_STEPS} steps, where small ones first gave more (Dice of the "
    "hippocampus 0.879, not 0.875; of lung lobes 0.917, not 0.907)"
)


def choose_growth(
    budget: Budget,
    network: NetworkSpec,
    patch_size: Sequence[int],
    batch_size: int,
    *,
    are_slices_far_apart: bool = False,
    expected_steps: float = math.inf,
) -> Decided[tuple[GrowingPatch, ...]]:
    """The smaller patches that a configuration is trained on first, where they are wanted or known to help.

    Args:
        budget: What the user wants, and whether time is limited.
        network: Its strides say which patches are legal.
        patch_size: Planned patch, voxels.
        batch_size: Planned batch.
        are_slices_far_apart: Whether the rules for such images apply; a 3D network then begins with small patches if
            time is limited, unless the user decided.
        expected_steps: Steps of the planned patch that the time allows; a 3D network begins with small patches where
            they are few, unless the user decided.
    """
    asked, is_limited = budget.overrides.progressive, time_per_fold(budget) is not None
    has_few_steps = expected_steps < WANTED_STEPS
    suits = network.dimensions == 3 and network.detection is None  # small patches cut objects, and heads cost as much
    helps = is_limited and suits and (are_slices_far_apart or has_few_steps)
    if not (helps if asked is None else asked):
        return Decided((), "Not requested.")
    why = "Requested" if asked else FAR_APART_REASON if are_slices_far_apart else FEW_STEPS_REASON
    sizes = list(_legal_patches(network, patch_size))
    if not sizes:
        return Decided((), f"{why}, but the planned patch is the smallest that the network can take.")
    if not is_limited:
        sizes = _spread(sizes, patch_size, MAX_SIZES) if len(sizes) > MAX_SIZES else sizes
        fraction = len(sizes) / (len(sizes) + 1)
        return Decided(
            _plan_patches(sizes, patch_size, batch_size, fraction),
            f"{why}: every legal size for the same number of steps, the planned one last.",
        )
    return Decided(
        _plan_patches(_spread(sizes, patch_size, LIMITED_SIZES), patch_size, batch_size, LIMITED_FRACTION),
        f"{why}: {LIMITED_FRACTION:.0%} of the time for smaller patches, which give more steps.",
    )


def _plan_patches(
    sizes: Sequence[tuple[int, ...]], planned: Sequence[int], batch_size: int, fraction: float
) -> tuple[GrowingPatch, ...]:
    """Batches and lengths for sizes that share a fraction of the training."""
    return tuple(
        _plan_patch(size, math.prod(size) / math.prod(planned), batch_size, fraction * number / len(sizes))
        for number, size in enumerate(sizes, start=1)
    )


def _plan_patch(size: tuple[int, ...], ratio: float, planned_batch: int, until: float) -> GrowingPatch:
    batch_size = math.floor(planned_batch / math.sqrt(ratio))
    cost = FIXED_COST + (1.0 - FIXED_COST) * ratio * batch_size / planned_batch
    return GrowingPatch(patch_size=size, batch_size=batch_size, until=round(until, 4), cost_fraction=round(cost, 3))


def _legal_patches(network: NetworkSpec, patch_size: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every size from the smallest up to, but without, the planned one."""
    strides = [math.prod(steps) for steps in zip(*network.strides, strict=True)]
    planned = [edge // stride for edge, stride in zip(patch_size, strides, strict=True)]
    units = [1] * len(planned)
    units[planned.index(max(planned))] = 2
    while units != planned:
        yield tuple(unit * stride for unit, stride in zip(units, strides, strict=True))
        shortest = min(range(len(units)), key=lambda axis: (units[axis] / planned[axis], axis))
        units[shortest] += 1


def _spread(sizes: Sequence[tuple[int, ...]], planned: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Some of the sizes, the smallest first, evenly spaced by the logarithm of their voxels."""
    smallest, largest = math.prod(sizes[0]), math.prod(planned)
    wanted = [smallest * (largest / smallest) ** (index / count) for index in range(count)]
    nearest = [min(sizes, key=lambda size: abs(math.log(math.prod(size) / voxels))) for voxels in wanted]
    return sorted(set(nearest), key=math.prod)
