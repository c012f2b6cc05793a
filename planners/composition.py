"""From a preset, a fingerprint and a budget to a plan: the method that all planners share.

Read `compose` from top to bottom: it is the method. Every number is in the rule that uses it (`planners.rules`), or in
the planner's preset.

    decide_shared             memory, axis order, target spacing, normalisation
    outline_configurations    which configurations make sense for the data
    choose_configurations     which of them are planned
    ConfigurationPlanner.plan patch, batch, network, schedule of each

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021). Differs: single-slice data is always planned as 2D across the
    slice; images too small to pool are padded; a budget that nothing fits, and data without cases, end in an error; a
    time per fold (always for a CPU) sizes network and schedule, and a latency the network; the user's own values are
    kept.

Tested in tests/planners/test_unet.py, test_overrides.py, test_adoption.py and test_golden.py.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from autoseg.errors import BudgetError, PlanningError
from autoseg.records.budget import Budget
from autoseg.records.case import Spacing, Triple
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Decision, Plan
from planners.adopted import adopt_configurations
from planners.cascades import plan_cascade, plan_interactive
from planners.configuration import ConfigurationPlanner
from planners.context import PlanningContext
from planners.preset import Preset
from planners.requests import check_options_with_model, check_requests
from planners.rules import Decided, as_decision
from planners.rules.configurations import (
    CASCADE,
    CORRECTED,
    FLAT_PLANNER_REASON,
    INTERACTIVE,
    SINGLE_SLICE_REASON,
    SPACING_REASONS,
    THICK_SLICE,
    choose_batch_dice,
    choose_cascade,
    choose_configurations,
    choose_neighbor_slices,
)
from planners.rules.normalization import adopt_normalization, choose_masks, choose_normalization
from planners.rules.sampling import choose_case_sampling
from planners.rules.sides import choose_side_pairs
from planners.rules.spacing import (
    COVERED_FRACTION,
    LowResolution,
    choose_low_resolution,
    choose_target_spacing,
    choose_transpose,
    coarser_resolutions,
    covered_fraction,
    median_resampled_shape,
)


def compose(
    preset: Preset,
    fingerprint: Fingerprint,
    budget: Budget,
    *,
    name: str | None = None,
    left_out: Mapping[str, str] | None = None,
    decisions: Sequence[Decision] = (),
) -> Plan:
    """Plan all configurations that make sense, or those that the budget asks for.

    Args:
        preset: The planner's constants.
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time, the user's own values.
        name: Name of the planner; None: the preset's.
        left_out: Configurations that the planner leaves out unless they are asked for, with the reason.
        decisions: What the planner decided before.

    Returns:
        The plan, with each decision and its reason.

    Raises:
        PlanningError: If there is no case, nothing fits the memory or the time, or something that was asked for does
            not exist for this data.
    """
    check_options_with_model(budget)
    context, shared_decisions = decide_shared(preset, fingerprint, budget)
    left_out = left_out or {}
    possible, outline_decisions = outline_configurations(context, left_out)
    names = choose_configurations(list_names(possible, budget), budget.configurations, left_out)
    chosen = [planner for planner in possible if planner.name in names.value]
    check_requests(context, chosen, names.value)
    has_low_resolution = any(planner.name == "3d_lowres" for planner in possible)
    configurations, own_decisions = _plan_each(chosen, has_low_resolution=has_low_resolution)
    own_decisions += _plan_dependent(context, configurations, names.value)
    return Plan(
        dataset_name=fingerprint.dataset_name,
        planner=name or preset.name,
        budget=budget,
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        encoding=fingerprint.encoding,
        orientation=fingerprint.orientation,
        transpose=context.transpose,
        configurations=configurations,
        decisions=(
            *decisions,
            as_decision("configurations", names),
            *_list_devices(budget),
            *_list_decided_for_data(fingerprint, budget),
            *outline_decisions,
            *shared_decisions,
            *own_decisions,
        ),
    )


def _plan_dependent(
    context: PlanningContext, configurations: dict[str, Configuration], names: Container[str]
) -> Sequence[Decision]:
    """Add the configurations that follow from others, and share preprocessed cases; their decisions."""
    if CASCADE in names:
        configurations[CASCADE] = plan_cascade(context, configurations["3d_fullres"])
    if {"2d", THICK_SLICE} <= configurations.keys():
        configurations[THICK_SLICE] = configurations[THICK_SLICE].model_copy(update={"preprocessed_as": "2d"})
    if INTERACTIVE not in names:
        return ()
    configurations[INTERACTIVE], decisions = plan_interactive(context, configurations)
    return decisions


def _list_devices(budget: Budget) -> tuple[Decision, ...]:
    if budget.devices == 1:
        return ()
    reason = "Requested: each takes its part of every batch, and needs the memory that is planned for one."
    return (as_decision("devices", Decided(budget.devices, reason)),)


def _list_decided_for_data(fingerprint: Fingerprint, budget: Budget) -> tuple[Decision, ...]:
    """What is a decision only for some data: labels with sides, or with few cases."""
    pairs, sampling = choose_side_pairs(fingerprint, budget), choose_case_sampling(fingerprint, budget)
    return (
        *(() if pairs is None else (as_decision("side_pairs", pairs),)),
        *(() if sampling is None else (as_decision("case_sampling", sampling),)),
    )


def decide_shared(
    preset: Preset, fingerprint: Fingerprint, budget: Budget
) -> tuple[PlanningContext, tuple[Decision, ...]]:
    """What all configurations share: target spacing, axis order, shape there, memory, normalisation.

    Raises:
        PlanningError: If there is no case.
    """
    if not fingerprint.cases:
        raise PlanningError("The fingerprint has no training cases; a plan needs at least one labelled case.")
    spacings = [case.spacing for case in fingerprint.cases]
    shapes = [case.cropped_shape for case in fingerprint.cases]
    target_spacing = _choose_target_spacing(budget, spacings, shapes)
    shape = median_resampled_shape(spacings, shapes, target_spacing.value)
    transpose = choose_transpose(target_spacing.value, shape)
    if budget.like is not None and min(shape) > 1:
        transpose = Decided(budget.like.transpose, f"That of {budget.like.model}.")
    memory = preset.choose_memory(budget)
    cropped_fraction = fingerprint.median_cropped_fraction
    normalization = choose_normalization(fingerprint.channel_names, fingerprint.intensities, cropped_fraction)
    if budget.like is not None:
        normalization = adopt_normalization(budget.like, fingerprint.channel_names, normalization.value)
    z, y, x = transpose.value
    context = PlanningContext(
        preset=preset,
        fingerprint=fingerprint,
        budget=budget,
        memory_gigabytes=memory.value,
        spacing=(target_spacing.value[z], target_spacing.value[y], target_spacing.value[x]),
        median_shape=(shape[z], shape[y], shape[x]),
        transpose=transpose.value,
        normalization=normalization.value,
    )
    schemes = tuple(spec.scheme for spec in normalization.value)
    return context, (
        as_decision("memory", memory),
        as_decision("transpose", transpose),
        as_decision("target_spacing", Decided(context.spacing, target_spacing.reason)),
        as_decision("normalization", Decided(schemes, normalization.reason)),
        as_decision("normalization_mask", choose_masks(normalization.value, cropped_fraction)),
    )


def _choose_target_spacing(budget: Budget, spacings: Sequence[Spacing], shapes: Sequence[Triple]) -> Decided[Spacing]:
    """What the user asked for, the spacing of a model to start from, or the rule's; before the transpose."""
    asked, like = budget.overrides.spacing, budget.like
    if asked is not None:
        return Decided(asked, "Requested.")
    if like is not None and "3d_fullres" in like.configurations:
        transposed = like.configurations["3d_fullres"].spacing
        z, y, x = (transposed[like.transpose.index(axis)] for axis in range(3))
        return Decided((z, y, x), f"That of {like.model}.")
    return choose_target_spacing(spacings, shapes)


def outline_configurations(
    context: PlanningContext, left_out: Container[str]
) -> tuple[list[ConfigurationPlanner], list[Decision]]:
    """One planner for each configuration that makes sense for the data, the cascade left aside.

    Args:
        context: What the configurations share.
        left_out: Names that will not be planned unless they are asked for.

    Returns:
        The planners in the order of the plan, and why there is a low resolution and a cascade, or not.

    Raises:
        BudgetError: If no patch fits the memory.
        PlanningError: If none of the configurations of a model to start from suits the data.
    """
    budget, shape = context.budget, context.median_shape
    cascade = as_decision(CASCADE, choose_cascade(budget))
    if budget.like is not None:
        return adopt_configurations(context, budget.like), [cascade] if CASCADE in budget.like.configurations else []
    flat_spacing = Decided(context.spacing[1:], SPACING_REASONS["2d"])
    flat = ConfigurationPlanner(context, "2d", flat_spacing, shape, math.prod(shape))
    thick = replace(flat, name=THICK_SLICE, neighbor_slices=choose_neighbor_slices(budget))
    asked = budget.configurations
    if 3 not in context.preset.memory_references:
        planners = [flat, thick] if min(shape) > 1 else [flat]
        return planners, [as_decision("3d_fullres", Decided(False, FLAT_PLANNER_REASON))]
    if min(shape) <= 1:
        return [flat], [as_decision("3d_fullres", Decided(False, SINGLE_SLICE_REASON))]
    if asked and set(asked) <= {"2d", THICK_SLICE}:
        return [flat, thick], []
    full_spacing = Decided(context.spacing, SPACING_REASONS["3d_fullres"])
    full = ConfigurationPlanner(context, "3d_fullres", full_spacing, shape, math.prod(shape))
    _check_memory([full, flat] if ("2d" in asked if asked else "2d" not in left_out) else [full])
    low, decision = _find_low_resolution(context, full)
    if low is None:
        return [flat, thick, full], [decision]
    return [flat, thick, full, low], [decision, cascade]


def _check_memory(planners: Sequence[ConfigurationPlanner]) -> None:
    """Fit the patch of each one; where the memory is too small for some, name what would do for all of them."""
    refusals: list[BudgetError] = []
    for planner in planners:
        try:
            _ = planner.patch
        except BudgetError as error:
            refusals.append(error)
    raise_largest(refusals)


def raise_largest(refusals: Sequence[BudgetError]) -> None:
    """Where limits are too small for some configurations, name what would do for all of them.

    Raises:
        BudgetError: The one of the largest need, of the limit that refuses first.
    """
    if refusals:
        of_one_limit = [refusal for refusal in refusals if refusal.limit == refusals[0].limit]
        raise max(of_one_limit, key=lambda refusal: refusal.needed)


def _find_low_resolution(
    context: PlanningContext, full: ConfigurationPlanner
) -> tuple[ConfigurationPlanner | None, Decision]:
    """The first coarser spacing at which a patch covers enough of the median image; None if it is not worth it."""
    covered = covered_fraction(full.patch.value.patch_size, full.image_voxels)
    low, low_covered, planner = None, covered, full
    resolutions = coarser_resolutions(context.spacing, context.median_shape)
    while low_covered < COVERED_FRACTION and (candidate := next(resolutions, None)) is not None:
        low, planner = candidate, _plan_at(context, candidate)
        low_covered = covered_fraction(planner.patch.value.patch_size, candidate.image_voxels)
    decided = choose_low_resolution(covered, low, low_covered, full.image_voxels / planner.image_voxels)
    return planner if decided.value else None, as_decision("3d_lowres", decided)


def _plan_at(context: PlanningContext, low: LowResolution) -> ConfigurationPlanner:
    spacing = Decided(low.spacing, SPACING_REASONS["3d_lowres"])
    return ConfigurationPlanner(context, "3d_lowres", spacing, low.median_shape, low.image_voxels)


def list_names(planners: Sequence[ConfigurationPlanner], budget: Budget) -> list[str]:
    """Names of all configurations that make sense, the cascade included, in the order of a plan."""
    names = [planner.name for planner in planners]
    adopted = {CASCADE, INTERACTIVE} if budget.like is None else budget.like.configurations.keys()
    if "3d_lowres" in names and CASCADE in adopted and choose_cascade(budget).value:
        names.append(CASCADE)
    return [*names, INTERACTIVE] if INTERACTIVE in adopted and {*names}.intersection(CORRECTED) else names


def _plan_each(
    planners: Sequence[ConfigurationPlanner], *, has_low_resolution: bool
) -> tuple[dict[str, Configuration], list[Decision]]:
    """All configurations but the cascade, and their decisions.

    Raises:
        BudgetError: If limits are too small for some of them; names what would do for all.
    """
    configurations: dict[str, Configuration] = {}
    decisions: list[Decision] = []
    refusals: list[BudgetError] = []
    for planner in planners:
        batch_dice = choose_batch_dice(planner.name, has_low_resolution=has_low_resolution)
        try:
            configurations[planner.name], added = planner.plan(batch_dice)
        except BudgetError as error:
            refusals.append(error)
        else:
            decisions += added
    raise_largest(refusals)
    return configurations, decisions
