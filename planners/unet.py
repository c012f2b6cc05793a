"""The `unet` planner: nnU-Net v2's default plans, with a reason for every decision.

The method is in `planners.composition`; here stands what is special to the plain U-Net: its shape, and what fits in
8 GB.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021; default planner of version 2).
"""

from collections.abc import Mapping
from typing import Literal

from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, NetworkSpec
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.preset import Preset, check_options, whole_number
from planners.rules import Decided
from planners.rules.memory import MemoryReference
from planners.rules.topology import Topology, features_per_level

NAME = "unet"

CONVOLUTIONS_PER_LEVEL = 2
"""Convolutions of each level, in the encoder and in the decoder."""

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
        budget: Device, memory, time, the user's own values. Planner options: `base_features`.

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


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, WIDTHS, trial_seconds)


def make_unet_preset(options: Mapping[str, str]) -> Preset:
    """The plain U-Net's constants.

    Raises:
        PlanningError: If an option is unknown or out of range.
    """
    check_options(options, ("base_features",), NAME)
    widths = choose_widths(options)
    return Preset(
        name=NAME,
        memory_gigabytes=8.0,
        memory_references=MEMORY_REFERENCES,
        dataset_fraction=DATASET_FRACTION,
        widths=widths.value,
        width_reason=widths.reason,
        plan_network=plan_unet,
    )


def choose_widths(options: Mapping[str, str]) -> Decided[tuple[int, ...]]:
    """The usual widths, or the one that was asked for; with the reason for the first."""
    asked = whole_number(options, "base_features", 1, WIDEST)
    return Decided(WIDTHS, WIDTH_REASON) if asked is None else Decided((asked,), "Requested.")


def plan_unet(topology: Topology, base_features: int, input_channels: int, output_channels: int) -> NetworkSpec:
    """A plain U-Net with as many levels as the topology."""
    dimensions: Literal[2, 3] = 2 if len(topology.patch_size) == 2 else 3
    return NetworkSpec(
        architecture="unet",
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        features=features_per_level(topology.levels, dimensions, base_features),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=(CONVOLUTIONS_PER_LEVEL,) * topology.levels,
        decoder_blocks=(CONVOLUTIONS_PER_LEVEL,) * (topology.levels - 1),
    )
