"""A hand-built plan with an untrained network, written as a workspace, for the tests of prediction."""

from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits
from autoseg.networks.build import build_network
from autoseg.records.budget import Budget
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.records.dataset import LabelValues
from autoseg.records.files import write_record
from autoseg.records.network import NetworkSpec, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Estimates, Plan, TrainingSpec, model_hash
from autoseg.records.workspace import Workspace
from autoseg.training.folds.checkpointing import save_weights

LABELS: dict[str, LabelValues] = {"background": 0, "anterior": 3, "posterior": 300}
CASCADE = "3d_cascade_fullres"
SHAPE, SPACING = (9, 21, 26), (2.5, 1.0, 0.8)
"""Voxels and mm, (z, y, x), of `make_image` and `write_nifti`."""
REGIONS: dict[str, LabelValues] = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}


def make_plan(
    spacings: dict[str, tuple[float, ...]],
    *,
    labels=None,
    channels=("MR",),
    transpose=(0, 1, 2),
    normalization="zscore",
) -> Plan:
    """A plan with one configuration per entry; two numbers of spacing make it two-dimensional."""
    labels = LABELS if labels is None else labels
    order = (1, 2, 3) if any(isinstance(value, tuple) for value in labels.values()) else None
    encoding = make_encoding(labels, order)
    return Plan(
        dataset_name="made",
        planner="unet",
        budget=Budget(),
        channel_names=channels,
        labels=labels,
        encoding=encoding,
        orientation="canonical",
        transpose=transpose,
        configurations={
            name: make_configuration(name, spacing, len(channels), len(encoding.heads), normalization)
            for name, spacing in spacings.items()
        },
        decisions=(),
    )


def make_cascade_plan(low_spacing, spacing, *, labels=None, channels=("MR",), transpose=(0, 1, 2)) -> Plan:
    """3d_lowres, 3d_fullres, and the cascade that follows the first and shares the arrays of the second."""
    plan = make_plan(
        {"3d_lowres": low_spacing, "3d_fullres": spacing}, labels=labels, channels=channels, transpose=transpose
    )
    full = plan.configurations["3d_fullres"]
    inputs = len(channels) + len(plan.encoding.values) - 1
    cascade = full.model_copy(
        update={
            "network": full.network.model_copy(update={"input_channels": inputs}),
            "previous_configuration": "3d_lowres",
        }
    )
    return Plan.model_validate(plan.model_copy(update={"configurations": {**plan.configurations, CASCADE: cascade}}))


def make_configuration(name, spacing, channels, heads, normalization) -> Configuration:
    dimensions = len(spacing)
    network = NetworkSpec(
        architecture="unet",
        dimensions=3 if dimensions == 3 else 2,
        input_channels=channels,
        output_channels=heads,
        features=(4, 6),
        strides=((1,) * dimensions, (2,) * dimensions),
        kernel_sizes=((3,) * dimensions,) * 2,
        encoder_blocks=(1, 1),
        decoder_blocks=(1,),
    )
    patch = (12, 16, 20)[-dimensions:]
    return Configuration(
        spacing=spacing,
        median_shape=tuple(float(size) for size in patch),
        patch_size=patch,
        batch_size=2,
        network=network,
        normalization=(NormalizationSpec(scheme=normalization),) * channels,
        resampling=ResamplingSpec(),
        training=TrainingSpec(mirror_axes=tuple(range(dimensions)), batch_dice=False),
        estimates=Estimates(feature_map_elements=0, parameters=0, macs=0, training_memory_bytes=0),
        preprocessed_as=name,
    )


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
