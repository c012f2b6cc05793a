"""The `mednext` planner: MedNeXt in its published sizes, in two and three dimensions.

A U-Net whose every layer, changes of resolution included, is a depthwise convolution followed by a perceptron at every
voxel. The method is in `planners.composition`; here stand the sizes and how one of them is chosen: the largest whose
published training fits the memory, or, where time is limited, the largest that gets enough steps.

References:
    Roy et al., "MedNeXt: transformer-driven scaling of ConvNets for medical image segmentation", MICCAI 2023: sizes,
    kernels, depth, AdamW with a rate of 0.001. Differs: fewer levels where the image allows no more; strides and
    kernels of 1 where slices are far apart; spacing, patch and batch from the data; for limited time narrower networks
    than published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

from autoseg.costs.memory import count_feature_map_elements
from autoseg.errors import BudgetError
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, NetworkSpec, Sizes
from autoseg.records.plan import Decision, Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.heads import HEAD_OPTIONS, with_head
from planners.preset import Preset, check_options, choice, yes_or_no
from planners.rules import Decided
from planners.rules.schedule import is_limited
from planners.rules.speed import WANTED_STEPS
from planners.rules.topology import Topology, compute_topology
from planners.unet import DATASET_FRACTION, MEMORY_REFERENCES, WIDTHS, choose_widths

NAME = "mednext"

MAX_LEVELS = 5
"""Published depth: four changes of resolution."""

PUBLISHED_PATCH = (128, 128, 128)

TRAINING: Final[Mapping[str, str | float]] = MappingProxyType({"optimizer": "adamw", "learning_rate": 1e-3})
"""What the published training has instead of nnU-Net's; with limited time every planner has the same other one."""


@dataclass(frozen=True)
class Size:
    """One of the published sizes; per level, full resolution first, in encoder and decoder alike."""

    expansions: tuple[int, int, int, int, int]
    """How many times as wide as their input the hidden layers are."""
    blocks: tuple[int, int, int, int, int]
    """Blocks beside those that change the resolution."""


SIZES: Final[Mapping[str, Size]] = MappingProxyType(
    {
        "S": Size((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
        "B": Size((2, 3, 4, 4, 4), (2, 2, 2, 2, 2)),
        "M": Size((2, 3, 4, 4, 4), (3, 4, 4, 4, 4)),
        "L": Size((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
    }
)
"""From the smallest to the largest."""

KERNELS: Final[Mapping[str, int]] = MappingProxyType({"3": 3, "5": 5})

KNOWN_OPTIONS: Final = ("size", "kernel", "grn", "base_features", *HEAD_OPTIONS)


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan MedNeXt for all configurations that make sense, or for those that the budget asks for.

    Args:
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time, the user's own values. Planner options: `size` (S, B, M, L), `kernel` (3, 5),
            `grn` (true, false; global response normalisation), `base_features`, and those of the head.

    Returns:
        The plan; its first decision is the size.

    Raises:
        PlanningError: Under the conditions of `planners.unet.plan`.
    """
    options = budget.overrides.options
    if budget.like is not None:
        return compose(make_mednext_preset("S", options), fingerprint, budget)
    if "size" in options:
        return _plan(Decided(_read_size(options), "Requested."), fingerprint, budget)
    largest = choose_size(make_mednext_preset("S", options).choose_memory(budget).value)
    if is_limited(budget):
        return _plan_for_time(largest.value, fingerprint, budget)
    return _plan(largest, fingerprint, budget)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("mednext",)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, WIDTHS, trial_seconds)


def variants(_networks: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Settings of the networks that `autoseg networks` lists: all sizes with both kernels."""
    return tuple({"size": size, "kernel": kernel} for size in SIZES for kernel in KERNELS)


def _read_size(options: Mapping[str, str]) -> str:
    names = {name: position for position, name in enumerate(SIZES)}
    return tuple(SIZES)[choice(options, "size", names, "S")]


def choose_size(memory_gigabytes: float) -> Decided[str]:
    """The largest size that trains on the published patch of 128 x 128 x 128; the smallest, on a smaller one, if none.

    Examples:
        S needs 32 GB, B 35, M 49 and L 69; so 40 GB get B, and 8 GB S with smaller patches.
    """
    needed = {name: _published_gigabytes(name) for name in SIZES}
    fitting = [name for name, gigabytes in needed.items() if gigabytes <= memory_gigabytes]
    if not fitting:
        reason = f"The smallest: on the published patch others need {needed['B']:.3g} GB or more."
        return Decided("S", reason)
    return Decided(
        fitting[-1],
        f"The largest that fits {memory_gigabytes:.3g} GB with the published patch of 128 x 128 x 128: it needs "
        f"{needed[fitting[-1]]:.3g}.",
    )


def _published_gigabytes(size: str) -> float:
    topology = compute_topology((1.0,) * 3, PUBLISHED_PATCH, MAX_LEVELS)
    network = plan_mednext(topology, WIDTHS[0], 1, 2, size=size)
    elements = count_feature_map_elements(network, PUBLISHED_PATCH, output_channels=2)
    return MEMORY_REFERENCES[3].needed_gigabytes(elements)


def _plan_for_time(largest: str, fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The largest size that gets enough steps at full width; the smallest one becomes narrower, too."""
    names = tuple(SIZES)
    for name in reversed(names[1 : names.index(largest) + 1]):
        size = Decided(name, f"The largest of the sizes that gets at least {WANTED_STEPS} steps in the time.")
        try:
            found = _plan(size, fingerprint, budget, is_tentative=True)
        except BudgetError:
            continue
        if _count_least_steps(found) >= WANTED_STEPS:
            return found
    reason = "The smallest: time is limited, and it becomes narrower where even so it gets too few steps."
    return _plan(Decided("S", reason), fingerprint, budget)


def _count_least_steps(plan: Plan) -> int:
    trainings = [configuration.training for configuration in plan.configurations.values()]
    return min(training.epochs * training.steps_per_epoch for training in trainings)


def _plan(size: Decided[str], fingerprint: Fingerprint, budget: Budget, *, is_tentative: bool = False) -> Plan:
    """The plan of one size; a tentative one has the full width, patch and batch however few steps they get."""
    options = budget.overrides.options
    preset = make_mednext_preset(size.value, options)
    if is_tentative:
        preset = replace(preset, widths=preset.widths[:1], min_steps=0)
    decision = Decision(what="size", value=size.value, reason=size.reason)
    return compose(preset, fingerprint, budget, decisions=(decision,))


def make_mednext_preset(size: str, options: Mapping[str, str]) -> Preset:
    """The constants of one size.

    Args:
        size: A key of SIZES.
        options: Planner options; `size` is not read.

    Raises:
        PlanningError: If an option is unknown or has another value.
    """
    check_options(options, KNOWN_OPTIONS, NAME)
    widths = choose_widths(options)
    preset = Preset(
        name=NAME,
        memory_gigabytes=8.0,
        memory_references=MEMORY_REFERENCES,
        dataset_fraction=DATASET_FRACTION,
        widths=widths.value,
        max_levels=MAX_LEVELS,
        width_reason="Published." if widths.value == WIDTHS else widths.reason,
        plan_network=partial(
            plan_mednext,
            size=size,
            kernel=choice(options, "kernel", KERNELS, "3"),
            response_normalization=yes_or_no(options, "grn") or False,
        ),
        full_training=TRAINING,
    )
    return with_head(preset, options)


def plan_mednext(
    topology: Topology,
    base_features: int,
    input_channels: int,
    output_channels: int,
    *,
    size: str,
    kernel: int = 3,
    response_normalization: bool = False,
) -> NetworkSpec:
    """A MedNeXt with as many levels as the topology, MAX_LEVELS at most; a shallower one has the upper levels."""
    dimensions: Literal[2, 3] = 2 if len(topology.patch_size) == 2 else 3
    levels, blocks = topology.levels, SIZES[size].blocks
    return NetworkSpec(
        architecture="mednext",
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        features=tuple(base_features * 2**level for level in range(levels)),
        strides=topology.strides,
        kernel_sizes=tuple(_widen(sizes, kernel) for sizes in topology.kernel_sizes),
        encoder_blocks=blocks[:levels],
        decoder_blocks=blocks[: levels - 1],
        expansions=SIZES[size].expansions[:levels],
        response_normalization=response_normalization,
    )


def _widen(kernel_size: Sizes, kernel: int) -> Sizes:
    """Axes along which slices are far apart keep a kernel of one voxel."""
    return tuple(kernel if edge > 1 else 1 for edge in kernel_size)
