"""How fast this machine trains and predicts: a few steps of small networks, so that a plan can promise a time.

The whole training step is measured as training does it: drawing and augmenting a batch, forward, backward, update. A
prediction is measured from windows in memory to logits in memory.
"""

import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from autoseg.costs.architectures import ARCHITECTURES, forward_macs
from autoseg.errors import TrainingError
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import choose_device, choose_dtype, is_out_of_memory
from autoseg.records.budget import Throughput
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.network import Architecture, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Estimates, TrainingSpec
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import Batch, BatchStream
from autoseg.training.data.loading import BATCHES_AHEAD_PER_WORKER, TrainingCase, build_loader, default_workers
from autoseg.training.steps.loop import train_epoch
from autoseg.training.steps.run import Clock, StepSettings, TrainingRun
from autoseg.training.steps.setup import build_initial_network, start_run

MEASURED_FEATURES = (8, 32)
"""Base features of the measured networks: the narrowest that is planned, and nnU-Net's own."""

SECONDS_PER_TRAINING = 0.6
SECONDS_PER_PREDICTION = 0.2
SECONDS_PER_PLANNED_STEP = 2.0
"""A step of a planned network is shown to a user, so it is measured for longer."""

PREDICTION_BATCH = 8
"""Windows per network pass that prediction takes for patches of the measured size."""

VOXELS_WITH_LABEL = 1000
"""Voxels of the invented volume that are drawn at random for the sampling of foreground."""

NOISE_ENCODING = LabelEncoding(
    values=(0, 1, 2),
    activation="softmax",
    heads=tuple(
        Head(name=name, indices=(index,), painted_index=index) for index, name in enumerate(("background", "a", "b"))
    ),
)


def measure_training_speed(
    device_name: str, architectures: Sequence[Architecture] = get_args(Architecture)
) -> Iterator[Throughput]:
    """Measure 2D and 3D networks of several widths in training and in prediction, about a second each.

    Args:
        device_name: a name of `choose_device`.
        architectures: Architectures to be measured.

    Yields:
        The speed of each network, as soon as it is known.

    Raises:
        UsageError: If the device does not exist.
    """
    device = choose_device(device_name)
    dimensions: tuple[Literal[2, 3], ...] = (3, 2)
    for architecture, number, features in itertools.product(architectures, dimensions, MEASURED_FEATURES):
        yield _measure(measured_configuration(number, features, architecture), device)


def measure_step(configuration: Configuration, encoding: LabelEncoding, device_name: str) -> float | None:
    """Seconds of one training step of a planned configuration, on invented images.

    Args:
        configuration: Planned configuration. Its learning rate is not used, so that no weight can grow without bound.
        encoding: Labels of the dataset.
        device_name: a name of `choose_device`.

    Returns:
        The mean over a few steps; None when the device's memory is too small.

    Raises:
        UsageError: If the device does not exist.
    """
    device = choose_device(device_name)
    try:
        return _training_seconds(configuration, encoding, device, SECONDS_PER_PLANNED_STEP)[0]
    except (MemoryError, RuntimeError, TrainingError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def describe_torch_device(device_name: str) -> str:
    """The device that a name stands for, and its precision, for a user.

    Raises:
        UsageError: If the device does not exist.
    """
    device = choose_device(device_name)
    precision = str(choose_dtype("auto", device)).removeprefix("torch.")
    row = device_type(device)
    if row.is_gpu:
        return f"{row.module.get_device_name(device) if row.has_numbers else row.title}, {precision}"
    return f"the CPU, threads: {torch.get_num_threads()}, {precision}"


def _measure(configuration: Configuration, device: torch.device) -> Throughput:
    network = configuration.network
    step_seconds, run = _training_seconds(configuration, NOISE_ENCODING, device, SECONDS_PER_TRAINING)
    windows = torch.zeros((PREDICTION_BATCH, network.input_channels, *configuration.patch_size))
    macs = forward_macs(network, configuration.patch_size)
    return Throughput(
        architecture=network.architecture,
        dimensions=network.dimensions,
        base_features=network.features[0],
        macs_per_second=macs * configuration.batch_size / step_seconds,
        prediction_macs_per_second=macs * PREDICTION_BATCH / _prediction_seconds(run, windows),
    )


def _training_seconds(
    configuration: Configuration, encoding: LabelEncoding, device: torch.device, at_least_seconds: float
) -> tuple[float, TrainingRun]:
    """Seconds per step, at least one step and so many seconds long, and what was trained."""
    # the rate stays near zero: noise cannot be learned, and the values stay finite
    spec = configuration.training.model_copy(update={"steps_per_epoch": 1, "warmup_fraction": 1.0})
    clock = Clock(total_steps=1_000_000_000, limit_seconds=None)
    configuration = configuration.model_copy(update={"training": spec})
    network = build_initial_network(configuration, seed=0)
    run = start_run(network, configuration, encoding, StepSettings(device, choose_dtype("auto", device)))
    workers = default_workers(device)
    with closing(_open_batches(configuration, encoding, workers)) as batches:
        for _ in range(1 + BATCHES_AHEAD_PER_WORKER * workers):  # sets up kernels, and uses up what was ready
            train_epoch(run, batches, clock, _ignore)
        began, steps = time.monotonic(), 0
        while steps == 0 or time.monotonic() - began < at_least_seconds:
            train_epoch(run, batches, clock, _ignore)  # mean of the loss waits for a GPU to finish
            steps += 1
        return (time.monotonic() - began) / steps, run


@torch.inference_mode()
def _prediction_seconds(run: TrainingRun, windows: Tensor) -> float:
    """Seconds of one network pass; the logits' way back to the CPU waits for a GPU to finish."""
    run.network.eval()
    began, passes = time.monotonic(), -1
    while passes < 1 or time.monotonic() - began < SECONDS_PER_PREDICTION:
        with run.autocast():
            logits = run.network(windows.to(run.settings.device, memory_format=run.layout))
        logits.to("cpu", torch.float32)
        passes += 1
        if passes == 0:  # the first one sets up kernels
            began = time.monotonic()
    return (time.monotonic() - began) / passes


def _open_batches(configuration: Configuration, encoding: LabelEncoding, workers: int) -> Generator[Batch, None, None]:
    """Augmented batches of one invented case, prepared as in training."""
    stream = BatchStream(seed=(0,), rules=AugmentationRules())
    return build_loader([_invent_case(configuration, encoding)], configuration, encoding, stream, workers=workers)


def _invent_case(configuration: Configuration, encoding: LabelEncoding) -> TrainingCase:
    """Noise with random labels, a quarter longer than the patch along each of its axes; 2D: eight slices."""
    generator = np.random.default_rng(0)
    shape = [math.ceil(1.25 * edge) for edge in configuration.patch_size]
    if len(shape) == 2:
        shape = [8, *shape]
    array = generator.standard_normal((configuration.network.input_channels + 1, *shape), dtype=np.float32)
    array[-1] = generator.integers(len(encoding.values), size=shape)
    voxels = generator.integers(shape, size=(VOXELS_WITH_LABEL, 3)).astype(np.int32)
    labels = array[-1][tuple(voxels.T)]
    locations = {
        head: voxels[np.isin(labels, spec.indices)]
        for head, spec in enumerate(encoding.heads)
        if set(spec.indices) != {0} and np.isin(labels, spec.indices).any()
    }
    return TrainingCase(case_id="noise", array=array, locations=locations, annotated=None)


def measured_configuration(
    dimensions: Literal[2, 3], base_features: int, architecture: Architecture = "unet"
) -> Configuration:
    """A network of four levels on a patch of the size that short trainings use."""
    patch = (32, 48, 48) if dimensions == 3 else (160, 160)
    network = ARCHITECTURES[architecture].build_small(dimensions, base_features)
    return Configuration(
        spacing=tuple(1.0 for _ in patch),
        median_shape=tuple(float(size) for size in patch),
        patch_size=patch,
        batch_size=2 if dimensions == 3 else 4,
        network=network.model_copy(update={"output_channels": len(NOISE_ENCODING.heads)}),
        normalization=(NormalizationSpec(scheme="zscore"),),
        resampling=ResamplingSpec(),
        training=TrainingSpec(
            optimizer="adamw", steps_per_epoch=1, epochs=1, mirror_axes=tuple(range(dimensions)), batch_dice=False
        ),
        estimates=Estimates(feature_map_elements=0, parameters=0, macs=math.prod(patch), training_memory_bytes=0),
        preprocessed_as="noise",
    )


def _ignore(_step: int) -> None:
    """Show no progress."""
