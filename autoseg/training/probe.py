"""How fast this machine trains: a few steps of small networks, so that a plan can promise a time.

The whole step is measured as training does it: drawing and augmenting a batch, forward, backward, update.
"""

import math
import time
from collections.abc import Iterator
from multiprocessing import SimpleQueue
from typing import Literal

import numpy as np
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from torch import Tensor, nn

from autoseg.networks.build import build_network
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.records.budget import Throughput
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.plan import Configuration, Estimates, NetworkSpec, NormalizationSpec, ResamplingSpec, TrainingSpec
from autoseg.training.augmentation.parameters import AugmentationRules
from autoseg.training.batch import Batch
from autoseg.training.loading import PatchLoader, TrainingCase
from autoseg.training.loop import Clock, start_run, train_epoch

MEASURED_FEATURES = (8, 32)
"""Base features of the measured networks: the narrowest that is planned, and nnU-Net's own."""

SECONDS_PER_MEASUREMENT = 0.7
MINIMUM_STEPS = 1

_ENCODING = LabelEncoding(
    values=(0, 1, 2),
    activation="softmax",
    heads=tuple(
        Head(name=name, indices=(index,), painted_index=index) for index, name in enumerate(("background", "a", "b"))
    ),
)


def measure_training_speed(device_name: str) -> tuple[Throughput, ...]:
    """Measure 2D and 3D networks of several widths, about a second each.

    Args:
        device_name: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: If the device is not there.
    """
    device = choose_device(device_name)
    precision = choose_dtype("auto", device)
    dimensions: tuple[Literal[2, 3], ...] = (3, 2)
    return tuple(
        _measure(number, features, device, precision) for number in dimensions for features in MEASURED_FEATURES
    )


def _measure(dimensions: Literal[2, 3], base_features: int, device: torch.device, precision: torch.dtype) -> Throughput:
    configuration = _configuration(dimensions, base_features)
    run = start_run(configuration, configuration.training, _ENCODING, device, precision, seed=0)
    batches = _batches(configuration)
    clock = Clock(total_steps=1_000_000, limit_seconds=None)
    train_epoch(run, batches, clock, lambda _step: None)  # sets up kernels
    began, steps = time.monotonic(), 0
    while steps < MINIMUM_STEPS or time.monotonic() - began < SECONDS_PER_MEASUREMENT:
        train_epoch(run, batches, clock, lambda _step: None)  # mean of the loss waits for a GPU to finish
        steps += 1
    seconds = (time.monotonic() - began) / steps
    macs = _forward_macs(configuration) * configuration.batch_size
    return Throughput(dimensions=dimensions, base_features=base_features, macs_per_second=macs / seconds)


def _forward_macs(configuration: Configuration) -> int:
    """Convolution multiply-accumulates of one sample, from the shapes of a network that computes nothing."""
    network = build_network(configuration.network, deep_supervision=False).to("meta")
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        # a transposed convolution multiplies each input voxel, an ordinary one gathers for each output voxel
        voxels = inputs[0] if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d) else output
        total += voxels.numel() * layer.get_parameter("weight")[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            layer.register_forward_hook(count)
    network(torch.empty((1, configuration.network.input_channels, *configuration.patch_size), device="meta"))
    return total


def _batches(configuration: Configuration) -> Iterator[Batch]:
    """Augmented batches of one noisy volume with two labels."""
    generator = np.random.default_rng(0)
    shape = (24, 64, 72) if configuration.network.dimensions == 3 else (8, 224, 208)
    array = generator.normal(size=(2, *shape)).astype(np.float32)
    array[1] = np.clip(np.round(array[1]), 0, 2)
    locations = {head: np.argwhere(array[1] == head)[:1000].astype(np.int32) for head in (1, 2)}
    case = TrainingCase(case="noise", array=array, locations=locations, annotated=None)
    loader = PatchLoader(
        [case], configuration, rules=AugmentationRules(), seed=(0,), first_batch=0, stride=1, failures=SimpleQueue()
    )
    return iter(SingleThreadedAugmenter(loader, None))


def _configuration(dimensions: Literal[2, 3], base_features: int) -> Configuration:
    """A U-Net of four levels on a patch of the size that short trainings use."""
    patch = (32, 48, 48) if dimensions == 3 else (160, 160)
    levels = 4
    ones, twos, kernel = (1,) * dimensions, (2,) * dimensions, (3,) * dimensions
    return Configuration(
        spacing=tuple(1.0 for _ in patch),
        median_shape=tuple(float(size) for size in patch),
        patch_size=patch,
        batch_size=2 if dimensions == 3 else 4,
        network=NetworkSpec(
            architecture="unet",
            dimensions=dimensions,
            input_channels=1,
            output_channels=len(_ENCODING.heads),
            features=tuple(base_features * 2**level for level in range(levels)),
            strides=(ones, *(twos,) * (levels - 1)),
            kernel_sizes=(kernel,) * levels,
            encoder_convolutions=(2,) * levels,
            decoder_convolutions=(2,) * (levels - 1),
        ),
        normalization=(NormalizationSpec(scheme="zscore"),),
        resampling=ResamplingSpec(),
        training=TrainingSpec(
            optimizer="adamw", steps_per_epoch=1, epochs=1, mirror_axes=tuple(range(dimensions)), batch_dice=False
        ),
        estimates=Estimates(feature_map_elements=0, parameters=0, macs=math.prod(patch), training_memory_bytes=0),
        preprocessed_as="noise",
    )
