"""A workspace with a plan of one configuration and random weights of its network, for measurements of prediction."""

from pathlib import Path

import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.networks.build import build_network
from autoseg.records.budget import Budget
from autoseg.records.case import Spacing, Triple
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import LabelValues
from autoseg.records.files import write_record
from autoseg.records.network import NetworkSpec, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Estimates, Plan, model_hash
from autoseg.records.training import TrainingSpec
from autoseg.records.workspace import Workspace
from autoseg.training.folds.checkpointing import save_weights

NAME = "3d_fullres"


def write_untrained_model(
    root: Path, *, num_heads: int, features: tuple[int, int], patch: Triple, spacing: Spacing
) -> None:
    """Write plan and weights of fold 0 of a small network.

    Args:
        root: Folder of the workspace.
        num_heads: Output classes, background included.
        features: Feature maps of the two levels.
        patch: Patch in voxels, (z, y, x).
        spacing: Spacing of the network's grid in mm, (z, y, x).
    """
    spec = NetworkSpec(
        architecture="unet", dimensions=3, input_channels=1, output_channels=num_heads, features=features,
        strides=((1, 1, 1), (2, 2, 2)), kernel_sizes=((3, 3, 3),) * 2, encoder_blocks=(1, 1), decoder_blocks=(1,),
    )  # fmt: skip
    configuration = Configuration(
        spacing=spacing, median_shape=tuple(map(float, patch)), patch_size=patch, batch_size=2,
        network=spec, normalization=(NormalizationSpec(scheme="zscore"),), resampling=ResamplingSpec(),
        training=TrainingSpec(mirror_axes=(0, 1, 2), batch_dice=False),
        estimates=Estimates(feature_map_elements=0, parameters=0, macs=0, training_memory_bytes=0),
        preprocessed_as=NAME,
    )  # fmt: skip
    write_untrained_configuration(root, configuration)


def write_untrained_configuration(root: Path, configuration: Configuration) -> None:
    """Write a plan of one configuration, whose heads are background and labels, and weights of fold 0.

    Args:
        root: Folder of the workspace.
        configuration: Configuration with one input channel.
    """
    num_heads = configuration.network.output_channels
    labels: dict[str, LabelValues] = {"background": 0, **{f"part_{n}": n for n in range(1, num_heads)}}
    plan = Plan(
        dataset_name="made up", planner="unet", budget=Budget(), channel_names=("CT",), labels=labels,
        encoding=make_encoding(labels), orientation="canonical", transpose=(0, 1, 2),
        configurations={NAME: configuration}, decisions=(),
    )  # fmt: skip
    workspace = Workspace(root)
    write_record(plan, workspace.plan)
    torch.manual_seed(0)
    record = Checkpoint(
        configuration=NAME, fold="0", model_hash=model_hash(plan, NAME), cases_hash="made up",
        training=configuration.training, epoch=1, step=1, elapsed_seconds=0.0,
    )  # fmt: skip
    weights = build_network(configuration.network, deep_supervision=True).state_dict()
    save_weights(weights, record, workspace.fold(NAME, "0") / "checkpoint_final")
