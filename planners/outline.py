"""Which configurations make sense for the data, and at which spacing: before patch, batch and network are chosen.

Tested in tests/planners/test_unet.py and test_adoption.py.
"""

import math
from collections.abc import Container, Sequence

from autoseg.errors import BudgetError, PlanningError
from autoseg.records.budget import AdoptedConfiguration, AdoptedModel, Budget
from autoseg.records.plan import Decision
from planners.configuration import ConfigurationPlanner, PlanningContext
from planners.rules import Decided, as_decision
from planners.rules.configurations import SINGLE_SLICE_REASON, SPACING_REASONS, choose_cascade
from planners.rules.spacing import (
    COVERED_FRACTION,
    LowResolution,
    choose_low_resolution,
    coarser_resolutions,
    covered_fraction,
)

CASCADE = "3d_cascade_fullres"


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
        return _adopt_configurations(context, budget.like), [cascade] if CASCADE in budget.like.configurations else []
    flat_spacing = Decided(context.spacing[1:], SPACING_REASONS["2d"])
    flat = ConfigurationPlanner(context, "2d", flat_spacing, shape, math.prod(shape))
    asked = budget.configurations
    if min(shape) <= 1:
        return [flat], [as_decision("3d_fullres", Decided(False, SINGLE_SLICE_REASON))]
    if asked and set(asked) <= {"2d"}:
        return [flat], []
    full_spacing = Decided(context.spacing, SPACING_REASONS["3d_fullres"])
    full = ConfigurationPlanner(context, "3d_fullres", full_spacing, shape, math.prod(shape))
    _check_memory([full, flat] if ("2d" in asked if asked else "2d" not in left_out) else [full])
    low, decision = _find_low_resolution(context, full)
    if low is None:
        return [flat, full], [decision]
    return [flat, full, low], [decision, cascade]


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
    has_cascade = "3d_lowres" in names and (budget.like is None or CASCADE in budget.like.configurations)
    return [*names, CASCADE] if has_cascade and choose_cascade(budget).value else names


def _adopt_configurations(context: PlanningContext, model: AdoptedModel) -> list[ConfigurationPlanner]:
    """The model's configurations, the cascade left aside; only 2D ones for images of a single slice."""
    planners = [
        _adopt_configuration(context, name, configuration, model.model)
        for name, configuration in model.configurations.items()
        if name != CASCADE and (len(configuration.spacing) == 2 or min(context.median_shape) > 1)
    ]
    if not planners:
        raise PlanningError(
            f"--like {model.model}: its configurations are {', '.join(model.configurations)}, but the images have a "
            "single slice and need 2d. Take another model, or plan without it."
        )
    return planners


def _adopt_configuration(
    context: PlanningContext, name: str, configuration: AdoptedConfiguration, model: str
) -> ConfigurationPlanner:
    """The model's spacing, unless the user chose another one; and the median image at that spacing."""
    spacing = Decided(configuration.spacing, f"That of {model}.")
    if context.budget.overrides.spacing is not None and name in {"2d", "3d_fullres"}:
        asked = context.spacing[-len(spacing.value) :]
        spacing = spacing if asked == spacing.value else Decided(asked, SPACING_REASONS[name])
    through_plane = context.spacing[: 3 - len(spacing.value)]
    z, y, x = (
        old / new * size
        for old, new, size in zip(context.spacing, (*through_plane, *spacing.value), context.median_shape, strict=True)
    )
    shape = (max(round(z), 1.0), max(round(y), 1.0), max(round(x), 1.0))
    return ConfigurationPlanner(context, name, spacing, shape, max(z * y * x, 1.0), configuration)
