"""Conversion of nnU-Net's plans.json and dataset.json: preprocessing, resampling, labels, and cost of the network.

References:
    nnU-Net v2 (Isensee et al. 2021): planning, preprocessing and resampling, as its plans record them.

Tested in tests/interop/test_nnunet_import.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from autoseg.costs.architectures import forward_macs
from autoseg.costs.memory import count_feature_map_elements, count_parameters
from autoseg.errors import InteropError
from autoseg.interop.nnunet_checkpoint import NnunetCheckpoint
from autoseg.interop.nnunet_files import (
    DatasetFile,
    PlannedConfiguration,
    PlansFile,
    Resampling,
    describe_faults,
    planned_configuration,
)
from autoseg.interop.nnunet_network import describe_network
from autoseg.records.dataset import LabelEncoding, OrientationName
from autoseg.records.network import NetworkSpec, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Estimates
from autoseg.records.training import TrainingSpec

Scheme = Literal["zscore", "ct", "rescale_0_1", "rgb_0_1", "none"]

SCHEMES: Mapping[str, Scheme] = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}
RESAMPLING_FUNCTION = "resample_data_or_seg_to_shape"
"""nnU-Net's default resampling function: splines of scikit-image and scipy."""

ORIENTATIONS: Mapping[str, OrientationName] = {
    "SimpleITKIO": "as_stored",
    "NibabelIO": "as_stored",
    "NaturalImage2DIO": "as_stored",
    "NibabelIOWithReorient": "canonical_ras",
}
"""Orientation of arrays for each of nnU-Net's readers."""


def choose_orientation_name(plans: PlansFile, where: str) -> OrientationName:
    """The orientation of arrays from the reader that a model was trained with.

    Raises:
        InteropError: If autoseg cannot reproduce the arrays of the reader.
    """
    reader = plans.image_reader_writer
    if reader not in ORIENTATIONS:
        raise InteropError(
            f"{where}: images were read by {reader}, whose arrays autoseg cannot reproduce; it imports models trained "
            f"with {', '.join(ORIENTATIONS)}. Predict with nnU-Net, or convert the images and train again."
        )
    return ORIENTATIONS[reader]


def make_configuration(
    name: str,
    plans: PlansFile,
    dataset: DatasetFile,
    encoding: LabelEncoding,
    checkpoint: NnunetCheckpoint,
    path: Path,
) -> Configuration:
    """One configuration of the plan.

    Args:
        name: Name of the configuration.
        plans: Content of plans.json.
        dataset: Content of dataset.json.
        encoding: Encoding of the labels.
        checkpoint: Checkpoint of one fold, for weights and mirroring.
        path: Path of plans.json, for messages.

    Raises:
        InteropError: If autoseg does not support something in it; names it.
    """
    planned = planned_configuration(plans, name, path)
    where = f"{path}: configuration {name}"
    inputs = len(dataset.channels) + (len(encoding.values) - 1 if planned.previous_stage is not None else 0)
    try:
        network = describe_network(planned, inputs, len(encoding.heads), checkpoint.weights, where)
        return Configuration(
            spacing=planned.spacing,
            median_shape=planned.median_image_size_in_voxels,
            patch_size=planned.patch_size,
            batch_size=planned.batch_size,
            network=network,
            normalization=_normalization(planned, plans, len(dataset.channels), where),
            resampling=_resampling(planned, where),
            training=training_of(checkpoint, batch_dice=planned.batch_dice),
            estimates=count_costs(network, planned.patch_size),
            preprocessed_as=name,
            previous_configuration=planned.previous_stage,
            previous_labels="logits" if planned.previous_stage is None else "label_map",
            logits_precision="float16",
        )
    except ValidationError as error:
        raise InteropError(f"{where}: does not make a configuration of autoseg: {describe_faults(error)}") from error
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InteropError(f"{where}: does not make a configuration of autoseg: {error!r}") from error


def training_of(checkpoint: NnunetCheckpoint, *, batch_dice: bool) -> TrainingSpec:
    """Training of nnU-Net's default trainer, with the epochs and the mirroring that the checkpoint records."""
    return TrainingSpec(epochs=max(1, checkpoint.epochs), mirror_axes=checkpoint.mirror_axes, batch_dice=batch_dice)


def count_costs(network: NetworkSpec, patch_size: Sequence[int]) -> Estimates:
    """Parameters, multiply-accumulates and convolution outputs of one patch.

    The training memory is left open: it depends on what trains, and only planners estimate that.
    """
    return Estimates(
        feature_map_elements=count_feature_map_elements(network, patch_size, output_channels=network.output_channels),
        parameters=count_parameters(network),
        macs=forward_macs(network, patch_size),
        training_memory_bytes=None,
    )


def _normalization(
    planned: PlannedConfiguration, plans: PlansFile, channels: int, where: str
) -> tuple[NormalizationSpec, ...]:
    foreign = [scheme for scheme in planned.normalization_schemes if scheme not in SCHEMES]
    if foreign:
        raise InteropError(
            f"{where}: images were normalised by {', '.join(dict.fromkeys(foreign))}, which is not part of nnU-Net; "
            f"autoseg imports {', '.join(SCHEMES)}. Predict with the version of nnU-Net that has it."
        )
    specs = []
    for index, (scheme, mask) in enumerate(zip(planned.normalization_schemes, planned.use_mask_for_norm, strict=True)):
        facts = plans.foreground_intensity_properties_per_channel.get(str(index))
        if facts is None and SCHEMES[scheme] == "ct":
            raise InteropError(f"{where}: no foreground intensities of channel {index}, which CTNormalization needs")
        numbers = {} if facts is None else {
            "mean": facts.mean, "std": facts.std, "lower": facts.percentile_00_5, "upper": facts.percentile_99_5
        }  # fmt: skip
        use_mask = mask and SCHEMES[scheme] == "zscore"
        specs.append(NormalizationSpec(scheme=SCHEMES[scheme], use_mask=use_mask, **numbers))
    if len(specs) != channels:
        raise InteropError(f"{where}: {len(specs)} normalisation schemes for {channels} channels of dataset.json")
    return tuple(specs)


def _resampling(planned: PlannedConfiguration, where: str) -> ResamplingSpec:
    """The one rule about thick slices for everything that is resampled; label maps are resampled only in a cascade."""
    used = {
        "data": (planned.resampling_fn_data, planned.resampling_fn_data_kwargs),
        "probabilities": (planned.resampling_fn_probabilities, planned.resampling_fn_probabilities_kwargs),
    }
    if planned.previous_stage is not None:
        used["seg"] = planned.resampling_fn_seg, planned.resampling_fn_seg_kwargs
    foreign = {f"resampling_fn_{what} = {function}" for what, (function, _) in used.items()
               if function != RESAMPLING_FUNCTION}  # fmt: skip
    if foreign:
        raise InteropError(
            f"{where}: {', '.join(sorted(foreign))}; only nnU-Net's default, {RESAMPLING_FUNCTION}, can be imported. "
            "Predict with nnU-Net."
        )
    rules = {what: _separation(arguments) for what, (_, arguments) in used.items()}
    if len(set(rules.values())) != 1:
        raise InteropError(
            f"{where}: the resampling of {' and '.join(rules)} differs in order_z, force_separate_z or its threshold "
            f"({rules}); autoseg has one rule for all. Predict with nnU-Net."
        )
    first = planned.resampling_fn_data_kwargs
    forced = first.force_separate_z
    return ResamplingSpec(
        image_order=first.order,
        label_order=planned.resampling_fn_seg_kwargs.order,
        logits_order=planned.resampling_fn_probabilities_kwargs.order,
        through_plane_order=first.order_z,
        separate_through_plane="auto" if forced is None else "always" if forced else "never",
        anisotropy_threshold=first.separate_z_anisotropy_threshold,
    )


def _separation(arguments: Resampling) -> tuple[int, bool | None, float]:
    return arguments.order_z, arguments.force_separate_z, arguments.separate_z_anisotropy_threshold
