"""What all configurations of a plan share, and which of them make sense: before patch, batch and network are chosen."""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from autoseg.errors import BudgetError, PlanningError
from autoseg.records.budget import AdoptedConfiguration, AdoptedModel, Budget
from autoseg.records.case import Spacing, Triple
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NormalizationSpec
from autoseg.records.plan import Decision
from planners.preset import Preset
from planners.rules.adoption import explain_adopted_normalization, keep_normalization
from planners.rules.configurations import CASCADE_LATENCY_REASON, CASCADE_REASON, SINGLE_SLICE_REASON
from planners.rules.low_resolution import LowResolution, find_low_resolution
from planners.rules.normalization import choose_normalization, explain_mask, explain_schemes
from planners.rules.target_spacing import choose_target_spacing, choose_transpose, median_resampled_shape

CASCADE = "3d_cascade_fullres"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Task:
    """What all configurations share; axes follow the transpose."""

    preset: Preset
    fingerprint: Fingerprint
    budget: Budget
    memory_gigabytes: float
    spacing: Spacing
    median_shape: tuple[float, float, float]
    transpose: Triple
    normalization: tuple[NormalizationSpec, ...]


@dataclass(frozen=True)
class Outline:
    """A configuration before patch, batch and network are chosen; 2D: pairs (y, x)."""

    name: str
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    image_shape: tuple[float, float, float]
    """Median image at this spacing, all three axes."""
    image_voxels: float
    """Of the median image, before its shape was rounded."""
    batch_dice: bool
    adopted: AdoptedConfiguration | None = None
    """Of the model that this one takes after."""


def look_at(preset: Preset, fingerprint: Fingerprint, budget: Budget) -> tuple[Task, tuple[Decision, ...]]:
    """Target spacing, axis order, shape there, normalisation.

    Raises:
        PlanningError: If there is no case.
    """
    if not fingerprint.cases:
        raise PlanningError("The fingerprint has no training cases; a plan needs at least one labelled case.")
    spacings = [case.spacing for case in fingerprint.cases]
    shapes = [case.cropped_shape for case in fingerprint.cases]
    spacing, spacing_reason = _target_spacing(budget, spacings, shapes)
    shape = median_resampled_shape(spacings, shapes, spacing)
    transpose, transpose_reason = choose_transpose(spacing, shape)
    if budget.like is not None and min(shape) > 1:
        transpose, transpose_reason = budget.like.transpose, f"That of {budget.like.model}."
    z, y, x = transpose
    memory, memory_reason = preset.memory_for(budget)
    normalization = choose_normalization(
        fingerprint.channel_names, fingerprint.intensities, fingerprint.median_cropped_fraction
    )
    schemes = explain_schemes(normalization)
    if budget.like is not None:
        normalization = keep_normalization(budget.like, fingerprint.channel_names, normalization)
        schemes = explain_adopted_normalization(budget.like, fingerprint.channel_names)
    task = Task(
        preset=preset,
        fingerprint=fingerprint,
        budget=budget,
        memory_gigabytes=memory,
        spacing=(spacing[z], spacing[y], spacing[x]),
        median_shape=(shape[z], shape[y], shape[x]),
        transpose=transpose,
        normalization=normalization,
    )
    mask_reason = explain_mask(normalization, fingerprint.median_cropped_fraction)
    return task, (
        Decision(what="memory", value=memory, reason=memory_reason),
        Decision(what="transpose", value=transpose, reason=transpose_reason),
        Decision(what="target_spacing", value=task.spacing, reason=spacing_reason),
        Decision(what="normalization", value=tuple(spec.scheme for spec in normalization), reason=schemes),
        Decision(
            what="normalization_mask", value=tuple(spec.use_mask for spec in normalization), reason=mask_reason
        ),
    )  # fmt: skip


def _target_spacing(budget: Budget, spacings: Sequence[Spacing], shapes: Sequence[Triple]) -> tuple[Spacing, str]:
    asked = budget.overrides.spacing
    if asked is not None:
        return asked, "Asked for."
    if budget.like is not None and "3d_fullres" in budget.like.configurations:
        first, second, third = (budget.like.configurations["3d_fullres"].spacing[budget.like.transpose.index(axis)]
                                for axis in range(3))  # fmt: skip
        return (first, second, third), f"That of {budget.like.model}."
    return choose_target_spacing(spacings, shapes)


def for_each(work: Callable[[Outline], Result], outlines: Sequence[Outline]) -> list[Result]:
    """Do it for all configurations; where limits are too small, name what would do for all of them.

    Raises:
        BudgetError: The one of the largest need, of the limit that refuses first.
    """
    results: list[Result] = []
    refusals: list[BudgetError] = []
    for outline in outlines:
        try:
            results.append(work(outline))
        except BudgetError as error:
            refusals.append(error)
    if refusals:
        of_one_limit = [refusal for refusal in refusals if refusal.limit == refusals[0].limit]
        raise max(of_one_limit, key=lambda refusal: refusal.needed)
    return results


def outline_configurations(
    task: Task, left_out: Container[str], fit_patch: Callable[[Outline], Sequence[int]]
) -> tuple[tuple[Outline, ...], tuple[Decision, ...]]:
    """Which configurations make sense for the data, the cascade left aside.

    Args:
        task: See there.
        left_out: Names that will not be planned unless they are asked for.
        fit_patch: Patch size that fits the memory.

    Raises:
        BudgetError: If no patch fits the memory.
    """
    if task.budget.like is not None:
        verdicts = (_judge_cascade(task.budget),) if CASCADE in task.budget.like.configurations else ()
        return _adopt_outlines(task, task.budget.like), verdicts
    voxels = math.prod(task.median_shape)
    flat = Outline("2d", task.spacing[1:], task.median_shape[1:], task.median_shape, voxels, batch_dice=True)
    asked = task.budget.configurations
    if min(task.median_shape) <= 1:
        return (flat,), (Decision(what="3d_fullres", value=False, reason=SINGLE_SLICE_REASON),)
    if asked and set(asked) <= {"2d"}:
        return (flat,), ()
    full = Outline("3d_fullres", task.spacing, task.median_shape, task.median_shape, voxels, batch_dice=False)
    flat_wanted = "2d" in asked if asked else "2d" not in left_out
    patch_size, *_ = for_each(fit_patch, (full, flat) if flat_wanted else (full,))
    low, reason = find_low_resolution(
        task.spacing, task.median_shape, patch_size, lambda candidate: fit_patch(_low_outline(candidate))
    )
    verdict = Decision(what="3d_lowres", value=low is not None, reason=reason)
    if low is None:
        return (flat, full), (verdict,)
    return (flat, replace(full, batch_dice=True), _low_outline(low)), (verdict, _judge_cascade(task.budget))


def available_names(outlines: Sequence[Outline], budget: Budget) -> list[str]:
    """Names of all configurations that make sense, the cascade included, in the order of a plan."""
    names = [outline.name for outline in outlines]
    cascade = "3d_lowres" in names if budget.like is None else CASCADE in budget.like.configurations
    return [*names, CASCADE] if cascade and "3d_lowres" in names and _judge_cascade(budget).value else names


def _judge_cascade(budget: Budget) -> Decision:
    if budget.latency_seconds is not None:
        return Decision(what=CASCADE, value=False, reason=CASCADE_LATENCY_REASON)
    return Decision(what=CASCADE, value=True, reason=CASCADE_REASON)


def _low_outline(low: LowResolution) -> Outline:
    return Outline("3d_lowres", low.spacing, low.median_shape, low.median_shape, low.image_voxels, batch_dice=False)


def _adopt_outlines(task: Task, model: AdoptedModel) -> tuple[Outline, ...]:
    """The model's configurations, the cascade left aside; only flat ones for images of a single slice."""
    outlines = tuple(
        _adopt_outline(task, name, configuration, batch_dice="3d_lowres" in model.configurations)
        for name, configuration in model.configurations.items()
        if name != CASCADE and (len(configuration.spacing) == 2 or min(task.median_shape) > 1)
    )
    if not outlines:
        raise PlanningError(
            f"--like {model.model}: its configurations are {', '.join(model.configurations)}, but the images have a "
            "single slice and need 2d. Take another model, or plan without it."
        )
    return outlines


def _adopt_outline(task: Task, name: str, configuration: AdoptedConfiguration, *, batch_dice: bool) -> Outline:
    spacing = configuration.spacing
    if task.budget.overrides.spacing is not None and name in {"2d", "3d_fullres"}:
        spacing = task.spacing[-len(spacing) :]
    through_plane = task.spacing[: 3 - len(spacing)]
    z, y, x = (
        old / new * size
        for old, new, size in zip(task.spacing, (*through_plane, *spacing), task.median_shape, strict=True)
    )
    shape = (max(round(z), 1.0), max(round(y), 1.0), max(round(x), 1.0))
    flat = len(spacing) == 2
    return Outline(
        name=name,
        spacing=spacing,
        median_shape=shape[1:] if flat else shape,
        image_shape=shape,
        image_voxels=max(z * y * x, 1.0),
        batch_dice=flat or (name == "3d_fullres" and batch_dice),
        adopted=configuration,
    )
