"""nnU-Net's JSON files as records: only the keys that decide a prediction; all others are ignored.

    plans.json             geometry, network and preprocessing, per configuration
    dataset.json           channels and labels
    postprocessing.json    which components are removed (cross-validation folder)
    inference_information.json    which configurations were found best (dataset folder)

References:
    nnU-Net v2 (Isensee et al. 2021), releases 2.0 to 2.8.1: names and meaning of the keys, inheritance between
    configurations, and how plans from before `architecture` are read.

Tested in tests/interop/test_nnunet_import.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError, model_validator

from autoseg.errors import InteropError, RecordError
from autoseg.imaging.datasets.dataset_json import ChannelNames, order_channels
from autoseg.records.files import read_json
from autoseg.records.names import FileEnding

JsonObject = dict[str, Any]
"""A JSON object as a dictionary."""

NETWORK_CLASSES = {
    "PlainConvUNet": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "ResidualEncoderUNet": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
}
"""Full names of the classes that plans without `architecture` (older releases) call by their last word."""


class _ForeignRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


ForeignType = TypeVar("ForeignType", bound=_ForeignRecord)


class Resampling(_ForeignRecord):
    """Arguments of nnU-Net's resampling function; missing ones have the function's own defaults."""

    order: int = 3
    order_z: int = 0
    force_separate_z: bool | None = False
    """Whether slices are resampled separately; None: decided by the anisotropy of the spacing."""
    separate_z_anisotropy_threshold: float = 3.0


class NetworkDescription(_ForeignRecord):
    """The class of a network and its arguments, import paths included; they are compared, never imported."""

    network_class_name: str
    arch_kwargs: JsonObject


class PlannedConfiguration(_ForeignRecord):
    """One configuration; axes follow `transpose_forward`."""

    patch_size: tuple[PositiveInt, ...]
    batch_size: PositiveInt
    spacing: tuple[PositiveFloat, ...]
    median_image_size_in_voxels: tuple[PositiveFloat, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: Resampling
    resampling_fn_seg: str
    resampling_fn_seg_kwargs: Resampling
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: Resampling
    architecture: NetworkDescription
    batch_dice: bool = False
    previous_stage: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _modernize(cls, values: Any) -> Any:  # noqa: ANN401 (JSON)
        if isinstance(values, dict) and "architecture" not in values and "UNet_class_name" in values:
            return {**values, "architecture": _old_architecture(values)}
        return values


class Intensities(_ForeignRecord):
    """Foreground intensities of one channel over the training cases."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class PlansFile(_ForeignRecord):
    """plans.json; configurations are resolved one by one, see `planned_configuration`."""

    dataset_name: str
    plans_name: str
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    experiment_planner_used: str = ""
    label_manager: str = "LabelManager"
    foreground_intensity_properties_per_channel: dict[str, Intensities] = {}
    configurations: dict[str, JsonObject]

    @model_validator(mode="before")
    @classmethod
    def _modernize(cls, values: Any) -> Any:  # noqa: ANN401 (JSON)
        old, new = "foreground_intensity_properties_by_modality", "foreground_intensity_properties_per_channel"
        if isinstance(values, dict) and old in values and new not in values:
            return {**values, new: values[old]}
        return values


class DatasetFile(_ForeignRecord):
    """dataset.json."""

    channel_names: ChannelNames
    labels: dict[str, int | tuple[int, ...]]
    regions_class_order: tuple[int, ...] | None = None
    file_ending: FileEnding = ".nii.gz"

    @model_validator(mode="before")
    @classmethod
    def _modernize(cls, values: Any) -> Any:  # noqa: ANN401 (JSON)
        if isinstance(values, dict) and "channel_names" not in values and "modality" in values:
            return {**values, "channel_names": values["modality"]}
        return values

    @property
    def channels(self) -> tuple[str, ...]:
        """Names in channel order."""
        return order_channels(self.channel_names)


class MeanDice(_ForeignRecord):
    """Part of a summary."""

    Dice: float | None = None


class Summary(_ForeignRecord):
    """Part of postprocessing.json."""

    foreground_mean: MeanDice = MeanDice()


class PostprocessingFile(_ForeignRecord):
    """postprocessing.json: functions by name, and their arguments."""

    postprocessing_fns: tuple[str, ...]
    postprocessing_kwargs: tuple[JsonObject, ...]
    postprocessed: Summary = Summary()


class ChosenModel(_ForeignRecord):
    """One configuration of the best model or ensemble."""

    configuration: str
    trainer: str
    plans_identifier: str


class BestModel(_ForeignRecord):
    """The best model or ensemble."""

    selected_model_or_models: tuple[ChosenModel, ...]
    result_on_crossval_post_pp: float | None = None
    postprocessing_file: str = ""


class InferenceFile(_ForeignRecord):
    """inference_information.json."""

    folds: tuple[int | str, ...]
    all_results: dict[str, float | None] = {}
    best_model_or_ensemble: BestModel


def read_nnunet_file(path: Path, record_type: type[ForeignType]) -> ForeignType:
    """Read one of nnU-Net's files.

    Raises:
        InteropError: If the file is missing, is not JSON, or lacks a field that is needed; names file and fields.
    """
    try:
        values = read_json(path)
    except RecordError as error:
        raise InteropError(f"{error}. Copy this file of the model again.") from error
    return _validate(record_type, values, str(path))


def planned_configuration(plans: PlansFile, name: str, path: Path) -> PlannedConfiguration:
    """A configuration with everything that it inherits.

    Args:
        plans: Content of plans.json.
        name: Name of the configuration.
        path: Path of plans.json, for messages.

    Raises:
        InteropError: If the configuration or one that it inherits from is missing, they inherit in a circle, or a
            field is missing or wrong.
    """
    return _validate(PlannedConfiguration, _resolve(plans, name, path), f"{path}: configuration {name}")


def _resolve(plans: PlansFile, name: str, path: Path) -> JsonObject:
    """The configuration's own keys over those of its parent, and so on up the chain."""
    resolved: JsonObject = {}
    heirs: list[str] = []
    ancestor: str | None = name
    while ancestor is not None:
        if ancestor in heirs:
            raise InteropError(f"{path}: configurations inherit in a circle: {' -> '.join((*heirs, ancestor))}")
        if ancestor not in plans.configurations:
            whose = f", from which {heirs[-1]} inherits" if heirs else ""
            raise InteropError(
                f"{path}: has no configuration {ancestor!r}{whose}; it has {', '.join(plans.configurations)}. Use the "
                "plans.json that the model was trained with."
            )
        own = plans.configurations[ancestor]
        resolved = {**own, **resolved}
        heirs.append(ancestor)
        ancestor = None if own.get("inherits_from") is None else str(own["inherits_from"])
    return resolved


def _old_architecture(values: Mapping[str, Any]) -> JsonObject:
    """`architecture` for plans of older releases without that key: always instance norm, leaky ReLU and biases."""
    convolutions = values.get("n_conv_per_stage_encoder", [])
    base, most = values.get("UNet_base_num_features", 0), values.get("unet_max_num_features", 0)
    name, dimensions = str(values["UNet_class_name"]), len(values.get("patch_size", []))
    blocks = "n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage"
    return {
        "network_class_name": NETWORK_CLASSES.get(name, name),
        "arch_kwargs": {
            "n_stages": len(convolutions),
            "features_per_stage": [min(base * 2**level, most) for level in range(len(convolutions))],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": values.get("conv_kernel_sizes"),
            "strides": values.get("pool_op_kernel_sizes"),
            blocks: convolutions,
            "n_conv_per_stage_decoder": values.get("n_conv_per_stage_decoder"),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
        },
    }


def _validate(record_type: type[ForeignType], values: object, what: str) -> ForeignType:
    try:
        return record_type.model_validate(values)
    except ValidationError as error:
        raise InteropError(f"{what}: not a file of nnU-Net v2: {describe_faults(error)}") from error


def describe_faults(error: ValidationError) -> str:
    """Fields with what is wrong in each, on one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or '(whole file)'}: {fault['msg']}"
        for fault in error.errors(include_url=False)
    )
