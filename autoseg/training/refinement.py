"""Train one boundary refiner on patches that are held in memory, for a given time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from autoseg.networks.device_types import device_type
from autoseg.networks.layout import place_network
from autoseg.networks.refiner import RefinerNetwork
from autoseg.networks.weight_files import write_weights
from autoseg.records.network import NetworkSpec

UNKNOWN: Final = 2
"""Reference of voxels that have none: the ignore label, and what lies beyond the image."""
BATCH_SIZE: Final = 4
GPU_BATCH_SIZE: Final = 16
"""A GPU takes about as long to start the kernels of a step as to compute them for so many patches; not measured."""
LEARNING_RATE: Final = 5e-3
"""AdamW's, at the start; high, because on a CPU there is time for few hundred steps."""
WEIGHT_DECAY: Final = 1e-2
CLIPPED_NORM: Final = 5.0
"""Maximum norm of the gradient."""
MAX_STEPS: Final = 5000
"""More patches than a small network learns from."""
BRIGHTNESS, CONTRAST, NOISE = 0.1, 0.1, 0.1
"""Standard deviations of what is added to a channel, of the log of what it is multiplied by, and, at most, of noise;
images are normalised, so 1 is their own standard deviation, about."""


@dataclass(frozen=True, kw_only=True)
class RefinementOptions:
    """How long each refiner is trained."""

    seconds: float = 60.0
    """Wall-clock time of each training."""
    max_steps: int = MAX_STEPS
    """Training ends after this many steps if the time is not over before."""


@dataclass(frozen=True)
class Patches:
    """What a refiner learns from."""

    images: NDArray[np.float16]
    """(N, C, Z, Y, X), normalised."""
    coarse: NDArray[np.float16]
    """(N, Z, Y, X), out-of-fold probabilities."""
    targets: NDArray[np.uint8]
    """(N, Z, Y, X): 0, 1 or UNKNOWN."""

    def __len__(self) -> int:
        return len(self.images)


def join_patches(parts: Sequence[Patches]) -> Patches:
    """One after the other; at least one part, which may be empty."""
    return Patches(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.coarse for part in parts]),
        np.concatenate([part.targets for part in parts]),
    )


@dataclass(frozen=True)
class TrainedRefiner:
    """A refiner, and how its training went."""

    network: RefinerNetwork
    """In evaluation mode."""
    steps: int
    seconds: float
    loss: float
    """Mean over the last tenth of the steps."""


def train_refiner(
    patches: Patches,
    spec: NetworkSpec,
    options: RefinementOptions,
    *,
    device: torch.device,
    seed: int,
    mirror_axes: tuple[int, ...],
) -> TrainedRefiner:
    """Train with AdamW; the learning rate falls in a straight line to 0 over the time, or over the steps.

    Batches and first weights depend on the seed and the kind of device alone; how many steps the time allows depends
    on the machine. On a GPU all patches are copied once, batches are larger, and no step waits for its loss.

    Args:
        patches: At least one.
        spec: Specification of the refiner.
        options: Time and steps.
        device: Where to train.
        seed: Seed of weights, batches and augmentation.
        mirror_axes: Spatial axes (z, y, x) that are mirrored at random.
    """
    network = _build_network(spec, seed, device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses: list[Tensor] = []
    start = time.monotonic()
    for images, coarse, reference in _open_batches(patches, np.random.default_rng(seed), mirror_axes, device):
        done = max(len(losses) / options.max_steps, (time.monotonic() - start) / options.seconds)
        if done >= 1 and losses:
            break
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * max(0.0, 1 - done)
        optimizer.zero_grad(set_to_none=True)
        loss = refiner_loss(network(images, coarse), reference)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIPPED_NORM)
        optimizer.step()
        losses.append(loss.detach())
    last: list[float] = torch.stack(losses[-max(1, len(losses) // 10) :]).tolist()  # waits for a GPU to finish
    return TrainedRefiner(network.eval(), len(losses), time.monotonic() - start, sum(last) / len(last))


def _build_network(spec: NetworkSpec, seed: int, device: torch.device) -> RefinerNetwork:
    """A network whose first weights depend on the seed alone; torch's own generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RefinerNetwork(spec)
    return place_network(network, spec, device)


def save_refiner(network: RefinerNetwork, path: Path) -> None:
    """Write the weights as safetensors, atomically."""
    write_weights(network.state_dict(), path)


def refiner_loss(logits: Tensor, reference: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice loss over the whole batch; voxels without reference count nowhere.

    Args:
        logits: (B, Z, Y, X).
        reference: (B, Z, Y, X): 0, 1 or UNKNOWN.

    Returns:
        Scalar, at least 0.
    """
    known = (reference != UNKNOWN).float()
    target = (reference == 1).float()
    entropy = binary_cross_entropy_with_logits(logits, target, weight=known, reduction="sum") / known.sum().clamp(min=1)
    probability = torch.sigmoid(logits) * known
    overlap = 2 * (probability * target).sum()
    return entropy + 1 - (overlap + 1) / (probability.sum() + target.sum() + 1)


def _open_batches(
    patches: Patches, generator: np.random.Generator, mirror_axes: tuple[int, ...], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless: image (B, C, Z, Y, X), probability and reference (B, Z, Y, X) on the device, augmented."""
    if device_type(device).is_gpu:
        return _batches_on_gpu(patches, generator, mirror_axes, device)
    return _batches(patches, generator, mirror_axes)


def _batches(
    patches: Patches, generator: np.random.Generator, mirror_axes: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for chosen in _choose_patches(len(patches), BATCH_SIZE, generator):
        images = _vary_intensities(patches.images[chosen].astype(np.float32), generator)
        mirrored = _draw_mirrored(mirror_axes, generator)
        arrays = (images, patches.coarse[chosen].astype(np.float32), patches.targets[chosen])
        first, second, third = (torch.from_numpy(np.flip(array, mirrored).copy()) for array in arrays)
        yield first, second, third


def _batches_on_gpu(
    patches: Patches, generator: np.random.Generator, mirror_axes: tuple[int, ...], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The host draws which patches come and how they are changed; voxels never leave the device."""
    arrays = (patches.images, patches.coarse, patches.targets)
    images, coarse, targets = (torch.from_numpy(array).to(device) for array in arrays)
    noise = torch.Generator(device).manual_seed(int(generator.integers(2**63)))
    for chosen in _choose_patches(len(patches), GPU_BATCH_SIZE, generator):
        index = _send(np.array(chosen), device)
        shape = (len(chosen), images.shape[1], 1, 1, 1)
        contrast, brightness, spread = (
            _send(draw, device) for draw in (*_draw_intensities(shape, generator), _draw_spread(len(chosen), generator))
        )
        batch = images[index].float().mul_(contrast).add_(brightness)
        batch += spread * torch.randn(batch.shape, generator=noise, device=device)
        mirrored = _draw_mirrored(mirror_axes, generator)
        yield batch.flip(mirrored), coarse[index].float().flip(mirrored), targets[index].flip(mirrored)


def _send(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A few numbers on the device, where it has streams without waiting for it."""
    numbers = torch.from_numpy(array)
    return numbers.pin_memory().to(device, non_blocking=True) if device_type(device).has_streams else numbers.to(device)


def _choose_patches(count: int, batch_size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Endless; every patch once before any comes twice."""
    order: list[int] = []
    while True:
        while len(order) < batch_size:
            order += generator.permutation(count).tolist()
        chosen, order = order[:batch_size], order[batch_size:]
        yield chosen


def _draw_mirrored(mirror_axes: tuple[int, ...], generator: np.random.Generator) -> tuple[int, ...]:
    """Axes along which a batch is mirrored, counted from the last one."""
    return tuple(axis - 3 for axis in mirror_axes if generator.random() < 0.5)


def _vary_intensities(images: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    contrast, brightness = _draw_intensities((*images.shape[:2], 1, 1, 1), generator)
    images *= contrast
    images += brightness
    noise = generator.standard_normal(images.shape, dtype=np.float32)
    images += noise * _draw_spread(len(images), generator)
    return images


def _draw_intensities(
    shape: tuple[int, ...], generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the channels of each patch are multiplied by, and what is added to them."""
    contrast = np.exp(generator.normal(0, CONTRAST, shape)).astype(np.float32)
    return contrast, generator.normal(0, BRIGHTNESS, shape).astype(np.float32)


def _draw_spread(count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Standard deviation of each patch's noise, (B, 1, 1, 1, 1)."""
    return generator.uniform(0, NOISE, (count, 1, 1, 1, 1)).astype(np.float32)
