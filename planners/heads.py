"""The head of a network: at full resolution, or a point head over a coarse decoder; settings of planners with decoders.

Planners add HEAD_OPTIONS to the settings that they know, and hand their preset to `with_head`.

References:
    Kirillov et al., "PointRend: image segmentation as rendering", CVPR 2020; see `autoseg.networks.points`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from autoseg.errors import PlanningError
from autoseg.records.network import MIN_LEVELS, NetworkSpec
from planners.preset import NetworkPlanner, Preset, choice
from planners.rules import Decided
from planners.rules.topology import Topology

HEAD_OPTIONS: Final = ("head", "point_stride")

HEADS: Final = ("full", "points")

POINT_STRIDES: Final[Mapping[str, int]] = {"2": 2, "4": 4}

REASONS: Final[Mapping[int, str]] = {
    2: "The decoder's level at full resolution is the largest part of what a training keeps (plain U-Net: 44 % in 3D, "
    "30 % in 2D); the next one is 10 or 15 %, and its detail is worth more.",
    4: "Requested: the least memory, at the price of detail that only points bring back.",
}
"""Why a point head has its stride."""


def with_head(preset: Preset, options: Mapping[str, str]) -> Preset:
    """A preset whose networks have the head that the options choose.

    Args:
        preset: Constants of a planner, for networks with a full head.
        options: Planner options, of which HEAD_OPTIONS are read.

    Raises:
        PlanningError: If a value does not exist, or a stride is given without points.
    """
    head = options.get("head", "full")
    if head not in HEADS:
        raise PlanningError(f"--planner-option head={head}: expected one of {', '.join(HEADS)}.")
    if head == "full":
        if "point_stride" in options:
            raise PlanningError("--planner-option point_stride: only a point head has one. Add head=points.")
        return preset
    stride = choice(options, "point_stride", POINT_STRIDES, "2")
    plan_network = partial(_plan_point_network, plan_full=preset.plan_network, stride=stride)
    points = Decided(f"points, stride {stride}", REASONS[stride])
    return replace(
        preset, plan_network=plan_network, head=points, is_deep_enough=partial(_is_deep_enough, stride=stride)
    )


def _is_deep_enough(topology: Topology, stride: int) -> bool:
    """Whether levels are left below the one at which the decoder ends."""
    return find_coarse_level(topology.strides, stride) <= topology.levels - MIN_LEVELS


def _plan_point_network(
    topology: Topology,
    base_features: int,
    input_channels: int,
    output_channels: int,
    plan_full: NetworkPlanner,
    stride: int,
) -> NetworkSpec:
    """The planner's network, its decoder ended at the stride.

    Raises:
        PlanningError: If the patch allows no decoder that is coarser.
    """
    level = find_coarse_level(topology.strides, stride)
    if not _is_deep_enough(topology, stride):
        patch = " ".join(str(edge) for edge in topology.patch_size)
        raise PlanningError(
            f"--planner-option head=points: a patch of {patch} has {topology.levels} levels, and points at stride "
            f"{stride} need {level + MIN_LEVELS}. Give a larger --patch-size or more --memory, or leave it out."
        )
    network = plan_full(topology, base_features, input_channels, output_channels)
    return network.model_copy(update={"head": "points", "coarse_level": level})


def find_coarse_level(strides: Sequence[Sequence[int]], stride: int) -> int:
    """First level whose total stride along some axis is so large, 1 or more.

    Examples:
        Strides (1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2): stride 2 is reached at level 1, stride 4 at level 2.
    """
    total = [1] * len(strides[0])
    for level, steps in enumerate(strides):
        total = [before * step for before, step in zip(total, steps, strict=True)]
        if max(total) >= stride:
            return level
    return len(strides)
