"""plans.json and dataset.json of nnU-Net for a model of autoseg, and what nnU-Net cannot express of it.

References:
    nnU-Net v2 (Isensee et al. 2021), release 2.8.1: the keys that its prediction reads, and their meaning.

Tested in tests/interop/test_nnunet_description.py.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from statistics import median
from typing import Final

from autoseg.errors import InteropError
from autoseg.imaging.formats.volume import PICTURE_ENDINGS
from autoseg.interop.nnunet_configurations import RESAMPLING_FUNCTION, SCHEMES
from autoseg.interop.nnunet_files import NETWORK_CLASSES, JsonObject
from autoseg.interop.nnunet_network import ARCHITECTURES, BLOCKS
from autoseg.networks.blocks import NORMALIZATION_EPSILON
from autoseg.records.dataset import BACKGROUND, IGNORE
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NETWORK_PARTS, NetworkSpec, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Plan
from autoseg.records.selection import Selection

TRAINER: Final = "nnUNetTrainer"
PLANS: Final = "nnUNetPlans"

DATASET_NUMBER: Final = 900
"""Number in the folder's name of a dataset that has none."""

CLASS_NAMES: Final = {ours: NETWORK_CLASSES[theirs] for theirs, ours in ARCHITECTURES.items()}
SCHEME_NAMES: Final = {ours: theirs for theirs, ours in SCHEMES.items()}

SIMPLE_ITK: Final = "SimpleITKIO"
VOLUME_ENDINGS: Final = (".nii.gz", ".nrrd", ".mha", ".gipl")
"""Endings of volumes that nnU-Net finds in a folder of images."""
FLAT_ENDINGS: Final = (".png", ".bmp", ".tif")
"""Endings of pictures that nnU-Net finds in a folder of images."""


def refuse_inexpressible(plan: Plan, names: Collection[str]) -> None:
    """Refuse models whose label maps nnU-Net could not make.

    Args:
        plan: The plan.
        names: Configurations that are exported.

    Raises:
        InteropError: If a network, the target of training or the labels have no counterpart; names all of them.
    """
    faults = [
        f"the network of {name} is {network.architecture}, and nnU-Net has {' and '.join(CLASS_NAMES)} only"
        for name in names
        if (network := plan.configurations[name].network).architecture not in CLASS_NAMES
    ]
    faults += [
        f"the network of {name} sees neighbouring slices, and nnU-Net gives a 2D network one slice"
        for name in names
        if plan.configurations[name].neighbor_slices
    ]
    faults += [
        f"the network of {name} is told which channels an image has, and nnU-Net's expect all of them"
        for name in names
        if plan.configurations[name].channel_presence
    ]
    faults += [
        f"the network of {name} has {part} {value}, and nnU-Net's have {nothing}"
        for name in names
        for part, nothing in {**NETWORK_PARTS, "head": "full"}.items()
        if (value := getattr(plan.configurations[name].network, part)) != nothing
    ]
    if plan.target == "mask_rcnn":
        faults.append("its networks find objects with boxes and masks, which nnU-Net has no networks for")
    if plan.target == "border_core":
        faults.append("it was trained on cores and borders of objects, which nnU-Net does not put together")
    if plan.encoding.overlapping:
        faults.append("its labels overlap, and nnU-Net writes each region over those before it")
    if faults:
        other = "" if plan.target == "mask_rcnn" else ", or with --format onnx"
        raise InteropError(
            f"{plan.dataset_name}: cannot be expressed in nnU-Net's format: {'; '.join(faults)}. Export it without "
            f"--format{other}."
        )


def describe_differences(plan: Plan, selection: Selection, names: Iterable[str]) -> Iterator[str]:
    """What users of the exported model have to know, one sentence each; the model alone decides the rest as here."""
    yield from _describe_files(plan)
    yield from _describe_recipe(selection)
    for name in names:
        configuration = plan.configurations[name]
        if configuration.previous_configuration is not None:
            yield f"{name} needs the label maps of {configuration.previous_configuration} (-prev_stage_predictions)."
            if configuration.previous_labels == "logits":
                yield "nnU-Net takes decided labels to the grid of the second step, not logits, which is less exact."


def _describe_files(plan: Plan) -> Iterator[str]:
    if plan.orientation == "canonical" and plan.file_ending.lower() not in PICTURE_ENDINGS:
        yield (
            "Images have to be stored with axes to the left, posterior and superior (LPS, the identity as direction), "
            "because nnU-Net has no reader that turns them so: SimpleITK.DICOMOrient(image, 'LPS') does."
        )
    if list(plan.encoding.values) != [*range(len(plan.encoding.values))]:
        numbers = ", ".join(f"{value} -> {index}" for index, value in enumerate(plan.encoding.values))
        yield f"nnU-Net counts labels without gaps, so that values of label maps are others: {numbers}."
    if plan.file_ending.lower() not in (*VOLUME_ENDINGS, *FLAT_ENDINGS):
        yield f"nnU-Net does not find {plan.file_ending} images; give it {_file_ending(plan)} files."


def _describe_recipe(selection: Selection) -> Iterator[str]:
    if selection.postprocessing:
        yield f"Post-processing is left out ({', '.join(step.operation for step in selection.postprocessing)})."
    if selection.refinement is not None:
        yield "Boundary refinement is left out."
    if selection.region_thresholds:
        yield "Thresholds of regions are left out; nnU-Net takes 0.5 for each."
    if selection.decision == "expected-dice":
        yield "The decision by expected Dice is left out; nnU-Net takes the most probable label, and regions above 0.5."
    if len(selection.configurations) > 1:
        chosen = " and ".join(selection.configurations)
        yield f"The probabilities of {chosen} are averaged only by nnUNetv2_ensemble, of their saved probabilities."
    if selection.member_weights:
        yield "It averages them half and half; their weights are left out."


def dataset_folder(plan: Plan) -> str:
    """Name of the dataset's folder; a name of nnU-Net's form is kept.

    Examples:
        `Dataset004_Hippocampus` stays, `hippo (left)` becomes `Dataset900_hippo_left`.
    """
    if re.fullmatch(r"Dataset\d{3}_[\w-]+", plan.dataset_name, re.ASCII):
        return plan.dataset_name
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", plan.dataset_name).strip("_")
    return f"Dataset{DATASET_NUMBER:03d}_{plain or 'model'}"


def describe_dataset(plan: Plan, cases: int, license_text: str, notes: Iterable[str]) -> JsonObject:
    """dataset.json; labels are counted without gaps, as nnU-Net needs them.

    Args:
        plan: The plan.
        cases: Number of training cases; 0: not known.
        license_text: License; empty: not stated.
        notes: Sentences for users of the model.
    """
    encoding = plan.encoding
    labels: dict[str, int | list[int]] = {BACKGROUND: 0}
    described: JsonObject = {"channel_names": {str(index): name for index, name in enumerate(plan.channel_names)}}
    if encoding.activation == "sigmoid":
        labels |= {head.name: list(head.indices) for head in encoding.heads}
        described["regions_class_order"] = [head.painted_index for head in encoding.heads]
    else:
        labels |= {head.name: head.painted_index for head in encoding.heads}
    if encoding.ignore_value is not None:
        labels[IGNORE] = len(encoding.values)
    return {
        **described,
        "labels": labels,
        "numTraining": cases,
        "file_ending": _file_ending(plan),
        "name": plan.dataset_name,
        "licence": license_text,
        "description": " ".join(notes),
    }


def _file_ending(plan: Plan) -> str:
    ending = plan.file_ending.lower()
    if ending in PICTURE_ENDINGS:
        return ending if ending in FLAT_ENDINGS else ".png"
    return ending if ending in VOLUME_ENDINGS else ".nii.gz"


def describe_plans(plan: Plan, names: Iterable[str], owner: str, fingerprint: Fingerprint | None) -> JsonObject:
    """plans.json of one configuration's folder.

    Args:
        plan: The plan.
        names: Configurations that are exported, previous steps of cascades included.
        owner: Configuration whose intensities are stated, as nnU-Net has those of one configuration only.
        fingerprint: Facts of the training cases; None: not known, as of imported models.
    """
    backward = [plan.transpose.index(axis) for axis in range(3)]
    known = [] if fingerprint is None else list(_medians(fingerprint, plan))
    return {
        "dataset_name": dataset_folder(plan),
        "plans_name": PLANS,
        **dict(known),
        "image_reader_writer": _choose_reader(plan),
        "transpose_forward": list(plan.transpose),
        "transpose_backward": backward,
        "configurations": {name: _describe_configuration(plan, name) for name in names},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): _intensities(spec) for index, spec in enumerate(plan.configurations[owner].normalization)
        },
    }


def _medians(fingerprint: Fingerprint, plan: Plan) -> Iterator[tuple[str, list[float]]]:
    cases = fingerprint.cases
    if cases:
        spacing = [median(case.spacing[axis] for case in cases) for axis in plan.transpose]
        shape = [float(median(case.cropped_shape[axis] for case in cases)) for axis in plan.transpose]
        yield "original_median_spacing_after_transp", spacing
        yield "original_median_shape_after_transp", shape


def describe_fingerprint(fingerprint: Fingerprint) -> JsonObject:
    """dataset_fingerprint.json, which nnU-Net's planners read; cases are sorted by size, so that none can be told."""
    cases = sorted(fingerprint.cases, key=lambda case: (case.cropped_shape, case.spacing))
    return {
        "spacings": [list(case.spacing) for case in cases],
        "shapes_after_crop": [list(case.cropped_shape) for case in cases],
        "foreground_intensity_properties_per_channel": {
            str(index): {
                "mean": facts.mean,
                "median": facts.median,
                "std": facts.std,
                "min": facts.minimum,
                "max": facts.maximum,
                "percentile_00_5": facts.percentile_00_5,
                "percentile_99_5": facts.percentile_99_5,
            }
            for index, facts in enumerate(fingerprint.intensities)
        },
        "median_relative_size_after_cropping": fingerprint.median_cropped_fraction,
    }


def _choose_reader(plan: Plan) -> str:
    if plan.file_ending.lower() in PICTURE_ENDINGS:
        return "NaturalImage2DIO"
    return "NibabelIOWithReorient" if plan.orientation == "canonical_ras" else SIMPLE_ITK


def _describe_configuration(plan: Plan, name: str) -> JsonObject:
    configuration = plan.configurations[name]
    next_stages = [other for other, its in plan.configurations.items() if its.previous_configuration == name]
    chain: JsonObject = {}
    if configuration.previous_configuration is not None:
        chain["previous_stage"] = configuration.previous_configuration
    if next_stages:
        chain["next_stage"] = next_stages[0]
    return {
        "data_identifier": f"{PLANS}_{configuration.preprocessed_as}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": configuration.batch_size,
        "patch_size": list(configuration.patch_size),
        "median_image_size_in_voxels": list(configuration.median_shape),
        "spacing": list(configuration.spacing),
        "normalization_schemes": [SCHEME_NAMES[spec.scheme] for spec in configuration.normalization],
        "use_mask_for_norm": [spec.use_mask for spec in configuration.normalization],
        **_describe_resampling(configuration.resampling),
        "architecture": describe_architecture(configuration.network),
        "batch_dice": configuration.training.batch_dice,
        **chain,
    }


def _describe_resampling(spec: ResamplingSpec) -> JsonObject:
    forced = {"auto": None, "always": True, "never": False}[spec.separate_through_plane]
    shared: JsonObject = {"order_z": spec.through_plane_order, "force_separate_z": forced}
    if spec.anisotropy_threshold != ResamplingSpec().anisotropy_threshold:
        shared["separate_z_anisotropy_threshold"] = spec.anisotropy_threshold
    orders = {"data": spec.image_order, "seg": spec.label_order, "probabilities": spec.logits_order}
    described: JsonObject = {}
    for what, order in orders.items():
        described[f"resampling_fn_{what}"] = RESAMPLING_FUNCTION
        described[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "order": order, **shared}
    return described


def describe_architecture(spec: NetworkSpec) -> JsonObject:
    """The entry `architecture` of a configuration: class, arguments, and which of them nnU-Net has to import."""
    norm = "instancenorm.InstanceNorm" if spec.normalization == "instance" else "batchnorm.BatchNorm"
    return {
        "network_class_name": CLASS_NAMES[spec.architecture],
        "arch_kwargs": {
            "n_stages": len(spec.features),
            "features_per_stage": list(spec.features),
            "conv_op": f"torch.nn.modules.conv.Conv{spec.dimensions}d",
            "kernel_sizes": [list(kernel) for kernel in spec.kernel_sizes],
            "strides": [list(stride) for stride in spec.strides],
            BLOCKS[spec.architecture]: list(spec.encoder_blocks),
            "n_conv_per_stage_decoder": list(spec.decoder_blocks[::-1]),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.{norm}{spec.dimensions}d",
            "norm_op_kwargs": {"eps": NORMALIZATION_EPSILON, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _intensities(spec: NormalizationSpec) -> Mapping[str, float]:
    return {"mean": spec.mean, "std": spec.std, "percentile_00_5": spec.lower, "percentile_99_5": spec.upper}
