"""Small records, models and images for all tests.

Builders take the fields of a record by name, and make the rest up so that they fit together.
"""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits
from autoseg.networks.build import build_network
from autoseg.records.budget import Budget
from autoseg.records.case import PreprocessedCase
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.records.clicks import ClickSettings
from autoseg.records.dataset import CaseFiles, DatasetDescription, LabelEncoding, LabelValues
from autoseg.records.external import CostPoint, NetworkCosts
from autoseg.records.files import write_record
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.records.network import NetworkSpec, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Estimates, Plan, model_hash
from autoseg.records.training import TrainingSpec
from autoseg.records.trials import Candidate as TriedCandidate
from autoseg.records.trials import CurvePoint, Trial, TrialRound, Trials
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.training.folds.checkpointing import save_weights

LABELS: dict[str, LabelValues] = {"background": 0, "anterior": 3, "posterior": 300}
CASCADE = "3d_cascade_fullres"
SHAPE, SPACING = (9, 21, 26), (2.5, 1.0, 0.8)
"""Voxels and mm, (z, y, x), of `make_image` and `write_nifti`."""
REGIONS: dict[str, LabelValues] = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}


def make_network_spec(dimensions=3, **changes) -> NetworkSpec:
    """A small U-Net; strides of 2, kernels of 3 and one block at every level of `features`, unless they are given."""
    features = changes.get("features", (4, 6))
    levels = len(features)
    values = {
        "architecture": "unet",
        "dimensions": dimensions,
        "input_channels": 1,
        "output_channels": 3,
        "features": features,
        "strides": ((1,) * dimensions, *((2,) * dimensions,) * (levels - 1)),
        "kernel_sizes": ((3,) * dimensions,) * levels,
        "encoder_blocks": (1,) * levels,
        "decoder_blocks": (1,) * (levels - 1),
    }
    return NetworkSpec(**(values | changes))


def make_configuration(spacing=(1.0, 1.0, 1.0), **changes) -> Configuration:
    """Patches of 12 x 16 x 20 voxels; a spacing of two numbers makes it two-dimensional."""
    dimensions = len(spacing)
    network = changes.get("network", make_network_spec(dimensions))
    patch_size = changes.get("patch_size", (12, 16, 20)[-dimensions:])
    values = {
        "spacing": spacing,
        "median_shape": tuple(float(size) for size in patch_size),
        "patch_size": patch_size,
        "batch_size": 2,
        "network": network,
        "normalization": (NormalizationSpec(scheme="zscore"),) * network.input_channels,
        "resampling": ResamplingSpec(),
        "training": TrainingSpec(mirror_axes=tuple(range(dimensions)), batch_dice=False),
        "estimates": Estimates(feature_map_elements=0, parameters=0, macs=0, training_memory_bytes=0),
        "preprocessed_as": "3d_fullres",
    }
    return Configuration(**(values | changes))


def make_plan(spacings: dict[str, tuple[float, ...]] | None = None, *, normalization="zscore", **changes) -> Plan:
    """A plan with one configuration per spacing, for its channels and labels."""
    values: dict[str, Any] = {
        "dataset_name": "made",
        "planner": "unet",
        "budget": Budget(),
        "channel_names": ("MR",),
        "labels": LABELS,
        "orientation": "canonical",
        "transpose": (0, 1, 2),
        "decisions": (),
    } | changes
    if "encoding" not in values:
        values["encoding"] = _encode(values["labels"])
    channels, heads = len(values["channel_names"]), len(values["encoding"].heads)
    configurations = {
        name: make_configuration(
            spacing,
            network=make_network_spec(len(spacing), input_channels=channels, output_channels=heads),
            normalization=(NormalizationSpec(scheme=normalization),) * channels,
            preprocessed_as=name,
        )
        for name, spacing in (spacings or {}).items()
    }
    return Plan(**({"configurations": configurations} | values))


def _encode(labels: dict[str, LabelValues]) -> LabelEncoding:
    """Labels, or regions that are painted with 1, 2 and so on."""
    names = [name for name in labels if name not in {"background", "ignore"}]
    has_regions = any(isinstance(value, tuple) for value in labels.values())
    return make_encoding(labels, tuple(range(1, len(names) + 1)) if has_regions else None)


def make_cascade_plan(low_spacing, spacing, **changes) -> Plan:
    """3d_lowres, 3d_fullres, and the cascade that follows the first and shares the arrays of the second."""
    plan = make_plan({"3d_lowres": low_spacing, "3d_fullres": spacing}, **changes)
    full = plan.configurations["3d_fullres"]
    inputs = len(plan.channel_names) + len(plan.encoding.values) - 1
    cascade = full.model_copy(
        update={
            "network": full.network.model_copy(update={"input_channels": inputs}),
            "previous_configuration": "3d_lowres",
        }
    )
    return Plan.model_validate(plan.model_copy(update={"configurations": {**plan.configurations, CASCADE: cascade}}))


def make_interactive_plan(spacing, reach_mm=4.0, **changes) -> Plan:
    """A configuration named 3d_fullres (2d where the spacing is a pair), and `interactive`, which corrects it."""
    name = "3d_fullres" if len(spacing) == 3 else "2d"
    plan = make_plan({name: spacing}, **changes)
    corrected, values = plan.configurations[name], len(plan.encoding.values)
    inputs = corrected.network.input_channels + 2 * values - 1
    interactive = corrected.model_copy(
        update={
            "network": corrected.network.model_copy(update={"input_channels": inputs}),
            "previous_configuration": name,
            "previous_labels": "label_map",
            "clicks": ClickSettings(reach_mm=reach_mm),
        }
    )
    both = {**plan.configurations, "interactive": interactive}
    return Plan.model_validate(plan.model_copy(update={"configurations": both}))


def make_dataset(cases, plan: Plan | None = None, **changes) -> DatasetDescription:
    """Files of the cases in the folders `images` and `labels`; channels, labels and orientation are the plan's."""
    plan = plan or make_plan()
    values = {
        "name": plan.dataset_name,
        "folder": ".",
        "layout": "plain",
        "file_ending": ".nii.gz",
        "cases": tuple(
            CaseFiles(case=case, images=(f"images/{case}.nii.gz",), label=f"labels/{case}.nii.gz") for case in cases
        ),
    }
    return DatasetDescription(**(_described(plan) | values | changes))


def make_fingerprint(cases, plan: Plan | None = None, **changes) -> Fingerprint:
    """Facts of the cases (`make_case_fingerprint`); channels, labels and orientation are the plan's."""
    plan = plan or make_plan()
    statistics = IntensityStatistics(**dict.fromkeys(IntensityStatistics.model_fields, 1.0))
    values = {
        "dataset_name": plan.dataset_name,
        "cases": tuple(cases),
        "intensities": (statistics,) * len(plan.channel_names),
        "median_cropped_fraction": 1.0,
    }
    return Fingerprint(**(_described(plan) | values | changes))


def _described(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in ("channel_names", "labels", "encoding", "orientation")}


def make_case_fingerprint(case="a", shape=SHAPE, **changes) -> CaseFingerprint:
    """One channel, nothing cropped, no labels."""
    values = {
        "case": case,
        "shape": shape,
        "cropped_shape": shape,
        "spacing": (1.0, 1.0, 1.0),
        "channel_ranges": ((0.0, 1.0),),
        "labels": {},
        "content_hash": "",
    }
    return CaseFingerprint(**(values | changes))


def make_record(shape, spacing=(1.0, 1.0, 1.0), **changes) -> PreprocessedCase:
    """What preprocessing did: nothing, but for the changes."""
    original_shape = changes.get("original_shape", shape)
    values = {
        "case": "a",
        "configuration": "3d_fullres",
        "spacing": spacing,
        "shape": shape,
        "original_spacing": spacing,
        "original_shape": original_shape,
        "crop_start": (0, 0, 0),
        "crop_stop": original_shape,
        "transpose": (0, 1, 2),
    }
    return PreprocessedCase(**(values | changes))


def write_model(
    root: Path, plan: Plan, folds: dict[str, tuple[str, ...]], *, checkpoint="final", **training
) -> Workspace:
    """Plan and random weights: `folds` names the folds by configuration, `training` how it departed from the plan."""
    workspace = Workspace(root)
    write_record(plan, workspace.plan)
    for name, fold_names in folds.items():
        for fold in fold_names:
            torch.manual_seed(sum(map(ord, name + fold)))
            network = build_network(plan.configurations[name].network, deep_supervision=True)
            spec = plan.configurations[name].training.model_copy(update=training)
            record = Checkpoint(
                configuration=name, fold=fold, model_hash=model_hash(plan, name), cases_hash="made",
                training=spec, epoch=1, step=1, elapsed_seconds=0.0,
            )  # fmt: skip
            save_weights(network.state_dict(), record, workspace.fold(name, fold) / f"checkpoint_{checkpoint}")
    return workspace


def write_two_configurations(root: Path) -> Path:
    """A model of 3d_fullres with two folds and of 2d with one; returns its folder."""
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2), "2d": (1.1, 0.9)})
    write_model(root, plan, {"3d_fullres": ("0", "1"), "2d": ("0",)})
    return root


def predict_logits(forward, image, patch_size, num_heads, mirror_axes=(), **settings) -> torch.Tensor:
    """All slices of `stream_logits` as one tensor: (C, Z, Y, X) -> (K, Z, Y, X)."""
    slices = stream_logits(forward, list(image.numpy()), patch_size, num_heads, mirror_axes, WindowSettings(**settings))
    return torch.stack(list(slices), dim=1)


def make_epoch(epoch=0, **changes) -> EpochHistory:
    """The record of an epoch of ten steps, with one class that was found and one that was not."""
    values = {
        "epoch": epoch, "step": 10 * (epoch + 1), "seconds": 8.04, "data_wait_fraction": 0.0, "train_loss": 0.5,
        "validation_loss": None, "pseudo_dice": {"liver": 0.5, "lesion": None}, "learning_rate": 0.0123,
    }  # fmt: skip
    return EpochHistory(**(values | changes))


def make_image(seed=0, shape=SHAPE):
    """Blobs on black, so that there is something to crop."""
    blobs = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5).astype(np.float32) * 100
    blobs[:, :3] = 0
    return blobs


def write_nifti(array, path, spacing=SPACING):
    """(Z, Y, X) towards superior, posterior, left -> a file with the axes left, posterior, superior."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    affine[:3, 3] = (10, 20, -30)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


def load_exactly(model: Path, **options: Any) -> Predictor:
    """Load a model on the CPU in float32, so that label maps can be compared voxel by voxel."""
    return Predictor(model, PredictionOptions(device="cpu", precision="fp32", **options))


def touch_files(folder: Path, cases, *patterns: str) -> Path:
    """Empty files, called by patterns with the case in braces."""
    for case in cases:
        for pattern in patterns:
            path = folder / pattern.format(case)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


def make_trials(**changes) -> Trials:
    """Two candidates, `a` and `b`, of one finished round; `b` is better, and no choice was made."""
    values: dict[str, Any] = {
        "seconds": 60.0,
        "planner": "auto",
        "target": "labels",
        "budget": Budget(device="cpu"),
        "data_hash": "",
        "candidates": tuple(TriedCandidate(name=name, planner="unet", configuration="2d") for name in ("a", "b")),
        "round_sizes": (2,),
        "num_validation_cases": 3,
        "validation_cases": ("x", "y", "z"),
        "rounds": (TrialRound(candidates=("a", "b"), training_seconds=25.0),),
        "trials": (
            make_trial("a", 0, 0.25, curve=(CurvePoint(seconds=5.0, pseudo_dice=0.1),)),
            make_trial("b", 0, 0.5),
        ),
    }
    return Trials(**(values | changes))


def make_trial(candidate, number, dice, **changes) -> Trial:
    """A trial of 25 s in the first round, and of 75 s in the second."""
    seconds = (25.0, 75.0)[number]
    values: dict[str, Any] = {"training_seconds": seconds, "steps": 4, "mean_foreground_dice": dice}
    return Trial(**({"candidate": candidate, "round": number} | values | changes))


SMALL_NETWORK = """
from autoseg.records.external import NetworkDeclaration


def declare(name, options):
    if set(options) - {"features"}:
        raise ValueError("it has one setting, features")
    return NetworkDeclaration(divisors=(2, 4, 4), smallest_patch=(4, 8, 8), requires=("torch",))


def build(spec):
    import torch

    convolution, up, stride = {
        2: (torch.nn.Conv2d, torch.nn.ConvTranspose2d, (4, 4)),
        3: (torch.nn.Conv3d, torch.nn.ConvTranspose3d, (2, 4, 4)),
    }[spec.dimensions]
    features = int(spec.network_options.get("features", "4"))
    return torch.nn.Sequential(
        convolution(spec.input_channels, features, stride, stride),
        torch.nn.ReLU(),
        up(features, features, stride, stride),
        torch.nn.ReLU(),
        convolution(features, spec.output_channels, 3, padding=1),
    )
"""
"""A module of another package with a network; see `install_networks`."""


def install_networks(
    folder: Path, package="small_networks", entries="small = small_networks:build", source=None
) -> None:
    """What an installer leaves behind of a package with networks: metadata, and a module."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[autoseg.networks]\n{entries}\n")
    (folder / f"{package}.py").write_text(SMALL_NETWORK if source is None else source)


def make_costs() -> NetworkCosts:
    """20 multiply-accumulates and 5 kept numbers for each voxel."""
    points = (
        CostPoint(voxels=1000, macs=10_000, kept_elements=5000, largest_elements=900),
        CostPoint(voxels=3000, macs=50_000, kept_elements=15_000, largest_elements=2700),
    )
    return NetworkCosts(parameters=500, operations=7, points=points)


def make_external_spec(dimensions=3, **changes) -> NetworkSpec:
    """A small network of another package, two levels, whose costs were made up."""
    stride = ((4, 4), (2, 4, 4))[dimensions - 2]
    values = {
        "architecture": "external", "network_name": "small", "network_package": "small-networks torch",
        "strides": ((1,) * dimensions, stride), "deep_supervision": False, "costs": make_costs(),
    }  # fmt: skip
    return make_network_spec(dimensions, **(values | changes))
