"""The planners `resenc-m`, `resenc-l`, `resenc-xl`: nnU-Net v2's residual-encoder presets for three sizes of GPU.

The method is in `planners.composition`. A residual encoder is deeper where maps are small; the larger presets see
larger patches. They are nnU-Net's recommendation since 2024.

References:
    Isensee et al., "nnU-Net Revisited", MICCAI 2024; nnU-Net v2 for the planners and their constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, NetworkSpec
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.heads import HEAD_OPTIONS, with_head
from planners.preset import Preset, check_options
from planners.rules.memory import MemoryReference
from planners.rules.topology import Topology, features_per_level
from planners.unet import WIDTHS, choose_widths

ENCODER_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first levels; deeper levels have as many as the last one here."""

DECODER_CONVOLUTIONS = 1
"""Convolutions per decoder level; most of the computation is in the encoder."""

DATASET_FRACTION = 1.0
"""A batch may cover the whole dataset."""

REFERENCE_BATCHES = {2: 12, 3: 2}
"""Number of patches that are guaranteed to fit, for each number of dimensions."""


@dataclass(frozen=True)
class Size:
    """One of nnU-Net's sizes."""

    gigabytes: float
    elements_2d: float
    """Feature-map elements that fit at the reference batch."""
    elements_3d: float


SIZES = {
    "resenc-m": Size(8.0, 135e6, 680e6),
    "resenc-l": Size(24.0, 380e6, 2.1e9),
    "resenc-xl": Size(40.0, 560e6, 3.6e9),
}


def plan_m(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a residual-encoder U-Net for 8 GB; see `planners.unet.plan`."""
    return compose(make_residual_preset("resenc-m", budget.overrides.options), fingerprint, budget)


def plan_l(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a residual-encoder U-Net for 24 GB; see `planners.unet.plan`."""
    return compose(make_residual_preset("resenc-l", budget.overrides.options), fingerprint, budget)


def plan_xl(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a residual-encoder U-Net for 40 GB; see `planners.unet.plan`."""
    return compose(make_residual_preset("resenc-xl", budget.overrides.options), fingerprint, budget)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("residual_unet",)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, WIDTHS, trial_seconds)


def make_residual_preset(name: str, options: Mapping[str, str]) -> Preset:
    """The constants of one size.

    Args:
        name: A key of SIZES.
        options: Planner options; known are `base_features` and those of the head.

    Raises:
        PlanningError: If an option is unknown or out of range.
    """
    check_options(options, ("base_features", *HEAD_OPTIONS), name)
    size = SIZES[name]
    widths = choose_widths(options)
    preset = Preset(
        name=name,
        memory_gigabytes=size.gigabytes,
        memory_references={2: _reference(2, size.elements_2d, size), 3: _reference(3, size.elements_3d, size)},
        dataset_fraction=DATASET_FRACTION,
        widths=widths.value,
        width_reason=widths.reason,
        plan_network=plan_residual_unet,
    )
    return with_head(preset, options)


def _reference(dimensions: int, elements: float, size: Size) -> MemoryReference:
    batch_size = REFERENCE_BATCHES[dimensions]
    return MemoryReference(elements, batch_size, gigabytes=size.gigabytes, guaranteed_batch=batch_size)


def plan_residual_unet(
    topology: Topology, base_features: int, input_channels: int, output_channels: int
) -> NetworkSpec:
    """A residual-encoder U-Net with as many levels as the topology."""
    dimensions: Literal[2, 3] = 2 if len(topology.patch_size) == 2 else 3
    levels = topology.levels
    return NetworkSpec(
        architecture="residual_unet",
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        features=features_per_level(levels, dimensions, base_features),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=tuple(ENCODER_BLOCKS[min(level, len(ENCODER_BLOCKS) - 1)] for level in range(levels)),
        decoder_blocks=(DECODER_CONVOLUTIONS,) * (levels - 1),
    )
