"""The `unet` planner: nnU-Net v2's default plans, with a reason for every decision; and U-Nets of other parts.

The method is in `planners.composition`; here stands what is special to the plain U-Net: its shape, and what fits in
8 GB. Parts (`planners.parts`) are settings: `--planner-option block=residual`.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021; default planner of version 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from autoseg.costs.memory import count_feature_map_elements, count_saved_elements
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, Attention, Block, Bottleneck, NetworkSpec, Skip
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.heads import HEAD_OPTIONS, POINT_STRIDES, with_head
from planners.parts import BLOCKS_PER_LEVEL, NAMED_PARTS, PART_NAMES, PLAIN_PARTS, Parts, read_parts
from planners.preset import NetworkPlanner, Preset, check_options, whole_number
from planners.rules import Decided
from planners.rules.memory import MemoryReference
from planners.rules.topology import Topology, compute_topology, features_per_level

NAME = "unet"

MEMORY_REFERENCES = {
    2: MemoryReference(elements=85e6, batch_size=12),
    3: MemoryReference(elements=560e6, batch_size=2),
}
"""What fits 8 GB, for each number of dimensions: about 512 x 512 at batch 12, and 128 x 128 x 128 at batch 2."""

DATASET_FRACTION = 0.05
"""A batch covers at most this part of the dataset's voxels: a guard against overfitting."""

WIDTHS = (32, 24, 16, 8)
"""Feature maps at full resolution, best first; the widest is nnU-Net's, below 8 a U-Net hardly learns."""

WIDTH_REASON = "nnU-Net's width: doubled from level to level, up to a cap that saves parameters."

WIDEST = 128
"""Largest width that may be asked for."""


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan all configurations that make sense, or those that the budget asks for.

    Args:
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time, the user's own values. Planner options: `base_features`, the parts `block`,
            `skip`, `attention` and `bottleneck`, and those of the head, `head` and `point_stride`.

    Returns:
        The plan, with each decision and its reason.

    Raises:
        PlanningError: If there is no case, nothing fits the memory or the time, or something that was asked for does
            not exist for this data.
    """
    return compose(make_unet_preset(budget.overrides.options), fingerprint, budget)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("unet",)


def variants(_networks: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Planner options of the networks that a list shows: plain, each part without a name of its own, point heads."""
    values = {"block": get_args(Block), "skip": get_args(Skip), "attention": get_args(Attention)}
    values["bottleneck"] = get_args(Bottleneck)
    named = {PLAIN_PARTS, *NAMED_PARTS.values()}
    chosen = [{part: value} for part in PART_NAMES for value in values[part]]
    parts = (options for options in chosen if read_parts(options) not in named)
    return ({}, *parts, *({"head": "points", "point_stride": stride} for stride in POINT_STRIDES))


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, WIDTHS, trial_seconds)


def make_unet_preset(options: Mapping[str, str]) -> Preset:
    """The plain U-Net's constants.

    Raises:
        PlanningError: If an option is unknown or out of range.
    """
    check_options(options, ("base_features", *PART_NAMES, *HEAD_OPTIONS), NAME)
    return make_preset_of_parts(NAME, read_parts(options), options)


def make_preset_of_parts(name: str, parts: Parts, options: Mapping[str, str]) -> Preset:
    """The constants of a U-Net of parts.

    Args:
        name: Name of the planner.
        parts: What it is made of.
        options: Planner options, of which `base_features` and those of the head are read.

    Raises:
        PlanningError: If the width is out of range, or the head does not exist.
    """
    widths = choose_widths(options)
    plan_network = partial(plan_unet, parts=parts)
    preset = Preset(
        name=name,
        memory_gigabytes=8.0,
        memory_references=MEMORY_REFERENCES if parts == PLAIN_PARTS else scale_references(plan_network),
        dataset_fraction=DATASET_FRACTION,
        widths=widths.value,
        width_reason=widths.reason,
        plan_network=plan_network,
    )
    return with_head(preset, options)


def scale_references(plan_network: NetworkPlanner, max_levels: int | None = None) -> Mapping[int, MemoryReference]:
    """What fits 8 GB of another network: fewer elements than of a plain U-Net where each keeps more beside itself."""
    relative = {dimensions: _relative_memory(dimensions, plan_network, max_levels) for dimensions in MEMORY_REFERENCES}
    return {
        dimensions: replace(reference, elements=reference.elements / max(1.0, relative[dimensions]))
        for dimensions, reference in MEMORY_REFERENCES.items()
    }


def _relative_memory(dimensions: int, plan_network: NetworkPlanner, max_levels: int | None) -> float:
    """What is kept for each counted element, relative to a plain U-Net."""
    edge = {2: 512.0, 3: 128.0}[dimensions]
    topology = compute_topology((1.0,) * dimensions, (edge,) * dimensions, max_levels)
    kept_per_element = []
    for plan_each in (plan_network, plan_unet):
        network = plan_each(topology, WIDTHS[0], 1, 2)
        elements = count_feature_map_elements(network, topology.patch_size, output_channels=2)
        kept_per_element.append(count_saved_elements(network, topology.patch_size) / elements)
    return kept_per_element[0] / kept_per_element[1]


def choose_widths(options: Mapping[str, str]) -> Decided[tuple[int, ...]]:
    """The usual widths, or the one that was asked for; with the reason for the first."""
    asked = whole_number(options, "base_features", 1, WIDEST)
    return Decided(WIDTHS, WIDTH_REASON) if asked is None else Decided((asked,), "Requested.")


def plan_unet(
    topology: Topology, base_features: int, input_channels: int, output_channels: int, parts: Parts = PLAIN_PARTS
) -> NetworkSpec:
    """A U-Net with as many levels as the topology."""
    dimensions: Literal[2, 3] = 2 if len(topology.patch_size) == 2 else 3
    blocks = BLOCKS_PER_LEVEL[parts.block]
    return NetworkSpec(
        architecture="unet",
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        features=features_per_level(topology.levels, dimensions, base_features),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=(blocks,) * topology.levels,
        decoder_blocks=(blocks,) * (topology.levels - 1),
        block=parts.block,
        skip=parts.skip,
        attention=parts.attention,
        bottleneck=parts.bottleneck,
    )
