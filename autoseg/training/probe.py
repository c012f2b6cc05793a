"""How fast this machine trains and predicts: a few steps of small networks, so that a plan can promise a time.

The whole training step is measured as training does it: drawing and augmenting a batch, forward, backward, update. A
prediction is measured from windows in memory to logits in memory.

On a GPU each network is measured on a small and on a large patch. A step of a small one takes as long as its kernels
need to be launched, whatever they compute, so it says little about a large one: time = launches + multiply-accumulates
/ speed, two measurements and two unknowns. On a CPU launches do not count, and the small patch says enough.

Beside other programs a network is measured with as many threads as a training would take, and what they have slowed
down for a moment is left out: what counts is the speed that a training will have.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import mean
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from autoseg.costs.architectures import ARCHITECTURES, forward_macs, list_operations
from autoseg.errors import TrainingError, UsageError
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import choose_device, choose_dtype, is_out_of_memory, release_cached_memory
from autoseg.networks.threads import choose_threads
from autoseg.records.budget import Throughput
from autoseg.records.dataset import LabelEncoding
from autoseg.records.network import Architecture, NetworkSpec, Sizes
from autoseg.records.plan import Configuration
from autoseg.training.data.loading import default_workers
from autoseg.training.data.workers import BATCHES_AHEAD_PER_WORKER
from autoseg.training.invented_data import NOISE_ENCODING, measured_configuration, open_invented_batches
from autoseg.training.steps.loop import train_epoch
from autoseg.training.steps.run import Clock, StepSettings, TrainingRun
from autoseg.training.steps.setup import build_initial_network, start_run

MEASURED_FEATURES = (8, 32)
"""Base features of the measured networks: the narrowest that is planned, and nnU-Net's own."""

LARGE_PATCHES: Final[Mapping[int, Sizes]] = {2: (512, 512), 3: (96, 96, 96)}
LARGE_BATCHES: Final[Mapping[int, int]] = {2: 8, 3: 2}
"""Measured on a GPU besides, by dimension: 13 to 20 times the work of a small step, in less than 4 GB."""

SECONDS_PER_TRAINING = 0.6
SECONDS_PER_PREDICTION = 0.2
SECONDS_PER_PLANNED_STEP = 2.0
"""A step of a planned network is shown to a user, so it is measured for longer."""

PREDICTION_BATCH = 8
"""Windows per network pass that prediction takes for patches of the measured size."""

SECONDS_PER_BLOCK = 0.15
"""Steps or passes are timed together until so much time is over; blocks are compared with each other."""

MAX_SLOWDOWN = 1.5
"""A block that takes so many times as long as the shortest one was disturbed by other programs, and does not count."""

STEPS_PER_EPOCH = 8
"""Steps between two moments in which the host waits for a GPU; the next batch is fetched ahead only within an epoch."""

MIN_COMPUTING_FRACTION = 0.1
"""At least this part of a large patch's time counts as computing, also where launches seem to be all of it: then the
speed is a lower bound."""


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
        if number in ARCHITECTURES[architecture].dimensions and ARCHITECTURES[architecture].build_small is not None:
            yield _measure(measured_configuration(number, features, architecture), device)


def time_network(network: NetworkSpec, patch_size: Sizes, device_name: str) -> Throughput | None:
    """Time steps and predictions of a network that `build_small` does not make.

    Args:
        network: Its costs are known.
        patch_size: Voxels.
        device_name: cpu, cuda, mps or xpu.

    Returns:
        Its speed; None where no such device is here, or its memory is too small.
    """
    usual = measured_configuration(network.dimensions, MEASURED_FEATURES[0])
    configuration = usual.model_copy(
        update={"network": _with_labels_of_noise(network), "patch_size": patch_size, "batch_size": 2}
    )
    try:
        device = choose_device(device_name)
    except UsageError:
        return None
    try:
        return _measure(configuration, device)
    except (MemoryError, RuntimeError, TrainingError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def time_configuration(configuration: Configuration, device_name: str) -> tuple[float, float] | None:
    """Seconds of a training step, and of predicting one window, of a planned configuration, on invented images.

    Args:
        configuration: Planned configuration; its labels are replaced by two of noise.
        device_name: a name of `choose_device`.

    Returns:
        Means over a few of them; None when the device's memory is too small.

    Raises:
        UsageError: If the device does not exist.
    """
    device, network = choose_device(device_name), configuration.network
    configuration = configuration.model_copy(update={"network": _with_labels_of_noise(network)})
    try:
        step, run = _training_seconds(configuration, NOISE_ENCODING, device, SECONDS_PER_TRAINING)
        windows = torch.zeros((1, network.input_channels, *configuration.patch_size))
        return step, _prediction_seconds(run, windows)
    except (MemoryError, RuntimeError, TrainingError) as error:
        if not is_out_of_memory(error):
            raise
        release_cached_memory(device)
        return None


def _with_labels_of_noise(network: NetworkSpec) -> NetworkSpec:
    """The network for the labels of invented images, its heads of objects included."""
    classes, detection = len(NOISE_ENCODING.heads), network.detection
    if detection is not None:
        detection = detection.model_copy(update={"num_labels": classes - 1})
    return network.model_copy(update={"output_channels": classes, "detection": detection})


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


@dataclass(frozen=True)
class _Timed:
    """What one patch size gave: seconds, and the multiply-accumulates of the forward pass in them."""

    training_seconds: float
    training_macs: int
    prediction_seconds: float
    prediction_macs: int


def _measure(configuration: Configuration, device: torch.device) -> Throughput:
    network, small = configuration.network, _time(configuration, device, PREDICTION_BATCH)
    found = Throughput(
        architecture=network.architecture,
        dimensions=network.dimensions,
        base_features=network.features[0],
        macs_per_second=small.training_macs / small.training_seconds,
        prediction_macs_per_second=small.prediction_macs / small.prediction_seconds,
    )
    large = _time_large(configuration, device) if device_type(device).is_gpu else None
    if large is None:
        return found
    operations = len(list_operations(network, configuration.patch_size))
    speed, launches = split_time(
        (small.training_macs, small.training_seconds), (large.training_macs, large.training_seconds)
    )
    prediction_speed, prediction_launches = split_time(
        (small.prediction_macs, small.prediction_seconds), (large.prediction_macs, large.prediction_seconds)
    )
    return found.model_copy(
        update={
            "macs_per_second": speed,
            "prediction_macs_per_second": prediction_speed,
            "seconds_per_operation": launches / operations,
            "prediction_seconds_per_operation": prediction_launches / operations,
        }
    )


def split_time(small: tuple[int, float], large: tuple[int, float]) -> tuple[float, float]:
    """Multiply-accumulates per second, and seconds of launches, from two sizes of one network.

    Args:
        small: Multiply-accumulates and seconds.
        large: The same; more multiply-accumulates.

    Examples:
        >>> split_time((20, 3.0), (420, 11.0))
        (50.0, 2.6)
    """
    (few, short), (many, long) = small, large
    speed = (many - few) / max(long - short, MIN_COMPUTING_FRACTION * long)
    return speed, max(short - few / speed, 0.0)


def _time_large(configuration: Configuration, device: torch.device) -> _Timed | None:
    """A large patch of the same network; None where it takes no such patch or the GPU's memory is too small for it."""
    dimensions = configuration.network.dimensions
    if not _takes(configuration.network, LARGE_PATCHES[dimensions]):
        return None
    changes = {"patch_size": LARGE_PATCHES[dimensions], "batch_size": LARGE_BATCHES[dimensions]}
    try:
        return _time(configuration.model_copy(update=changes), device, LARGE_BATCHES[dimensions])
    except (MemoryError, RuntimeError, TrainingError) as error:
        if not is_out_of_memory(error):
            raise
    release_cached_memory(device)
    return None


def _takes(network: NetworkSpec, patch_size: Sizes) -> bool:
    strides = (math.prod(steps) for steps in zip(*network.strides, strict=True))
    return all(edge % stride == 0 for edge, stride in zip(patch_size, strides, strict=True))


def _time(configuration: Configuration, device: torch.device, windows_per_pass: int) -> _Timed:
    network, patch_size = configuration.network, configuration.patch_size
    step_seconds, run = _training_seconds(configuration, NOISE_ENCODING, device, SECONDS_PER_TRAINING)
    windows = torch.zeros((windows_per_pass, network.input_channels, *patch_size))
    macs = forward_macs(network, patch_size)
    return _Timed(
        training_seconds=step_seconds,
        training_macs=macs * configuration.batch_size,
        prediction_seconds=_prediction_seconds(run, windows),
        prediction_macs=macs * windows_per_pass,
    )


def _training_seconds(
    configuration: Configuration, encoding: LabelEncoding, device: torch.device, at_least_seconds: float
) -> tuple[float, TrainingRun]:
    """Seconds per step, at least one step and so many seconds long, and what was trained."""
    # the rate stays near zero: noise cannot be learned, and the values stay finite
    row = device_type(device)
    steps_per_epoch = STEPS_PER_EPOCH if row.is_gpu else 1
    spec = configuration.training.model_copy(update={"steps_per_epoch": steps_per_epoch, "warmup_fraction": 1.0})
    clock = Clock(total_steps=1_000_000_000, limit_seconds=None)
    configuration = configuration.model_copy(update={"training": spec})
    settings = StepSettings(device, choose_dtype("auto", device), threads=choose_threads("auto", device))
    run = start_run(build_initial_network(configuration, seed=0), configuration, encoding, settings)
    workers = default_workers(device)
    with closing(open_invented_batches(configuration, encoding, workers, intensity_on_device=row.is_gpu)) as batches:
        # sets up kernels and threads, and uses up what was ready
        for _ in range(math.ceil((2 + BATCHES_AHEAD_PER_WORKER * workers) / steps_per_epoch)):
            train_epoch(run, batches, clock, _ignore)
        # the mean of the loss waits for a GPU to finish
        seconds = undisturbed_seconds(lambda: train_epoch(run, batches, clock, _ignore), at_least_seconds)
        return seconds / steps_per_epoch, run


def undisturbed_seconds(piece: Callable[[], object], at_least_seconds: float) -> float:
    """Mean seconds of a piece of work that is repeated; blocks of it that others have slowed down are left out.

    Args:
        piece: Work that takes about the same time whenever it is called.
        at_least_seconds: Time that it is repeated for, once at least.
    """
    blocks: list[float] = []
    began = now = time.monotonic()
    while not blocks or now - began < at_least_seconds:
        block_began, pieces = now, 0
        while pieces == 0 or now - block_began < min(SECONDS_PER_BLOCK, at_least_seconds):
            piece()
            pieces += 1
            now = time.monotonic()
        blocks.append((now - block_began) / pieces)
    return mean(seconds for seconds in blocks if seconds <= MAX_SLOWDOWN * min(blocks))


@torch.inference_mode()
def _prediction_seconds(run: TrainingRun, windows: Tensor) -> float:
    """Seconds of one network pass; the logits' way back to the CPU waits for a GPU to finish."""
    run.network.eval()

    def predict() -> None:
        with run.autocast():
            logits = run.network(windows.to(run.settings.device, memory_format=run.layout))
        logits.to("cpu", torch.float32)

    with run.settings.threads.applied():
        predict()  # sets up kernels
        return undisturbed_seconds(predict, SECONDS_PER_PREDICTION)


def _ignore(_step: int) -> None:
    """Show no progress."""
