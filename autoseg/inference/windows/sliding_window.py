"""A network that sees patches predicts a whole image: overlapping windows, blended by a Gaussian.

The image and the sums lie on the network's grid. Windows, and their mirrored variants, go through the network in
batches of one shape, because convolutions then run several times faster than window by window. They go in the order
of the first axis, and what no later window reaches is handed on slice by slice: no volume of logits exists.

    image (C, Z, Y, X) --windows, first axis slowest--> slab of sums --> slices (K, Y, X), first to last

No window is skipped. Images are cropped to their content before, and a window that holds padding holds all of the
image along that axis, so none lies wholly outside; and where a window inside holds only zeros, the logits of zeros
still decide the label map.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from autoseg.costs.windows import count_steps
from autoseg.errors import PredictionError
from autoseg.imaging.formats.volume import AnyArray
from autoseg.inference.windows.logit_slab import LogitSlab, SlabStorage, open_slab
from autoseg.inference.windows.mirrored_variants import Forward, Variant, mean_mirrored_logits, mirror_variants
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import is_out_of_memory, release_cached_memory
from autoseg.records.case import Slices3, Triple
from autoseg.records.sides import SideSwap

logger = logging.getLogger("autoseg.predict")

Window = Slices3
"""Voxels of a window, (z, y, x); begins before 0 and ends after the image on axes shorter than the window."""

MIN_IMPORTANCE = 2.0**-24 / 10
"""Smallest weight as a fraction of the largest: the smallest number that nnU-Net's float16 map, scaled to 10, can hold.
Corners that truncation leaves without weight get it. A much larger bound gives distant windows too much weight near
the image's border: 1e-3 costs 1 to 2 % of Dice against nnU-Net's own label maps where patches are flat."""


@dataclass(frozen=True)
class BatchLimits:
    """Largest network pass that is tried; `network_pass.BatchTrial` finds the best one up to it."""

    voxels: int
    """Voxels of all its windows; a single window may have more."""
    windows: int


CPU_LIMITS = BatchLimits(voxels=2**20, windows=8)
"""Speed grows no further beyond a dozen windows of 40 x 56 x 40, or half a window of 128 x 128 x 128. Eight windows are
one with all its mirrored variants in 3D."""

GPU_LIMITS = BatchLimits(voxels=2**22, windows=32)
"""A large GPU computes a window of 64 x 96 x 96 in about the time that it takes to start its kernels. Two windows of
128 x 128 x 128, with 32 features in float32, take 3.4 GB. Estimates, not measured: the trial corrects them."""


@dataclass(frozen=True)
class WindowSettings:
    """How a network that sees patches goes over a whole image."""

    overlap: float = 0.5
    """Smallest fraction of a window that it has in common with the next one, [0, 1)."""
    mirroring: bool = True
    """Whether logits are averaged over variants mirrored along the axes that training mirrored."""
    swap: SideSwap | None = None
    """Labels that change places where its axis, one of the patch, is mirrored; None: none do."""
    has_label_map: bool = False
    """Whether the last channel is the label map of a cascade's previous step."""
    storage: SlabStorage = field(default_factory=SlabStorage)
    """Place of the sums of windows."""
    window_batch: int | None = None
    """Windows, mirrored variants counted, in one network pass; None: by the size of the patch."""
    limits: BatchLimits | None = None
    """Largest network pass where `window_batch` does not say it; None: by the device."""


def window_starts(size: int, patch_size: int, overlap: float = 0.5) -> tuple[int, ...]:
    """First voxel of every window along one axis: evenly spread, both ends touched.

    Args:
        size: Voxels of the image along the axis.
        patch_size: Voxels of a window; an axis no longer than it has one window.
        overlap: Smallest fraction of a window that it has in common with the next one, [0, 1).

    Raises:
        ValueError: If the overlap is not in [0, 1).

    References:
        nnU-Net v2 (Isensee et al. 2021), sliding window; its step size is 1 - overlap.

    Examples:
        >>> window_starts(110, 64)
        (0, 23, 46)
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), not {overlap}")
    last = size - patch_size
    if last <= 0:
        return (0,)
    num_steps = count_steps(size, patch_size, overlap)
    step = last / num_steps
    return tuple(round(index * step) for index in range(num_steps + 1))


@lru_cache(maxsize=4)
def importance_map(patch_size: tuple[int, ...]) -> NDArray[np.float32]:
    """Weight of a window's voxels: a Gaussian about its centre, because networks are less accurate near borders.

    Args:
        patch_size: Voxels by axis.

    Returns:
        Array of shape `patch_size`, in [MIN_IMPORTANCE, 1]; not to be written to.

    References:
        nnU-Net v2 (Isensee et al. 2021): sigma is an eighth of the patch, centre at patch_size // 2. Differs:
        float32 instead of float16, in which corners underflow, and a lower bound.
    """
    impulse = np.zeros(patch_size, dtype=np.float32)
    impulse[tuple(length // 2 for length in patch_size)] = 1
    gaussian = gaussian_filter(impulse, [length / 8 for length in patch_size], mode="constant")
    weights: NDArray[np.float32] = np.maximum(gaussian / gaussian.max(), np.float32(MIN_IMPORTANCE))
    weights.setflags(write=False)
    return weights


def choose_window_batch(patch_size: Sequence[int], device: torch.device, settings: WindowSettings) -> int:
    """Windows per network pass, a power of two: small patches are batched, big ones are predicted one by one.

    Examples:
        >>> [choose_window_batch((64, 96, 96), torch.device(name), WindowSettings()) for name in ("cpu", "cuda")]
        [1, 4]
    """
    if settings.window_batch is not None:
        return settings.window_batch
    limits = settings.limits or (GPU_LIMITS if device_type(device).is_gpu else CPU_LIMITS)
    fitting = max(1, min(limits.windows, limits.voxels // math.prod(patch_size)))
    return 1 << (fitting.bit_length() - 1)


def stream_logits(
    forward: Forward,
    channels: Sequence[AnyArray],
    patch_size: Sequence[int],
    num_heads: int,
    mirror_axes: Sequence[int] = (),
    settings: WindowSettings | None = None,
) -> Iterator[Tensor]:
    """Logits of a preprocessed image, slice by slice along its first axis.

    Args:
        forward: The network in evaluation mode, without deep supervision, on the device that the settings name; for
            a fold ensemble the mean of several (`network_pass.mean_forward`).
        channels: C arrays (Z, Y, X), of any type and memory order.
        patch_size: Window, voxels: (z, y, x), or (y, x) for a 2D network, which gets every slice on its own.
        num_heads: K.
        mirror_axes: Axes of the patch that are mirrored; 0 is the first of `patch_size`.
        settings: Overlap, batch and place of the sums; None: the defaults.

    Yields:
        Z times (K, Y, X), float32, where the sums are kept: the weighted mean over all windows that cover a voxel.
        Each is the receiver's own.

    Raises:
        PredictionError: If the network gives infinite or undefined values.
    """
    settings = settings or WindowSettings()
    flat = len(patch_size) == 2
    window: Triple = (1, *patch_size) if flat else tuple(patch_size)  # type: ignore[assignment]
    variants = mirror_variants([axis + flat for axis in mirror_axes])
    device = settings.storage.device
    batch = choose_window_batch(patch_size, device, settings)
    run = _slice_by_slice(forward) if flat else forward
    swap = settings.swap and replace(settings.swap, axis=settings.swap.axis + flat)

    def average(windows: Tensor, at_a_time: int) -> Tensor:
        return mean_mirrored_logits(run, windows, variants, at_a_time, swap, has_label_map=settings.has_label_map)

    shape = channels[0].shape
    groups = _window_groups(shape, window, settings.overlap, windows_per_pass(batch, variants))
    slab = open_slab(num_heads, _open_slices(groups, shape[0]), shape[1:], settings.storage)
    weights = torch.from_numpy(importance_map(window).copy())
    at_a_time = min(batch, len(variants))
    sources = _to_device(channels, device) if settings.storage.place == "device" else channels
    done = 0
    for boxes in groups:
        yield from _finished(slab, range(done, boxes[0][0].start))
        done = max(done, boxes[0][0].start)
        with torch.inference_mode():
            windows = cut_windows(sources, boxes, device)
            logits = _logits_unless_memory_runs_out(average, windows, at_a_time, slab)
            if logits is None:
                at_a_time = 1
                slab.move_to_ram()
                logits = average(windows, at_a_time)
            weights = weights.to(slab.device)
            for box, window_logits in zip(boxes, logits.to(slab.device), strict=True):
                _blend(slab, window_logits, weights, box, shape)
    yield from _finished(slab, range(done, shape[0]))


def windows_per_pass(window_batch: int, variants: Sequence[Variant]) -> int:
    """Windows that share a network pass when each comes with all its mirrored variants; at least one."""
    return max(1, window_batch // len(variants))


def slab_depth(shape: Sequence[int], patch_size: Sequence[int], overlap: float, num_windows: int) -> int:
    """Number of slices with unfinished sums at a time.

    Args:
        shape: Shape of the image, (Z, Y, X).
        patch_size: Size of a window, (z, y, x) or (y, x).
        overlap: Smallest fraction of a window that it has in common with the next one.
        num_windows: Windows in one network pass.

    Examples:
        >>> slab_depth((400, 240, 240), (64, 96, 96), 0.5, 1), slab_depth((400, 90, 90), (96, 96), 0.5, 8)
        (64, 8)
    """
    window = (1,) * (3 - len(patch_size)) + tuple(patch_size)
    return _open_slices(_window_groups(shape, window, overlap, num_windows), shape[0])


def _to_device(channels: Sequence[AnyArray], device: torch.device) -> Sequence[AnyArray | Tensor]:
    """The image beside the network, so that no voxel is copied once for every window that has it; else as it is."""
    if device.type == "cpu":
        return channels
    try:
        return [_copy_channel(channel, device) for channel in channels]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_cached_memory(device)
    return channels


def _copy_channel(channel: AnyArray, device: torch.device) -> Tensor:
    """(Z, Y, X), float32; slice by slice, so that little memory of the host is pinned."""
    copy, is_pinned = torch.empty(channel.shape, device=device), device_type(device).has_streams
    for index in range(len(channel)):
        values = torch.from_numpy(np.array(channel[index], dtype=np.float32))
        copy[index].copy_(values.pin_memory() if is_pinned else values, non_blocking=is_pinned)
    return copy


def _slice_by_slice(forward: Forward) -> Forward:
    """A 2D network as one that takes windows of a single slice: (B, C, 1, y, x) -> (B, K, 1, y, x)."""

    def run(windows: Tensor) -> Tensor:
        return forward(windows.squeeze(2)).unsqueeze(2)

    return run


def window_boxes(shape: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[Window]:
    """All windows, the last axis fastest; a window of one slice visits every slice once.

    Axes shorter than the window are padded on both sides, the odd voxel at the far end.
    """
    starts = [
        range(size) if length == 1 else [first - max(0, length - size) // 2
                                         for first in window_starts(size, length, overlap)]
        for size, length in zip(shape, window, strict=True)
    ]  # fmt: skip
    for z, y, x in product(*starts):
        yield slice(z, z + window[0]), slice(y, y + window[1]), slice(x, x + window[2])


def _window_groups(shape: Sequence[int], window: Sequence[int], overlap: float, size: int) -> list[list[Window]]:
    boxes = list(window_boxes(shape, window, overlap))
    return [boxes[first : first + size] for first in range(0, len(boxes), size)]


def _open_slices(groups: Sequence[Sequence[Window]], size: int) -> int:
    depths: list[int] = [min(size, group[-1][0].stop) - max(0, group[0][0].start) for group in groups]
    return max(depths)


def _logits_unless_memory_runs_out(
    average: Callable[[Tensor, int], Tensor], windows: Tensor, at_a_time: int, slab: LogitSlab
) -> Tensor | None:
    """The logits; None where memory runs out and can still be saved: sums in RAM, one mirrored variant at a time."""
    try:
        return average(windows, at_a_time)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or (slab.device.type == "cpu" and at_a_time == 1):
            raise
    release_cached_memory(slab.device)
    logger.warning(
        "the memory of the device is too small; from now on sums of windows are kept in RAM, and mirrored variants "
        "are predicted one at a time"
    )
    return None


def cut_windows(channels: Sequence[AnyArray | Tensor], boxes: Sequence[Window], device: torch.device) -> Tensor:
    """Windows (B, C, z, y, x) on the device, with zeros where the image does not reach."""
    shape = tuple(side.stop - side.start for side in boxes[0])
    windows = torch.zeros((len(boxes), len(channels), *shape), device=device)
    for window, box in zip(windows, boxes, strict=True):
        inner, outer = _overlap(box, channels[0].shape)
        for target, channel in zip(window, channels, strict=True):
            part = channel[outer]
            target[inner] = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part, dtype=np.float32))
    return windows


def _blend(slab: LogitSlab, logits: Tensor, weights: Tensor, box: Window, shape: Sequence[int]) -> None:
    inner, (slices, rows, columns) = _overlap(box, shape)
    slab.add(logits[:, *inner], weights[inner], slices.start, rows, columns)


def _overlap(box: Window, shape: Sequence[int]) -> tuple[Window, Window]:
    """Where window and image meet, as an index into the window and into the image."""
    outer = [slice(max(0, side.start), min(size, side.stop)) for side, size in zip(box, shape, strict=True)]
    inner = [slice(part.start - side.start, part.stop - side.start) for part, side in zip(outer, box, strict=True)]
    return (inner[0], inner[1], inner[2]), (outer[0], outer[1], outer[2])


def _finished(slab: LogitSlab, indices: range) -> Iterator[Tensor]:
    """Slices that no later window reaches, in order; a GPU is asked once whether all their values are finite.

    Raises:
        PredictionError: If one is not, before the first slice (on a CPU: before this one) is given.
    """
    if slab.device.type != "cpu" and indices and not slab.is_finite(indices):
        _refuse_undefined(next(mean for mean in map(slab.pop, indices) if not torch.isfinite(mean).all()))
    for index in indices:
        logits = slab.pop(index)
        if slab.device.type == "cpu" and not torch.isfinite(logits).all():
            _refuse_undefined(logits)
        yield logits


def _refuse_undefined(logits: Tensor) -> NoReturn:
    head = int(torch.isfinite(logits).flatten(1).all(dim=1).to(torch.uint8).argmin())
    raise PredictionError(
        f"the network gave infinite or undefined values for head {head}; "
        "look for extreme intensities in the image, or predict with precision fp32"
    )
