"""From a preset, a fingerprint and a budget to a plan: the method that all planners share.

Read `compose` from top to bottom: it is the method. Every number lies in the rule that uses it (`planners.rules`), or
in the planner's preset.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021). Differs: single-slice data is always planned as 2D across the
    slice; images too small to pool are padded; a budget that nothing fits, and data without cases, end in an error; a
    time per fold (always for a CPU) sizes network and schedule, and a latency the network; the user's own values are
    kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from autoseg.costs.memory import count_feature_map_elements, estimate_costs, estimate_training_memory_bytes
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NetworkSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Decision, Estimates, JsonValue, Plan, TrainingSpec
from planners.outline import CASCADE, Outline, Task, available_names, for_each, look_at, outline_configurations
from planners.preset import Preset
from planners.rules.adoption import adopt_topology, check_adopted_memory
from planners.rules.batch_size import MIN_BATCH, choose_batch_size, take_batch_size
from planners.rules.configurations import BATCH_DICE_REASONS, SPACING_REASONS, choose_configurations
from planners.rules.mirroring import choose_mirror_axes, explain_mirroring
from planners.rules.patch_size import (
    MemoryReference,
    explain_asked_patch,
    explain_patch,
    fit_patch,
    take_patch,
)
from planners.rules.time_budget import Room, Sized, explain_time, fit_schedule, fit_time, time_per_fold
from planners.rules.topology import Topology, explain_levels


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
        name: Of the planner; None: the preset's.
        left_out: Configurations that the planner leaves out unless they are asked for, with the reason.
        decisions: What the planner decided before.

    Returns:
        The plan, with each decision and its reason.

    Raises:
        PlanningError: If there is no case, nothing fits the memory or the time, or something that was asked for does
            not exist for this data.
    """
    _check_options_with_model(budget)
    task, facts = look_at(preset, fingerprint, budget)
    left_out = left_out or {}
    outlines, verdicts = outline_configurations(task, left_out, lambda outline: _fit(task, outline).patch_size)
    names, choice = choose_configurations(available_names(outlines, budget), budget.configurations, left_out)
    chosen = [outline for outline in outlines if outline.name in names]
    _check_patch_override(budget, chosen)
    _check_adopted_memory(task, chosen)
    configurations: dict[str, Configuration] = {}
    reasons: tuple[Decision, ...] = ()
    for outline, (configuration, added) in zip(chosen, for_each(partial(_configure, task), chosen), strict=True):
        configurations[outline.name] = configuration
        reasons += added
    if CASCADE in names:
        configurations[CASCADE] = _cascade(task, configurations["3d_fullres"])
    choices = Decision(what="configurations", value=names, reason=choice)
    return Plan(
        dataset_name=fingerprint.dataset_name,
        planner=name or preset.name,
        budget=budget,
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        encoding=fingerprint.encoding,
        orientation=fingerprint.orientation,
        transpose=task.transpose,
        configurations=configurations,
        decisions=(*decisions, choices, *verdicts, *facts, *reasons),
    )


def _check_options_with_model(budget: Budget) -> None:
    if budget.like is not None and budget.overrides.options:
        raise PlanningError(
            f"--planner-option {', '.join(sorted(budget.overrides.options))}: the network is that of --like "
            f"{budget.like.model}; leave one of them out."
        )


def _check_patch_override(budget: Budget, outlines: Sequence[Outline]) -> None:
    asked = budget.overrides.patch_size
    if asked is not None and all(len(asked) != len(outline.spacing) for outline in outlines):
        needs = ", ".join(f"{outline.name} needs {len(outline.spacing)}" for outline in outlines)
        raise PlanningError(f"--patch-size has {len(asked)} numbers, but {needs}.")


def _check_adopted_memory(task: Task, outlines: Sequence[Outline]) -> None:
    """A preset's reference counts feature maps of its own kind of network, so bytes decide about another's."""
    smallest_bytes = {}
    for outline in outlines:
        if outline.adopted is not None:
            topology = _fit(task, outline)
            network = _network(task, outline, topology, task.preset.widths[0])
            batch_size = task.budget.overrides.batch_size or MIN_BATCH
            smallest_bytes[outline.name] = estimate_training_memory_bytes(
                network,
                topology.patch_size,
                batch_size,
                mixed_precision=task.budget.device == "cuda",
                optimizer="sgd" if time_per_fold(task.budget) is None else "adamw",
            )
    check_adopted_memory(smallest_bytes, task.memory_gigabytes)


def _fit(task: Task, outline: Outline) -> Topology:
    """The user's patch, the adopted one, or the largest that fits the memory at the preset's full width."""
    reference, memory, count = _reference(task, outline), task.memory_gigabytes, partial(_count_elements, task, outline)
    own_patch, max_levels = _own_patch(task, outline), task.preset.max_levels
    if outline.adopted is not None:
        return adopt_topology(outline.adopted.network, own_patch or outline.adopted.patch_size)
    if own_patch is not None:
        return take_patch(own_patch, outline.spacing, reference, memory, count, max_levels)
    return fit_patch(outline.spacing, outline.median_shape, reference, memory, count, max_levels)


def _own_patch(task: Task, outline: Outline) -> tuple[int, ...] | None:
    """What the user asked for, if it is meant for a configuration of so many axes."""
    asked = task.budget.overrides.patch_size
    return asked if asked is not None and len(asked) == len(outline.spacing) else None


def _reference(task: Task, outline: Outline) -> MemoryReference:
    """What fits the memory; a larger batch that the user asked for is guaranteed, too."""
    reference = task.preset.memory_references[len(outline.spacing)]
    asked = task.budget.overrides.batch_size
    if asked is None:
        return reference
    smallest = 1 if _own_patch(task, outline) is not None else reference.guaranteed_batch
    return replace(reference, guaranteed_batch=max(asked, smallest))


def _count_elements(task: Task, outline: Outline, topology: Topology) -> int:
    network = _network(task, outline, topology, task.preset.widths[0])
    return count_feature_map_elements(network, topology.patch_size, output_channels=len(task.fingerprint.labels))


def _network(task: Task, outline: Outline, topology: Topology, base_features: int) -> NetworkSpec:
    inputs, outputs = len(task.fingerprint.channel_names), len(task.fingerprint.encoding.heads)
    if outline.adopted is not None:
        return outline.adopted.network.model_copy(update={"input_channels": inputs, "output_channels": outputs})
    return task.preset.build_network(topology, base_features, inputs, outputs)


def _configure(task: Task, outline: Outline) -> tuple[Configuration, tuple[Decision, ...]]:
    """Patch, batch, network and schedule of one configuration: by memory, then by time."""
    topology, room = _fit(task, outline), _room(task, outline)
    batch_size, batch_reason = _batch_size(task, outline, topology)
    largest = Sized(topology, room.widths[0], batch_size)
    sized = fit_time(largest, task.budget, room)
    configuration = _write_out(task, outline, sized)
    reasons = {
        "spacing": SPACING_REASONS[outline.name],
        "patch_size": _explain_patch(task, outline, topology),
        "batch_size": batch_reason,
        "levels": explain_levels(sized.topology, task.preset.max_levels),
        "base_features": task.preset.width_reason,
        "schedule": "nnU-Net's: long, because accuracy still rises late.",
        "batch_dice": BATCH_DICE_REASONS[outline.batch_dice],
        "mirror_axes": explain_mirroring(task.fingerprint, task.budget),
        **explain_time(task.budget, largest, sized, configuration, room),
    }
    if outline.adopted is not None and task.budget.like is not None:
        adopted = ("levels", "base_features", *(("spacing",) if outline.spacing == outline.adopted.spacing else ()))
        reasons |= dict.fromkeys(adopted, f"That of {task.budget.like.model}.")
    return configuration, _decide(outline.name, configuration, reasons)


def _room(task: Task, outline: Outline) -> Room:
    adopted = outline.adopted
    return Room(
        widths=task.preset.widths if adopted is None else (adopted.network.features[0],),
        network_for=partial(_network, task, outline),
        spacing=outline.spacing,
        median_shape=outline.median_shape,
        image_shape=outline.image_shape,
        max_levels=task.preset.max_levels,
        fixed_patch=_own_patch(task, outline) is not None or adopted is not None,
        fixed_batch=task.budget.overrides.batch_size is not None,
    )


def _batch_size(task: Task, outline: Outline, topology: Topology) -> tuple[int, str]:
    elements, reference = _count_elements(task, outline, topology), _reference(task, outline)
    asked, caps = task.budget.overrides.batch_size, task.preset.max_batch
    if asked is not None and outline.adopted is not None:
        return asked, "Asked for."  # an adopted network was held against the memory in bytes
    if asked is not None:
        return take_batch_size(asked, elements, reference, task.memory_gigabytes)
    return choose_batch_size(
        elements,
        topology.patch_size,
        outline.image_voxels * len(task.fingerprint.cases),
        reference,
        task.memory_gigabytes,
        task.preset.dataset_fraction,
        None if caps is None else caps[len(outline.spacing)],
    )


def _explain_patch(task: Task, outline: Outline, topology: Topology) -> str:
    asked, own_batch = _own_patch(task, outline), task.budget.overrides.batch_size
    if asked is not None:
        return explain_asked_patch(asked, topology.patch_size)
    if outline.adopted is not None and task.budget.like is not None:
        return f"That of {task.budget.like.model}."
    reason = explain_patch(topology.patch_size, outline.median_shape, task.memory_gigabytes)
    return reason if own_batch is None else f"{reason} The batch of {own_batch} that was asked for has to fit, too."


def _write_out(task: Task, outline: Outline, sized: Sized) -> Configuration:
    network = _network(task, outline, sized.topology, sized.base_features)
    patch_size = sized.topology.patch_size
    mirror_axes = choose_mirror_axes(network.dimensions, task.fingerprint, task.budget, task.transpose)
    full = TrainingSpec(mirror_axes=mirror_axes, batch_dice=outline.batch_dice)
    training = fit_schedule(full, task.budget, network, patch_size, sized.batch_size)
    return Configuration(
        spacing=outline.spacing,
        median_shape=outline.median_shape,
        patch_size=patch_size,
        batch_size=sized.batch_size,
        network=network,
        normalization=task.normalization,
        resampling=ResamplingSpec() if outline.adopted is None else outline.adopted.resampling,
        training=training,
        estimates=_estimate(task, network, patch_size, sized.batch_size, training.optimizer),
        preprocessed_as=outline.name,
    )


def _estimate(
    task: Task, network: NetworkSpec, patch_size: Sequence[int], batch_size: int, optimizer: str
) -> Estimates:
    return estimate_costs(
        network,
        patch_size,
        batch_size,
        num_labels=len(task.fingerprint.labels),
        mixed_precision=task.budget.device == "cuda",
        optimizer=optimizer,
    )


def _decide(name: str, configuration: Configuration, reasons: Mapping[str, str]) -> tuple[Decision, ...]:
    training = configuration.training
    values: dict[str, JsonValue] = {
        "spacing": configuration.spacing,
        "patch_size": configuration.patch_size,
        "batch_size": configuration.batch_size,
        "levels": len(configuration.network.features),
        "base_features": configuration.network.features[0],
        "schedule": f"{training.optimizer}, {training.epochs} epochs of {training.steps_per_epoch} steps",
        "batch_dice": training.batch_dice,
        "mirror_axes": training.mirror_axes,
    }
    return tuple(Decision(what=f"{name}.{key}", value=value, reason=reasons[key]) for key, value in values.items())


def _cascade(task: Task, full: Configuration) -> Configuration:
    """3d_fullres with the low resolution's label map as further input channels, one per foreground label."""
    num_labels = len(task.fingerprint.encoding.values) - 1
    network = full.network.model_copy(update={"input_channels": full.network.input_channels + num_labels})
    training = fit_schedule(full.training, task.budget, network, full.patch_size, full.batch_size)
    return full.model_copy(
        update={
            "network": network,
            "training": training,
            "estimates": _estimate(task, network, full.patch_size, full.batch_size, training.optimizer),
            "preprocessed_as": "3d_fullres",
            "previous_configuration": "3d_lowres",
        }
    )
