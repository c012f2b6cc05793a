"""The `unext` planner: a very small network of convolutions and shifted token MLPs, in two and three dimensions.

For quick answers on small devices: a tenth of a U-Net's multiplications or fewer, and in a long training less accurate
than it, so never a silent default. The method is in `planners.composition`; here stand the widths and how they lie on
the planned levels.

References:
    Valanarasu and Patel, "UNeXt: MLP-based rapid medical image segmentation network", MICCAI 2022, with the widths of
    its published code (16 to 256), to which its published 1.47 million parameters belong. Differs: as many levels as
    the image allows, strides and kernels from the planner, instance normalisation, deep supervision, any number of
    channels, a version in 3D.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from autoseg.costs.architectures import UNEXT_WIDTHS
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, NetworkSpec
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.heads import HEAD_OPTIONS, with_head
from planners.preset import Preset, check_options, choice, yes_or_no
from planners.rules.memory import MemoryReference
from planners.rules.topology import Topology

NAME = "unext"

MEMORY_REFERENCES = {
    2: MemoryReference(elements=85e6 / 2, batch_size=12),
    3: MemoryReference(elements=560e6 / 2, batch_size=2),
}
"""Half of the plain U-Net's: besides its convolutions a UNeXt keeps interpolated maps, sums and layer norms. From the
analytic estimate of memory, not measured on a GPU."""

DATASET_FRACTION = 0.05
"""A batch covers at most this part of the dataset's voxels."""


@dataclass(frozen=True)
class Width:
    """Feature maps, from the finest level to the lowest."""

    convolution_levels: tuple[int, int, int]
    token_levels: tuple[int, int]


WIDTHS = {8: Width((8, 16, 32), (64, 128)), 16: Width((16, 32, 128), (160, 256)), 32: Width((32, 64, 128), (160, 256))}
"""Feature maps per level by those at full resolution."""

MAX_LEVELS = 6
"""Published depth: tokens of 1/32 of the resolution; deeper ones would leave too few to be shifted."""

WIDTH_REASON = "The published network's."


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan UNeXt for all configurations that make sense, or for those that the budget asks for.

    Args:
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time, the user's own values. Planner options: `width` (s, base, text),
            `full_resolution_skip` (true, false; default true in 3D only), and those of the head.

    Raises:
        PlanningError: Under the conditions of `planners.unet.plan`.
    """
    return compose(make_unext_preset(budget.overrides.options), fingerprint, budget)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("unext",)


def variants(_networks: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Planner options of the networks that a list shows."""
    return tuple({"width": name} for name in UNEXT_WIDTHS)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, (), trial_seconds)


def make_unext_preset(options: Mapping[str, str]) -> Preset:
    """The constants of UNeXt.

    Raises:
        PlanningError: If an option is unknown or has another value.
    """
    check_options(options, ("width", "full_resolution_skip", *HEAD_OPTIONS), NAME)
    width = choice(options, "width", UNEXT_WIDTHS, "base")
    preset = Preset(
        name=NAME,
        memory_gigabytes=8.0,
        memory_references=MEMORY_REFERENCES,
        dataset_fraction=DATASET_FRACTION,
        widths=(width,) if "width" in options else (width, UNEXT_WIDTHS["s"]),
        max_levels=MAX_LEVELS,
        width_reason="Requested." if "width" in options else WIDTH_REASON,
        plan_network=partial(plan_unext, full_resolution_skip=yes_or_no(options, "full_resolution_skip")),
    )
    return with_head(preset, options)


def plan_unext(
    topology: Topology,
    base_features: int,
    input_channels: int,
    output_channels: int,
    full_resolution_skip: bool | None = None,
) -> NetworkSpec:
    """A UNeXt with as many levels as the topology, MAX_LEVELS at most.

    The two lowest levels are tokens, as published; a shallower network leaves out convolution levels first, the
    widest ones. Of three levels one is tokens, of two none.

    Examples:
        Four levels at base width have 16, 16, 160 and 256 feature maps; the first two are convolutions.
    """
    dimensions: Literal[2, 3] = 2 if len(topology.patch_size) == 2 else 3
    width = WIDTHS[base_features]
    pooled = topology.levels - 1
    tokens = min(len(width.token_levels), pooled - 1)
    convolutions = width.convolution_levels[: pooled - tokens]
    return NetworkSpec(
        architecture="unext",
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        features=(base_features, *convolutions, *width.token_levels[:tokens]),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=(1,) * topology.levels,
        decoder_blocks=(1,) * pooled,
        token_levels=tokens,
        full_resolution_skip=dimensions == 3 if full_resolution_skip is None else full_resolution_skip,
    )
