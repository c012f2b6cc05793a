"""Networks, batches and models of the size that nnU-Net trains, made up; small ones where everything is to be tiny."""

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from autoseg.networks.devices import use_precision
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.network import Architecture, NetworkSpec, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Estimates
from autoseg.records.training import TrainingSpec
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import Batch, BatchStream
from autoseg.training.data.loading import TrainingCase, build_loader
from autoseg.training.steps.run import Clock, StepSettings, TrainingRun
from autoseg.training.steps.setup import build_initial_network, start_run
from gpu_checks.machine import Machine

ENDLESS = Clock(total_steps=10**9, limit_seconds=None)
"""Training is at its very beginning in every check."""

FEATURES, TINY_FEATURES = (32, 64, 128, 256, 320, 320), (4, 8, 16)
EDGE, TINY_EDGE = 128, 16
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6)
READY_BATCHES = 4
"""Batches that lie in memory and are used over and over."""

REGIONS = LabelEncoding(
    values=(0, 1, 2), activation="sigmoid", ignore_value=9,
    heads=tuple(
        Head(name=name, indices=indices, painted_index=index)
        for name, indices, index in (("whole", (1, 2), 1), ("core", (2,), 2), ("rim", (1,), 1))
    ),
)  # fmt: skip


def labels_encoding(num_heads: int) -> LabelEncoding:
    """Background and so many labels less one."""
    heads = tuple(Head(name=f"part {index}", indices=(index,), painted_index=index) for index in range(num_heads))
    return LabelEncoding(values=tuple(range(num_heads)), activation="softmax", heads=heads)


LABELS = labels_encoding(3)


def large_configuration(
    machine: Machine, architecture: Architecture = "unet", *, num_heads: int = 3, channels: int = 1
) -> Configuration:
    """nnU-Net's 3D network on a patch of 128 x 128 x 128, batch 2: plain, or with the residual encoder M."""
    features, edge = (TINY_FEATURES, TINY_EDGE) if machine.is_tiny else (FEATURES, EDGE)
    levels, is_residual = len(features), architecture == "residual_unet"
    network = NetworkSpec(
        architecture=architecture, dimensions=3, input_channels=channels, output_channels=num_heads,
        features=features, strides=((1, 1, 1), *((2, 2, 2),) * (levels - 1)), kernel_sizes=((3, 3, 3),) * levels,
        encoder_blocks=RESIDUAL_BLOCKS[:levels] if is_residual else (2,) * levels,
        decoder_blocks=(1 if is_residual else 2,) * (levels - 1),
    )  # fmt: skip
    return Configuration(
        spacing=(1.5, 1.5, 1.5), median_shape=(float(edge),) * 3, patch_size=(edge,) * 3, batch_size=2,
        network=network, normalization=(NormalizationSpec(scheme="zscore"),) * channels, resampling=ResamplingSpec(),
        training=TrainingSpec(mirror_axes=(0, 1, 2), batch_dice=False, learning_rate=1e-3),
        estimates=Estimates(feature_map_elements=0, parameters=0, macs=0, training_memory_bytes=0),
        preprocessed_as="3d_fullres",
    )  # fmt: skip


def with_schedule(configuration: Configuration, **changes: object) -> Configuration:
    """The configuration with another schedule: `steps_per_epoch`, `optimizer`, `loss` and so on."""
    training = configuration.training.model_copy(update={"validation_steps": 1, "weight_average_decay": None} | changes)
    return configuration.model_copy(update={"training": training})


def rules_of(probability: float, **changes: float) -> AugmentationRules:
    """Augmentation that does everything with this probability."""
    names = [rule.name for rule in fields(AugmentationRules) if rule.name.endswith("probability")]
    values: dict[str, Any] = {**dict.fromkeys(names, probability), **changes}
    return replace(AugmentationRules(), **values)


def start(
    machine: Machine,
    configuration: Configuration,
    precision: str,
    *,
    encoding: LabelEncoding = LABELS,
    compiled: bool = False,
    tuned: bool = True,
) -> TrainingRun:
    """Everything that training steps need, with weights that depend on nothing but the configuration.

    Args:
        machine: Where it trains.
        configuration: Network and schedule.
        precision: fp32, tf32, bf16 or fp16.
        encoding: Labels.
        compiled: Whether the network is compiled.
        tuned: Whether cuDNN tries its ways for every shape, as in training; that takes long for a few steps.
    """
    settings = StepSettings(machine.device, use_precision(precision, machine.device), compiled=compiled)
    run = start_run(build_initial_network(configuration, 0), configuration, encoding, settings)
    torch.backends.cudnn.benchmark = tuned and machine.has_gpu
    return run


def noise_case(channels: int, shape: Sequence[int], num_labels: int) -> TrainingCase:
    """A case of noise in memory, whose labels are where the noise is strong."""
    array = np.random.default_rng(0).standard_normal((channels + 1, *shape), dtype=np.float32)
    array[-1] = np.clip(np.abs(array[0]) - 0.5, 0, num_labels - 1).round()
    voxels = {label: np.argwhere(array[-1] == label)[::97].astype(np.int32) for label in range(1, num_labels)}
    found = {label: locations for label, locations in voxels.items() if len(locations)}
    return TrainingCase(case_id="noise", array=array, locations=found, annotated=None)


def noise_batches(
    configuration: Configuration, stream: BatchStream, shape: Sequence[int], workers: int
) -> Generator[Batch, None, None]:
    """Batches of a case of noise, (z, y, x) voxels or (y, x), drawn as in training; close them to end the workers."""
    channels = configuration.network.input_channels
    case = noise_case(channels, (1, *shape)[-3:], len(LABELS.values))
    return build_loader([case], configuration, LABELS, stream, workers=workers)


def training_stream(*, has_rest_for_device: bool) -> BatchStream:
    """Augmented batches; `has_rest_for_device` leaves to the device what training leaves to a GPU."""
    return BatchStream(seed=(0,), rules=AugmentationRules(), intensity_on_device=has_rest_for_device)


def ready_batches(configuration: Configuration, *, for_validation: bool = False) -> Iterator[Batch]:
    """A few batches over and over, so that no step waits for data; those for training need a device's augmentation."""
    stream = BatchStream(seed=(1,), rules=None) if for_validation else training_stream(has_rest_for_device=True)
    with closing(noise_batches(configuration, stream, configuration.patch_size, workers=0)) as batches:
        return itertools.cycle(list(itertools.islice(batches, READY_BATCHES)))


def ignore_step(_step: int) -> None:
    """Show no progress."""
