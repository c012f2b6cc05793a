"""The `hrnet` planner: branches of all resolutions side by side, in two and three dimensions.

A U-Net goes down to coarse features and comes back; here a fine branch lives through the whole network and exchanges
what it sees with coarser ones. The method is in `planners.composition`; here stand the stem, the branches and their
widths.

References:
    Sun et al., "Deep high-resolution representation learning for human pose estimation", CVPR 2019: HRNet with its
    first head. Wang et al., "Deep high-resolution representation learning for visual recognition", TPAMI 2020: second
    head. Differs: strides and kernels from the planner; a stem that halves once or not at all, because thin structures
    do not survive a quarter of the resolution; instance normalisation; a first stage of residual blocks instead of
    bottlenecks; a narrower second head; deep supervision.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Literal

from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, BranchSpec, NetworkSpec
from autoseg.records.plan import Decision, Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.preset import Preset, check_options, choice
from planners.rules import Decided, as_decision
from planners.rules.spacing import choose_target_spacing, median_resampled_shape
from planners.rules.topology import SIMILAR_SPACING, Topology, features_per_level
from planners.unet import DATASET_FRACTION, WIDTHS, choose_widths, scale_references

NAME = "hrnet"

STEMS: Final = {"1": 0, "2": 1, "4": 2}
"""Levels above the first branch by what the stem divides the resolution by; 4 is the published one."""

HEADS: Final = {"v1": 0, "v2": 2}
"""Feature maps of the joined branches for each one of the first branch; the first version looks at that branch alone.
The published second version has 15: as many as all branches together, too much memory where little is divided."""

LEVELS_BELOW_STEM: Final = 4
"""Published depth: four branches below a stem that divides."""

BLOCKS: Final = 2
"""Residual blocks of every branch before an exchange, and of the first stage, as in the published small networks."""

HALVED_EDGE: Final = 128
"""From so many voxels on, along the shortest axis that level 1 halves, the stem does it: the branches then see 64 or
more, and a step takes a quarter of the time in 2D, an eighth in 3D."""


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan an HRNet for all configurations that make sense, or for those that the budget asks for.

    Args:
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time, the user's own values. Planner options: `base_features`, feature maps of the first
            branch; `stem` (1, 2, 4), what the resolution of the first branch is divided by; `head` (v1, v2; default
            v2).

    Raises:
        PlanningError: Under the conditions of `planners.unet.plan`.
    """
    options = budget.overrides.options
    check_options(options, ("base_features", "stem", "head"), NAME)
    stem = choose_stem(fingerprint, budget)
    preset = make_hrnet_preset(options, stem.value)
    return compose(preset, fingerprint, budget, decisions=_list_decisions(budget, stem))


def _list_decisions(budget: Budget, stem: Decided[int]) -> tuple[Decision, ...]:
    """The stem, unless the network is that of another model."""
    if budget.like is not None:
        return ()
    return (as_decision("stem", Decided(2**stem.value, stem.reason)),)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("hrnet",)


def variants(_networks: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Planner options of the networks that a list shows."""
    return tuple({"stem": stem, "head": head} for stem in STEMS for head in HEADS)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, WIDTHS, trial_seconds)


def choose_stem(fingerprint: Fingerprint, budget: Budget) -> Decided[int]:
    """Levels above the first branch: as asked for, else 1 for large images and 0 for small ones.

    Raises:
        PlanningError: If another value was asked for.
    """
    options = budget.overrides.options
    if "stem" in options:
        return Decided(choice(options, "stem", STEMS, "1"), "Requested.")
    if not fingerprint.cases:
        return Decided(0, "There is no image.")
    spacings, shapes = (
        [case.spacing for case in fingerprint.cases],
        [case.cropped_shape for case in fingerprint.cases],
    )
    spacing = budget.overrides.spacing or choose_target_spacing(spacings, shapes).value
    shape = median_resampled_shape(spacings, shapes, spacing)
    edges = [
        edge for edge, size in zip(shape, spacing, strict=True) if edge > 1 and size < SIMILAR_SPACING * min(spacing)
    ]
    shortest = min(edges, default=1.0)
    if shortest >= HALVED_EDGE:
        reason = (
            f"The images have {shortest:g} voxels or more along the axes that level 1 halves: the finest branch works "
            f"there, and logits are interpolated. {HALVED_EDGE} are enough for it."
        )
        return Decided(1, reason)
    reason = (
        f"The images have {shortest:g} voxels along an axis that level 1 halves: below {HALVED_EDGE} the finest branch "
        "keeps full resolution."
    )
    return Decided(0, reason)


def make_hrnet_preset(options: Mapping[str, str], stem_levels: int) -> Preset:
    """The constants of the planner.

    Args:
        options: Planner options.
        stem_levels: Levels above the first branch.

    Raises:
        PlanningError: If an option has another value.
    """
    widths, joined = choose_widths(options), choice(options, "head", HEADS, "v2")
    plan_network = partial(plan_hrnet, stem_levels=stem_levels, joined=joined)
    max_levels = LEVELS_BELOW_STEM + max(1, stem_levels)
    reason = "Feature maps of the finest branch; each coarser one has twice as many, up to a cap that saves parameters."
    return Preset(
        name=NAME,
        memory_gigabytes=8.0,
        memory_references=scale_references(plan_network, max_levels),
        dataset_fraction=DATASET_FRACTION,
        widths=widths.value,
        width_reason=reason if widths.value == WIDTHS else widths.reason,
        max_levels=max_levels,
        plan_network=plan_network,
    )


def plan_hrnet(
    topology: Topology,
    base_features: int,
    input_channels: int,
    output_channels: int,
    *,
    stem_levels: int,
    joined: int,
) -> NetworkSpec:
    """An HRNet whose branches are the levels of the topology below the stem.

    Args:
        topology: Two levels or more.
        base_features: Feature maps of the finest branch.
        input_channels: Channels of the images.
        output_channels: Heads.
        stem_levels: Levels above the finest branch; fewer where two branches would not be left.
        joined: Feature maps of the joined branches for each one of the finest branch; 0: nothing is joined.

    Examples:
        Five levels, one of the stem, at width 16: branches of 16, 32, 64 and 128 feature maps.
    """
    dimensions: Literal[2, 3] = 2 if len(topology.patch_size) == 2 else 3
    stem_levels = min(stem_levels, topology.levels - 2)
    num_branches = topology.levels - stem_levels
    return NetworkSpec(
        architecture="hrnet",
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        features=(base_features,) * stem_levels + features_per_level(num_branches, dimensions, base_features),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=(1,) * stem_levels + (BLOCKS,) * num_branches,
        decoder_blocks=(1,) * (topology.levels - 1),
        deep_supervision=stem_levels < 2,
        branches=BranchSpec(
            stem_levels=stem_levels,
            first_blocks=BLOCKS,
            modules=(1,) * (num_branches - 1),
            joined_features=joined * base_features,
        ),
    )
