"""The `unet` planner: nnU-Net v2's default plans, with a reason for every decision.

Read `plan` from top to bottom: it is the method. Every number lies in the rule that uses it (`planners.rules`); what
is special to the plain U-Net (its shape, and what fits in 8 GB) stands at the top of this file.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021; default planner of version 2). Differs: single-slice data is
    always planned as 2D across the slice; images too small to pool are padded; a budget that nothing fits, and data
    without cases, end in an error; a time per fold (always for a CPU) sizes network and schedule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.case import Spacing, Triple
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import (
    Configuration,
    Decision,
    Estimates,
    JsonValue,
    NetworkSpec,
    NormalizationSpec,
    Plan,
    ResamplingSpec,
    TrainingSpec,
)
from planners.memory import count_feature_map_elements, estimate_costs
from planners.rules.batch_size import choose_batch_size
from planners.rules.configurations import (
    BATCH_DICE_REASONS,
    CASCADE_REASON,
    SINGLE_SLICE_REASON,
    SPACING_REASONS,
    choose_configurations,
)
from planners.rules.low_resolution import LowResolution, find_low_resolution
from planners.rules.mirroring import choose_mirror_axes, explain_mirroring
from planners.rules.normalization import choose_normalization, explain_mask, explain_schemes
from planners.rules.patch_size import MemoryReference, explain_patch, fit_patch
from planners.rules.target_spacing import choose_target_spacing, choose_transpose, median_resampled_shape
from planners.rules.time_budget import Sized, explain_time, fit_schedule, fit_time, time_per_fold
from planners.rules.topology import BASE_FEATURES, Topology, explain_levels, features_per_level

NAME = "unet"

CONVOLUTIONS_PER_LEVEL = 2
"""In encoder and decoder."""

MEMORY_REFERENCES = {
    2: MemoryReference(elements=85e6, batch_size=12),
    3: MemoryReference(elements=560e6, batch_size=2),
}
"""By dimension: about 512 x 512 at batch 12, and 128 x 128 x 128 at batch 2, fit 8 GB."""

DATASET_SHARE = 0.05
"""A batch covers at most this part of the dataset's voxels: a guard against overfitting."""


@dataclass(frozen=True)
class _Task:
    """What all configurations share; axes follow the transpose."""

    fingerprint: Fingerprint
    budget: Budget
    spacing: Spacing
    median_shape: tuple[float, float, float]
    transpose: Triple
    normalization: tuple[NormalizationSpec, ...]


@dataclass(frozen=True)
class _Outline:
    """A configuration before patch, batch and network are chosen; 2D: pairs (y, x)."""

    name: str
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    image_voxels: float
    """Of the median image, in three dimensions."""
    batch_dice: bool


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan all configurations that make sense, or those that the budget asks for.

    Args:
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time.

    Returns:
        The plan, with each decision and its reason.

    Raises:
        PlanningError: If there is no case, nothing fits the memory or the time, or a configuration that was asked
            for does not exist for this data.
    """
    task, decisions = _look_at(fingerprint, budget)
    outlines, verdicts = _outline(task)
    available = [outline.name for outline in outlines]
    if "3d_lowres" in available:
        available.append("3d_cascade_fullres")
    names, choice = choose_configurations(available, budget.configurations)
    configurations: dict[str, Configuration] = {}
    for outline in outlines:
        if outline.name in names:
            configurations[outline.name], reasons = _configure(task, outline)
            decisions += reasons
    if "3d_cascade_fullres" in names:
        configurations["3d_cascade_fullres"] = _cascade(task, configurations["3d_fullres"])
    return Plan(
        dataset_name=fingerprint.dataset_name,
        planner=NAME,
        budget=budget,
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        encoding=fingerprint.encoding,
        orientation=fingerprint.orientation,
        transpose=task.transpose,
        configurations=configurations,
        decisions=(Decision(what="configurations", value=names, reason=choice), *verdicts, *decisions),
    )


def _look_at(fingerprint: Fingerprint, budget: Budget) -> tuple[_Task, tuple[Decision, ...]]:
    """Target spacing, axis order, shape there, normalisation."""
    if not fingerprint.cases:
        raise PlanningError("The fingerprint has no training cases; a plan needs at least one labelled case.")
    spacings = [case.spacing for case in fingerprint.cases]
    shapes = [case.cropped_shape for case in fingerprint.cases]
    spacing, spacing_reason = choose_target_spacing(spacings, shapes)
    shape = median_resampled_shape(spacings, shapes, spacing)
    transpose, transpose_reason = choose_transpose(spacing, shape)
    cropped_fraction = fingerprint.median_cropped_fraction
    normalization = choose_normalization(fingerprint.channel_names, fingerprint.intensities, cropped_fraction)
    z, y, x = transpose
    spacing, shape = (spacing[z], spacing[y], spacing[x]), (shape[z], shape[y], shape[x])
    task = _Task(fingerprint, budget, spacing, shape, transpose, normalization)
    return task, (
        Decision(what="transpose", value=transpose, reason=transpose_reason),
        Decision(what="target_spacing", value=task.spacing, reason=spacing_reason),
        Decision(
            what="normalization",
            value=tuple(spec.scheme for spec in normalization),
            reason=explain_schemes(normalization),
        ),
        Decision(
            what="normalization_mask",
            value=tuple(spec.use_mask for spec in normalization),
            reason=explain_mask(normalization, cropped_fraction),
        ),
    )


def _outline(task: _Task) -> tuple[tuple[_Outline, ...], tuple[Decision, ...]]:
    """Which configurations make sense for the data, the cascade left aside."""
    voxels = math.prod(task.median_shape)
    flat = _Outline("2d", task.spacing[1:], task.median_shape[1:], voxels, batch_dice=True)
    asked = task.budget.configurations
    if min(task.median_shape) <= 1:
        return (flat,), (Decision(what="3d_fullres", value=False, reason=SINGLE_SLICE_REASON),)
    if asked and set(asked) <= {"2d"}:
        return (flat,), ()
    full = _Outline("3d_fullres", task.spacing, task.median_shape, voxels, batch_dice=False)
    low, reason = find_low_resolution(
        task.spacing,
        task.median_shape,
        _fit(task, full).patch_size,
        lambda candidate: _fit(task, _low_outline(candidate)).patch_size,
    )
    verdict = Decision(what="3d_lowres", value=low is not None, reason=reason)
    if low is None:
        return (flat, full), (verdict,)
    cascade = Decision(what="3d_cascade_fullres", value=True, reason=CASCADE_REASON)
    return (flat, replace(full, batch_dice=True), _low_outline(low)), (verdict, cascade)


def _low_outline(low: LowResolution) -> _Outline:
    return _Outline("3d_lowres", low.spacing, low.median_shape, low.image_voxels, batch_dice=False)


def _fit(task: _Task, outline: _Outline) -> Topology:
    """Largest patch that fits the memory, with nnU-Net's full width."""
    reference, memory = MEMORY_REFERENCES[len(outline.spacing)], task.budget.memory_gigabytes
    return fit_patch(outline.spacing, outline.median_shape, reference, memory, partial(_count_elements, task))


def _count_elements(task: _Task, topology: Topology) -> int:
    network = _network(task, topology, BASE_FEATURES)
    return count_feature_map_elements(network, topology.patch_size, output_channels=len(task.fingerprint.labels))


def _network(task: _Task, topology: Topology, base_features: int) -> NetworkSpec:
    """A plain U-Net."""
    dimensions: Literal[2, 3] = 2 if len(topology.patch_size) == 2 else 3
    return NetworkSpec(
        architecture="unet",
        dimensions=dimensions,
        input_channels=len(task.fingerprint.channel_names),
        output_channels=len(task.fingerprint.encoding.heads),
        features=features_per_level(topology.levels, dimensions, base_features),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_convolutions=(CONVOLUTIONS_PER_LEVEL,) * topology.levels,
        decoder_convolutions=(CONVOLUTIONS_PER_LEVEL,) * (topology.levels - 1),
    )


def _configure(task: _Task, outline: _Outline) -> tuple[Configuration, tuple[Decision, ...]]:
    """Patch, batch, network and schedule of one configuration: by memory, then by time."""
    budget, topology = task.budget, _fit(task, outline)
    batch_size, batch_reason = choose_batch_size(
        _count_elements(task, topology),
        topology.patch_size,
        outline.image_voxels * len(task.fingerprint.cases),
        MEMORY_REFERENCES[len(outline.spacing)],
        budget.memory_gigabytes,
        DATASET_SHARE,
    )
    largest = Sized(topology, BASE_FEATURES, batch_size)
    sized = fit_time(largest, budget, outline.spacing, outline.median_shape, partial(_network, task))
    configuration = _write_out(task, outline, sized)
    reasons = {
        "spacing": SPACING_REASONS[outline.name],
        "patch_size": explain_patch(topology.patch_size, outline.median_shape, budget.memory_gigabytes),
        "batch_size": batch_reason,
        "levels": explain_levels(sized.topology),
        "base_features": "nnU-Net's width: doubled from level to level, up to a cap that saves parameters.",
        "schedule": "nnU-Net's: long, because accuracy still rises late.",
        "batch_dice": BATCH_DICE_REASONS[outline.batch_dice],
        "mirror_axes": explain_mirroring(limited_time=time_per_fold(budget) is not None),
        **explain_time(budget, largest, sized, configuration.training),
    }
    return configuration, _decide(outline.name, configuration, reasons)


def _write_out(task: _Task, outline: _Outline, sized: Sized) -> Configuration:
    network = _network(task, sized.topology, sized.base_features)
    patch_size = sized.topology.patch_size
    mirror_axes = choose_mirror_axes(network.dimensions, limited_time=time_per_fold(task.budget) is not None)
    full = TrainingSpec(mirror_axes=mirror_axes, batch_dice=outline.batch_dice)
    training = fit_schedule(full, task.budget, network, patch_size, sized.batch_size)
    return Configuration(
        spacing=outline.spacing,
        median_shape=outline.median_shape,
        patch_size=patch_size,
        batch_size=sized.batch_size,
        network=network,
        normalization=task.normalization,
        resampling=ResamplingSpec(),
        training=training,
        estimates=_estimate(task, network, patch_size, sized.batch_size, training.optimizer),
        preprocessed_as=outline.name,
    )


def _estimate(
    task: _Task, network: NetworkSpec, patch_size: Sequence[int], batch_size: int, optimizer: str
) -> Estimates:
    return estimate_costs(
        network,
        patch_size,
        batch_size,
        num_labels=len(task.fingerprint.labels),
        mixed_precision=task.budget.device == "cuda",
        optimizer=optimizer,
    )


def _decide(name: str, configuration: Configuration, reasons: dict[str, str]) -> tuple[Decision, ...]:
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


def _cascade(task: _Task, full: Configuration) -> Configuration:
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
