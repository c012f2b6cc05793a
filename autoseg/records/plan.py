"""The plan: everything that decides a run. It has only enumerated words and numbers, never an import path."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from autoseg.records.budget import Budget, NeighborSlices
from autoseg.records.case import Triple
from autoseg.records.clicks import ClickSettings
from autoseg.records.dataset import LabelEncoding, LabelValues, OrientationName, foreground_names
from autoseg.records.files import FieldFault, Record, refuse_faults
from autoseg.records.names import FileEnding, FileName
from autoseg.records.network import NetworkSpec, NormalizationSpec, ResamplingSpec, Size, Sizes
from autoseg.records.sides import find_side_swap
from autoseg.records.training import TrainingSpec

Scalar = str | int | float | bool | None
JsonValue = Scalar | tuple[Scalar, ...] | tuple[tuple[Scalar, ...], ...]

Target = Literal["labels", "border_core", "mask_rcnn"]
"""Target of training: labels, the core and the border of each label's objects, or the objects one by one."""


class Estimates(Record):
    """Cost of the network, computed without building it."""

    feature_map_elements: NonNegativeInt
    """Elements of all convolution outputs, batch 1: nnU-Net's proxy of memory."""
    parameters: NonNegativeInt
    macs: NonNegativeInt
    """Multiply-accumulates of one forward pass, batch 1."""
    training_memory_bytes: NonNegativeInt | None
    """Peak memory of a training step at the planned batch size; None: not estimated, the plan was imported."""


class Configuration(Record):
    """One trainable setup. 3D: triples (z, y, x); 2D: pairs (y, x); axes follow the plan's transpose."""

    spacing: tuple[PositiveFloat, ...]
    """Target spacing, mm."""
    median_shape: tuple[PositiveFloat, ...]
    """Median shape of the cases at the target spacing, voxels."""
    patch_size: Sizes
    """Shape of a patch, voxels; divisible by the network's total stride."""
    batch_size: Size
    network: NetworkSpec
    normalization: tuple[NormalizationSpec, ...]
    """One normalisation per channel."""
    resampling: ResamplingSpec
    training: TrainingSpec
    estimates: Estimates
    preprocessed_as: FileName
    """Name of the configuration whose preprocessed arrays this one uses: its own, except in a cascade."""
    previous_configuration: FileName | None = None
    """Name of the previous configuration in a cascade, whose label maps are appended to the input, one channel per
    foreground label."""
    neighbor_slices: NeighborSlices = Field(default=0, exclude_if=lambda value: value == 0)
    """Slices before a slice, and as many after it, whose channels a 2D network gets too, in the order of the slices;
    beyond the image its first or last slice again."""
    clicks: ClickSettings | None = Field(default=None, exclude_if=lambda value: value is None)
    """Clicks that correct the previous configuration's label map: one channel for each label, background included,
    between those of the image and of that label map; None: no clicks."""
    channel_presence: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether images may lack channels, which are 0 then. The last inputs of the network are one constant plane per
    channel: 1 where the image has it, 0 where it lacks it."""
    previous_labels: Literal["logits", "label_map"] = "logits"
    """What is resampled to this configuration's grid at prediction in a cascade. logits: decided there, after one
    resize. label_map: decided on the image's own grid, then cropped and resampled, as nnU-Net does."""
    logits_precision: Literal["float32", "float16"] = "float32"
    """Precision of blended logits before they are resized and decided. float16, as in nnU-Net: close heads become
    equal, and the first of equals wins."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_faults([*_find_axis_faults(self), *_find_patch_faults(self), *_find_growth_faults(self)])
        return self


def count_slices(configuration: Configuration) -> int:
    """Number of slices that a 2D network gets to segment one of them; 1 in 3D, where a patch has its own slices."""
    return 2 * configuration.neighbor_slices + 1


def count_presence_planes(configuration: Configuration) -> int:
    """Number of the network's last inputs that say which channels the image has; 0 where it must have all."""
    return len(configuration.normalization) if configuration.channel_presence else 0


def masked_channels(configuration: Configuration) -> tuple[int, ...]:
    """Channels of the network's input that were normalised inside the nonzero mask, and are 0 outside.

    Those of neighbouring slices are left out, because a patch brings the mask of its own slice alone.
    """
    first = configuration.neighbor_slices * len(configuration.normalization)
    return tuple(first + channel for channel, spec in enumerate(configuration.normalization) if spec.use_mask)


def _find_axis_faults(configuration: Configuration) -> Iterator[FieldFault]:
    dimensions = configuration.network.dimensions
    for name in ("spacing", "median_shape", "patch_size"):
        values = getattr(configuration, name)
        if len(values) != dimensions:
            yield (name,), f"{values}, expected {dimensions} numbers because the network is {dimensions}D"
    if configuration.neighbor_slices and dimensions != 2:
        yield ("neighbor_slices",), f"{configuration.neighbor_slices}, expected 0: a 3D network sees all slices"
    if configuration.training.channel_dropout and not configuration.channel_presence:
        yield (
            ("training", "channel_dropout"),
            "expected 0, because `channel_presence` is false: images have all channels",
        )
    if configuration.network.architecture == "external" and configuration.network.costs is None:
        yield ("network", "costs"), "is missing, expected what was counted on the network; plan again"
    axes = configuration.training.mirror_axes
    if len(set(axes)) != len(axes) or any(axis >= dimensions for axis in axes):
        yield ("training", "mirror_axes"), f"{axes}, expected different axes from 0 to {dimensions - 1}"


def _find_patch_faults(configuration: Configuration) -> Iterator[FieldFault]:
    patch_size, network = configuration.patch_size, configuration.network
    if len(patch_size) != network.dimensions:
        return
    total = _total_stride(network)
    fitting = tuple(math.ceil(edge / stride) * stride for edge, stride in zip(patch_size, total, strict=True))
    if fitting != patch_size:
        yield ("patch_size",), f"{patch_size} is not divisible by the total stride {total}; use {fitting}"
    elif patch_size == total:
        larger = (2 * patch_size[0], *patch_size[1:])
        yield ("patch_size",), f"{patch_size} leaves one voxel at the lowest level; use {larger} or more"


def _find_growth_faults(configuration: Configuration) -> Iterator[FieldFault]:
    """Faults of the smaller patches: each fits the network, none shrinks, and one follows the other."""
    patch_size, batch_size = configuration.patch_size, configuration.batch_size
    if len(patch_size) != configuration.network.dimensions:
        return
    total = _total_stride(configuration.network)
    size, until = total, 0.0
    for index, growing in enumerate(configuration.training.growing_patches):
        path = ("training", "growing_patches", index)
        found = growing.patch_size
        if len(found) != len(patch_size):
            yield (*path, "patch_size"), f"{found}, expected {len(patch_size)} numbers like the patch {patch_size}"
            return
        if found == total or any(edge % stride for edge, stride in zip(found, total, strict=True)):
            expected = f"multiples of the total stride {total}, more than it along one axis at least"
            yield (*path, "patch_size"), f"{found}, expected {expected}"
        elif any(not low <= edge <= high for low, edge, high in zip(size, found, patch_size, strict=True)):
            yield (*path, "patch_size"), f"{found}, expected at least {size} and at most {patch_size}: patches grow"
        if growing.batch_size < batch_size:
            yield (*path, "batch_size"), f"{growing.batch_size}, expected at least {batch_size}, the planned batch"
        if growing.until <= until:
            yield (*path, "until"), f"{growing.until:g}, expected more than {until:g}, where it begins"
        size, until = found, growing.until


def _total_stride(network: NetworkSpec) -> tuple[int, ...]:
    return tuple(math.prod(strides) for strides in zip(*network.strides, strict=True))


IMPORTED = "nnU-Net"
"""`Plan.planner` of an imported model, whose plan no planner of autoseg made."""


class Decision(Record):
    """One decision of the planner, with a sentence that gives the reason."""

    what: str
    value: JsonValue
    reason: str


class Plan(Record):
    """Everything that training and prediction depend on."""

    schema_version: Literal[1] = 1
    dataset_name: str
    planner: str
    budget: Budget
    channel_names: tuple[str, ...]
    labels: dict[str, LabelValues]
    """Name -> value(s) in the files."""
    encoding: LabelEncoding
    orientation: OrientationName
    file_ending: FileEnding = ".nii.gz"
    """Ending of the training images."""
    transpose: Triple
    """Transposed axis i is working axis transpose[i]: the axis of largest spacing comes first."""
    target: Target = Field(default="labels", exclude_if=lambda value: value == "labels")
    border_width_mm: PositiveFloat | None = Field(default=None, exclude_if=lambda value: value is None)
    """Width of the border of each object; only for border_core."""
    configurations: dict[FileName, Configuration]
    decisions: tuple[Decision, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults: list[FieldFault] = []
        if sorted(self.transpose) != [0, 1, 2]:
            faults.append((("transpose",), f"{self.transpose}, expected an order of the axes 0, 1, 2"))
        if (self.target == "border_core") != (self.border_width_mm is not None):
            expected = "a width" if self.target == "border_core" else "null"
            faults.append((("border_width_mm",), f"{self.border_width_mm}, expected {expected} for {self.target}"))
        for name, configuration in self.configurations.items():
            path = ("configurations", name)
            if (self.target == "mask_rcnn") != (configuration.network.detection is not None):
                expected = "settings" if self.target == "mask_rcnn" else "null"
                faults.append(((*path, "network", "detection"), f"expected {expected} for {self.target}"))
            found = [
                *_find_channel_faults(configuration, self),
                *_find_side_faults(configuration, self),
                *_find_reference_faults(name, configuration, self),
            ]
            faults += [((*path, *inner), what) for inner, what in found]
        refuse_faults(faults)
        return self


def _find_channel_faults(configuration: Configuration, plan: Plan) -> Iterator[FieldFault]:
    network, channels = configuration.network, len(plan.channel_names)
    labels = len(plan.encoding.values) - 1 if configuration.previous_configuration is not None else 0
    clicks = 0 if configuration.clicks is None else len(plan.encoding.values)
    slices = count_slices(configuration)
    planes = count_presence_planes(configuration)
    if network.input_channels != slices * channels + clicks + labels + planes:
        repeated = f" of {slices} slices" if slices > 1 else ""
        appended = f", {clicks} for clicks" if clicks else ""
        appended += f" and {labels} foreground labels of the previous configuration" if labels else ""
        appended += f" and {planes} planes for `channel_presence`" if planes else ""
        total = slices * channels + clicks + labels + planes
        expected = f"expected {total}: {channels} in `channel_names`{repeated}{appended}"
        yield ("network", "input_channels"), f"{network.input_channels}, {expected}"
    heads = len(plan.encoding.heads)
    if network.output_channels != heads:
        yield ("network", "output_channels"), f"{network.output_channels}, expected {heads}: the heads in `encoding`"
    is_sigmoid = plan.encoding.activation == "sigmoid"
    if network.head == "points" and network.independent_heads != is_sigmoid:
        expected = f"expected {str(is_sigmoid).lower()}: the activation in `encoding` is {plan.encoding.activation}"
        yield ("network", "independent_heads"), f"{str(network.independent_heads).lower()}, {expected}"
    if len(configuration.normalization) != channels:
        found = len(configuration.normalization)
        yield ("normalization",), f"{found} entries, expected {channels}: one for each of `channel_names`"


def _find_side_faults(configuration: Configuration, plan: Plan) -> Iterator[FieldFault]:
    sides, dimensions = configuration.training.sides, configuration.network.dimensions
    if sides is None:
        return
    if sides.axis >= dimensions:
        yield ("training", "sides", "axis"), f"{sides.axis}, expected an axis from 0 to {dimensions - 1}"
    known, named = foreground_names(plan.encoding), [name for pair in sides.pairs for name in pair]
    if unknown := [name for name in named if name not in known]:
        yield ("training", "sides", "pairs"), f"'{unknown[0]}', expected names of labels: {', '.join(known)}"
    elif not named or len(set(named)) < len(named):
        yield ("training", "sides", "pairs"), f"{sides.pairs}, expected pairs in which each label is named once"
    elif find_side_swap(sides.axis, sides.pairs, plan.encoding) is None:
        yield ("training", "sides", "pairs"), f"{sides.pairs}: these regions cannot change places, others hold them"


def _find_reference_faults(name: str, configuration: Configuration, plan: Plan) -> Iterator[FieldFault]:
    others = [other for other in plan.configurations if other != name]
    previous = configuration.previous_configuration
    if previous is None and configuration.clicks is not None:
        yield ("previous_configuration",), f"null, expected whose label maps clicks correct: {_list(others)}"
    if previous is not None and previous not in others:
        yield ("previous_configuration",), f"'{previous}', expected another configuration: {_list(others)}"
    elif name in (stages := _previous_stages(name, plan)):
        way = " -> ".join([name, *stages])
        yield ("previous_configuration",), f"'{previous}' leads back to {name} ({way}); one of them must have none"
    soft_labels = configuration.training.soft_labels
    if soft_labels is not None and soft_labels.teacher not in others:
        yield (
            ("training", "soft_labels", "teacher"),
            f"'{soft_labels.teacher}', expected another configuration: {_list(others)}",
        )
    source = plan.configurations.get(configuration.preprocessed_as)
    if source is None:
        names = _list(list(plan.configurations))
        yield ("preprocessed_as",), f"'{configuration.preprocessed_as}', expected a configuration of this plan: {names}"
        return
    for field in ("spacing", "normalization", "resampling", "channel_presence"):
        if getattr(configuration, field) != getattr(source, field):
            what = (
                f"differs from that of {configuration.preprocessed_as}, whose preprocessed arrays are used; change both"
            )
            yield (field,), what


def _previous_stages(name: str, plan: Plan) -> list[str]:
    """Previous configurations in the cascade, nearest first, as far as they exist; ends where it would repeat."""
    stages: list[str] = []
    while name in plan.configurations:
        previous = plan.configurations[name].previous_configuration
        if previous is None or previous in stages:
            break
        stages.append(previous)
        name = previous
    return stages


def _list(names: list[str]) -> str:
    return ", ".join(names) or "no configuration"


_NOT_OF_THE_MODEL = {"training", "estimates", "batch_size", "previous_labels", "logits_precision"}

_USED_BY_SCHEME: dict[str, tuple[str, ...]] = {
    "zscore": ("use_mask",),
    "ct": ("mean", "std", "lower", "upper"),
    "rescale_0_1": (),
    "rgb_0_1": (),
    "none": (),
}

_SHARED_FIELDS = {"encoding", "orientation", "transpose", "channel_names", "border_width_mm"}


def model_hash(plan: Plan, configuration: str) -> str:
    """Hash of everything in a plan that a trained model depends on: its input, its output and the network.

    It does not depend on schedule, batch and estimates, because training may continue with another number of epochs,
    nor on previous_labels and logits_precision, which concern prediction alone, nor on the median shape and on
    statistics of intensities that the normalisation does not use, which follow every change of the data.
    """
    values = plan.configurations[configuration]
    settings = values.model_dump(mode="json", exclude={*_NOT_OF_THE_MODEL, "median_shape", "normalization"})
    settings["normalization"] = [used_normalization(spec) for spec in values.normalization]
    return hash_of([settings, plan.model_dump(mode="json", include=_SHARED_FIELDS)])


def is_model_of(plan: Plan, configuration: str, trained: str) -> bool:
    """Whether weights that were trained for the model hash `trained` serve a configuration of this plan."""
    if configuration not in plan.configurations:
        return False
    return trained in (model_hash(plan, configuration), _model_hash_of_0_2(plan, configuration))


def _model_hash_of_0_2(plan: Plan, configuration: str) -> str:
    """Hash in checkpoints of versions up to 0.2.0, which depends on all statistics of intensities."""
    settings = plan.configurations[configuration].model_dump(mode="json", exclude=_NOT_OF_THE_MODEL)
    return hash_of([settings, plan.model_dump(mode="json", include=_SHARED_FIELDS)])


def used_normalization(spec: NormalizationSpec) -> dict[str, JsonValue]:
    """The fields of a normalisation that decide the voxels."""
    used: dict[str, JsonValue] = spec.model_dump(mode="json", include={"scheme", *_USED_BY_SCHEME[spec.scheme]})
    return used


def hash_of(value: object) -> str:
    """Short hash of a JSON value; equal values have equal hashes, whatever the order of their keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def hash_plan(plan: Plan) -> str:
    """Hash of a whole plan."""
    return hash_of(plan.model_dump(mode="json"))


class Split(Record):
    """Case ids of one fold."""

    training: tuple[FileName, ...]
    validation: tuple[FileName, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        both = sorted(set(self.training) & set(self.validation))
        if both:
            refuse_faults([(("validation",), f"{len(both)} cases are also in `training`, for example {both[0]}")])
        return self


class Splits(Record):
    """The cross-validation; index in `folds` is the fold's name."""

    schema_version: Literal[1] = 1
    folds: tuple[Split, ...]
    reason: str
    """Method of division: seed and groups."""
    folds_hash: str = Field(default="", exclude_if=lambda value: value == "")
    """Hash of the folds as planning made them, to notice that they were edited by hand; empty in older files."""


def hash_of_folds(folds: Sequence[Split]) -> str:
    """Hash of the cases of every fold, in their order."""
    return hash_of([fold.model_dump(mode="json") for fold in folds])
