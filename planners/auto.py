"""The `auto` planner: chooses preset, caps and configurations for the device and the budget.

nnU-Net's presets are plans for one size of GPU and for weeks of training. This planner takes the one that suits, caps
batches that are larger than useful, and leaves out configurations that would only cost time.

Example: 200 pictures of 512 x 512 on a GPU: nnU-Net's `resenc-m` plans a batch that fills 8 GB whatever the patch;
here it ends at 32. On a CPU the same pictures get a plain U-Net, sized to the time. On a GPU of 80 GB, without
`--memory`, they get `resenc-xl`, the largest preset that it holds.

References:
    Own rule. Isensee et al., "nnU-Net Revisited", MICCAI 2024, for the presets by memory.
"""

from collections.abc import Mapping
from dataclasses import replace

from autoseg.errors import BudgetError
from autoseg.records.budget import Budget
from autoseg.records.encoders import explain_missing_weights
from autoseg.records.fingerprint import Fingerprint, is_photographs
from autoseg.records.network import Architecture
from autoseg.records.plan import Decision, Plan
from autoseg.records.trials import Candidate
from planners import pretrained_2d, residual_encoder, unet, unext
from planners.candidates import list_candidates
from planners.composition import compose
from planners.preset import Preset
from planners.rules import Decided
from planners.rules.schedule import time_per_fold
from planners.rules.spacing import choose_target_spacing

NAME = "auto"

MAX_BATCH = {2: 32, 3: 8}
"""Largest batch by dimension: with 250,000 steps, larger batches cost time in proportion and gain little."""

RELATIVE_TIME = {"resenc-l": 3.0, "resenc-xl": 5.0}
"""Duration of a training relative to resenc-m on the same GPU, as published: 12, 35 and 66 hours on an A100."""

TRIED: Mapping[str, tuple[str, ...] | None] = {
    "unet": None,
    "unext": None,
    "pretrained-2d": ("2d",),
    "resenc-m": None,
}
"""Planners that trials try, the most promising first, with the configurations that each has; None: all."""

MAX_SPACING_RATIO = 2.0
"""Up to this ratio of the largest to the smallest spacing a 2D network sees nothing that a 3D network lacks."""


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan for the device and the budget.

    Args:
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time, the user's own values. Planner options: those of the preset that is chosen.

    Returns:
        The plan; its first decision names the preset.

    Raises:
        PlanningError: Under the conditions of `planners.unet.plan`.
    """
    preset = choose_preset_for(fingerprint, budget)
    if budget.like is not None:
        reason = f"For memory and batch; the network is that of {budget.like.model}."
        return _plan(fingerprint, budget, Decided(preset.value, reason))
    if budget.latency_seconds is not None:
        return _plan_fast_prediction(fingerprint, budget, preset)
    return _plan(fingerprint, budget, preset)


def choose_preset_for(fingerprint: Fingerprint, budget: Budget) -> Decided[Preset]:
    """The preset for data and budget: with limited time a pretrained encoder for photographs, if it is installed.

    Raises:
        PlanningError: See `choose_preset`.
    """
    preset = choose_preset(budget)
    may_be_pretrained = budget.like is None and time_per_fold(budget) is not None and not budget.finds_objects
    if not may_be_pretrained or not is_photographs(fingerprint):
        return preset
    if pretrained_2d.WEIGHTS not in budget.installed_weights:
        missing = explain_missing_weights(pretrained_2d.WEIGHTS)
        return Decided(preset.value, f"{preset.reason} A pretrained encoder suits photographs better. {missing}")
    return Decided(
        pretrained_2d.make_pretrained_preset(budget.overrides.options),
        "Colour photographs and limited time: an encoder that was trained on a million photographs needs few of them.",
    )


def choose_preset(budget: Budget) -> Decided[Preset]:
    """The preset for a budget, its latency aside.

    Raises:
        PlanningError: If a planner option is unknown to the preset, or has a wrong value.
    """
    options = budget.overrides.options
    if time_per_fold(budget) is not None:
        return Decided(
            unet.make_unet_preset(options),
            "With limited time a plain U-Net: it does most multiplications per second, and its width follows the time.",
        )
    memory = _memory_for_preset(budget)
    for name in ("resenc-xl", "resenc-l"):
        if memory >= residual_encoder.SIZES[name].gigabytes:
            preset = residual_encoder.make_residual_preset(name, options)
            reason = f"The largest preset for a memory of {memory:.3g} GB."
            if budget.memory_gigabytes is None:
                reason += (
                    f" It trains some {RELATIVE_TIME[name]:g} times as long as resenc-m, which --memory 8GB or "
                    "--planner resenc-m takes."
                )
            return Decided(preset, reason)
    return Decided(
        residual_encoder.make_residual_preset("resenc-m", options),
        "A GPU and time for the full schedule: nnU-Net's residual encoder for 8 GB is the best of its cost.",
    )


def _memory_for_preset(budget: Budget) -> float:
    """Gigabytes that were asked for, else those of the GPU that was found; a latency alone wants no larger preset."""
    if budget.memory_gigabytes is not None:
        return budget.memory_gigabytes
    if budget.latency_seconds is not None:
        return 0.0
    return budget.available_gigabytes or 0.0


def architectures(budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    is_limited = time_per_fold(budget) is not None
    names: tuple[Architecture, ...] = ("unet",) if is_limited else ("residual_unet",)
    if budget.latency_seconds is not None:
        names = ("unet", "unext") if is_limited else ("unet", "residual_unet", "unext")
    return (*names, "efficientnet_unet") if is_limited and budget.installed_weights else names


def tried_architectures(budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that trials may plan."""
    names: tuple[Architecture, ...] = ("unet", "residual_unet", "unext")
    return (*names, "efficientnet_unet") if budget.installed_weights else names


def candidates(_name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide, that of the rules first; see `planners.candidates`."""
    by_rules = next(str(decision.value) for decision in plan.decisions if decision.what == "planner")
    ordered = {by_rules: TRIED.get(by_rules), **TRIED}
    widths = {pretrained_2d.NAME: pretrained_2d.WIDTHS, unext.NAME: ()}.get(by_rules, unet.WIDTHS)
    return list_candidates(ordered, plan, widths, trial_seconds)


def _plan_fast_prediction(fingerprint: Fingerprint, budget: Budget, preset: Decided[Preset]) -> Plan:
    """The first of ever smaller networks that predicts a median case fast enough."""
    options = budget.overrides.options
    smaller = [unet.make_unet_preset(options)] if preset.value.name != unet.NAME else []
    if not options and not budget.finds_objects:  # options of a U-Net, and heads for objects, mean nothing to a UNeXt
        smaller.append(unext.make_unext_preset({}))
    rejected = ""
    for candidate in smaller:
        try:
            return _plan(fingerprint, budget, preset)
        except BudgetError as error:
            if error.limit != "--latency":
                raise
            rejected += f"{preset.value.name}: {error} "
            preset = Decided(candidate, f"{rejected}So {candidate.name} is taken.")
    return _plan(fingerprint, budget, preset)


def _plan(fingerprint: Fingerprint, budget: Budget, preset: Decided[Preset]) -> Plan:
    decision = Decision(what="planner", value=preset.value.name, reason=preset.reason)
    return compose(
        replace(preset.value, max_batch=MAX_BATCH),
        fingerprint,
        budget,
        name=NAME,
        left_out=leave_out(fingerprint, budget),
        decisions=(decision,),
    )


def leave_out(fingerprint: Fingerprint, budget: Budget) -> Mapping[str, str]:
    """Configurations that would only cost time, with the reason; each fold of each costs the time per fold."""
    if time_per_fold(budget) is None or not fingerprint.cases:
        return {}
    left_out = {"3d_cascade_fullres": "two trainings in sequence for one answer do not suit limited time."}
    spacing = budget.overrides.spacing
    if spacing is None:
        spacings = [case.spacing for case in fingerprint.cases]
        spacing = choose_target_spacing(spacings, [case.cropped_shape for case in fingerprint.cases]).value
    if max(spacing) <= MAX_SPACING_RATIO * min(spacing):
        left_out["2d"] = (
            f"slices are no more than {MAX_SPACING_RATIO:g} times as far apart as pixels, so a 3D network sees more."
        )
    return left_out
