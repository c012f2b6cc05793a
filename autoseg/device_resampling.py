"""Resampling of images on a GPU: the operators of the CPU, slab by slab, where a trial shows that it is faster.

    first image that is large enough -> both ways: time and difference -> the CPU or the GPU from then on

A GPU that has no room, or fails, leaves the image to the CPU, and a line in the log says so. Label maps are resampled
on the CPU. This module loads torch, so planning imports it only where a GPU may be worth its start.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.errors import UsageError
from autoseg.imaging.arrays.resampling import (
    ImageResampler,
    axis_operator,
    resample_image,
    resample_on_cpu,
    separate_axis,
)
from autoseg.networks.devices import choose_device, is_out_of_memory, release_cached_memory
from autoseg.records.case import Spacing, Triple
from autoseg.records.network import ResamplingSpec
from autoseg.system import measure_available_memory
from autoseg.text import format_memory
from autoseg.worker_memory import WORKER_BYTES

logger = logging.getLogger("autoseg.resampling")

SLAB_BYTES = 512 * 2**20
"""Memory of a GPU that resampling takes at a time; one slab of a channel is there at once."""

SLAB_COPIES = 4
"""Arrays of the size of a slab in memory at once: before and after a product, and the copies that products make."""

FREE_FRACTION = 0.25
"""Fraction of a GPU's free memory that resampling may take: networks predict beside it."""

TORCH_BYTES = 1_500_000_000
"""Memory of the machine that a process takes for torch and the GPU's libraries, an upper estimate."""

CONTEXT_BYTES = 600 * 2**20
"""Memory of a GPU that every process takes which uses it, before it has any array."""

MIN_WEIGHT = 1e-8
"""Weights below this are left out where a volume is cut into slabs: a float32 sum does not notice them."""

MIN_VOXELS = 2**21
"""Voxels of a channel, before and after together, below which it is not worth the way to a GPU and back: a core takes
0.03 s for them."""

MAX_DIFFERENCE = 1e-4
"""Largest difference from the CPU as a fraction of the range of intensities; rounding of float32 makes about 1e-6."""

WARM_UP = (np.zeros((8, 8, 8), dtype=np.float32), (9, 9, 9), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), ResamplingSpec())
"""A resampling that starts the GPU and its libraries, which is not to be measured."""


def choose_resampler(device: torch.device, precision: str) -> ImageResampler:
    """What resamples images for networks on a device: a GPU that is tried out first, or the CPU.

    Args:
        device: Device of the networks.
        precision: Their precision; `tf32` lets products of matrices be too coarse for resampling.
    """
    return DeviceResampler(device) if device.type == "cuda" and precision != "tf32" else resample_on_cpu


def choose_resampler_of_workers(name: str, processes: int, bytes_each: int, max_memory: int | None) -> ImageResampler:
    """What resamples images in worker processes: a GPU if there is room for all of them, else the CPU; says why.

    Args:
        name: Name of the device, as for `choose_device`.
        processes: Number of workers; each of them, and this process, starts the GPU.
        bytes_each: Memory of the machine that a worker takes without torch.
        max_memory: Memory of the machine that all of them may take; None: what is free.
    """
    try:
        device = choose_device(name)
    except UsageError as error:
        logger.info("images are resampled on the CPU: %s", error)
        return resample_on_cpu
    if device.type != "cuda":
        return resample_on_cpu
    room = measure_available_memory() if max_memory is None else max_memory
    rooms = [
        ("the machine", processes * (WORKER_BYTES + TORCH_BYTES + bytes_each), room),
        (str(device), processes * (CONTEXT_BYTES + SLAB_BYTES), free_bytes(device)),
    ]
    for place, needed, free in rooms:
        if free is not None and needed > free:
            logger.info(
                "images are resampled on the CPU: with the GPU, %d processes would take %s of %s, which has %s free",
                processes, format_memory(needed), place, format_memory(free),
            )  # fmt: skip
            return resample_on_cpu
    logger.info("images may be resampled on %s (processes: %d)", device, processes)
    return DeviceResampler(device)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU in bytes, what this process has reserved and does not use included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@dataclass
class DeviceResampler:
    """A GPU as an `ImageResampler`; it may be sent to another process.

    Threads may share it: at worst each of them tries the GPU out.
    """

    device: torch.device
    is_chosen: bool | None = field(default=None)
    """Whether the GPU resamples from now on; None: no image was large enough to find out."""

    def __call__(
        self,
        image: NDArray[np.float32],
        new_shape: Triple,
        spacing: Spacing,
        target_spacing: Spacing,
        spec: ResamplingSpec,
    ) -> tuple[NDArray[np.float32], str]:
        """Resize an image; arguments as for `resample_image`.

        Returns:
            The image, (C, *new_shape), at most MAX_DIFFERENCE from the CPU's; and the name of the GPU if it resized any
            channel.
        """
        if image.shape[1:] == tuple(new_shape):
            return image, ""
        if self.is_chosen is False or image[0].size + math.prod(new_shape) < MIN_VOXELS:
            return resample_on_cpu(image, new_shape, spacing, target_spacing, spec)
        resampled = np.empty((len(image), *new_shape), dtype=np.float32)
        used = set()
        for channel, target in zip(image, resampled, strict=True):
            target[...], name = self._resample(channel, new_shape, spacing, target_spacing, spec)
            used.add(name)
        return resampled, max(used)

    def _resample(
        self, channel: NDArray[np.float32], new_shape: Triple, spacing: Spacing, target_spacing: Spacing,
        spec: ResamplingSpec,
    ) -> tuple[NDArray[np.float32], str]:  # fmt: skip
        """One channel (Z, Y, X), and the name of the GPU if it resized it."""
        try:
            if self.is_chosen is None and np.ptp(channel) > 0.0:  # a constant channel shows no difference
                return self._try_out(channel, new_shape, spacing, target_spacing, spec)
            if self.is_chosen:
                return self._on_device(channel, new_shape, spacing, target_spacing, spec), str(self.device)
        except (RuntimeError, MemoryError) as error:
            self._leave_to_cpu(error)
        return resample_image(channel[None], new_shape, spacing, target_spacing, spec)[0], ""

    def _try_out(
        self, channel: NDArray[np.float32], new_shape: Triple, spacing: Spacing, target_spacing: Spacing,
        spec: ResamplingSpec,
    ) -> tuple[NDArray[np.float32], str]:  # fmt: skip
        """Resample both ways, and stay with the GPU if it is faster and gives the same."""
        self._on_device(*WARM_UP)
        began = time.perf_counter()
        expected = resample_image(channel[None], new_shape, spacing, target_spacing, spec)[0]
        of_cpu = time.perf_counter() - began
        began = time.perf_counter()
        found = self._on_device(channel, new_shape, spacing, target_spacing, spec)
        of_device = time.perf_counter() - began
        difference = float(np.abs(found - expected).max() / np.ptp(channel))
        is_equal = difference <= MAX_DIFFERENCE
        self.is_chosen = is_equal and of_device < of_cpu
        logger.log(
            logging.INFO if is_equal else logging.WARNING,
            "images are resampled on %s: a channel took %.2f s there and %.2f s on the CPU; largest difference %.0e of "
            "the range",
            self.device if self.is_chosen else "the CPU", of_device, of_cpu, difference,
        )  # fmt: skip
        return (found, str(self.device)) if self.is_chosen else (expected, "")

    def _on_device(
        self, channel: NDArray[np.float32], new_shape: Triple, spacing: Spacing, target_spacing: Spacing,
        spec: ResamplingSpec,
    ) -> NDArray[np.float32]:  # fmt: skip
        separate = separate_axis(spacing, target_spacing, spec)
        room = min(SLAB_BYTES, int(FREE_FRACTION * free_bytes(self.device)))
        return resample_channel(channel, new_shape, separate, spec, self.device, room)

    def _leave_to_cpu(self, error: Exception) -> None:
        """Say why an image, or every image from now on, is resampled on the CPU."""
        if is_out_of_memory(error):
            release_cached_memory(self.device)
            logger.warning("%s has no room to resample an image; the CPU resamples it", self.device)
            return
        self.is_chosen = False
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("%s cannot resample images, so the CPU does from now on: %s", self.device, reason)


def resample_channel(
    channel: NDArray[np.float32],
    new_shape: Triple,
    separate: int | None,
    spec: ResamplingSpec,
    device: torch.device,
    max_bytes: int,
) -> NDArray[np.float32]:
    """Resize one channel with torch, slab by slab along the separate axis, or else along the first one.

    Args:
        channel: Voxels, (Z, Y, X).
        new_shape: Shape of the result.
        separate: Axis that is resized after the plane of the two others; None: all three alike.
        spec: Orders.
        device: Where it is computed.
        max_bytes: Memory of the device that may be taken.

    Returns:
        What `resample_image` gives, (*new_shape), but for rounding.

    Raises:
        MemoryError: If the thinnest slab does not fit.
        RuntimeError: If the device has no memory, or does not work.
    """
    along = separate or 0
    result = np.empty(new_shape, dtype=np.float32)
    source, target = np.moveaxis(channel, along, 0), np.moveaxis(result, along, 0)
    in_plane = {
        axis: torch.from_numpy(axis_operator(size, new_size, spec.image_order).astype(np.float32)).to(device)
        for axis, size, new_size in zip((1, 2), source.shape[1:], target.shape[1:], strict=True)
        if size != new_size
    }
    order = spec.image_order if separate is None else spec.through_plane_order
    weights = _weights_along(len(source), len(target), order)
    limits = (float(channel.min()), float(channel.max())) if separate is None else None
    plane = max(source.shape[1], target.shape[1]) * max(source.shape[2], target.shape[2])
    for rows, columns in _slabs(weights, max_bytes // (SLAB_COPIES * channel.itemsize * plane)):
        slab = torch.from_numpy(np.ascontiguousarray(source[columns])).to(device)
        through = torch.from_numpy(np.ascontiguousarray(weights[rows, columns])).to(device)
        if limits is None:
            lowest, highest = slab.amin((1, 2), keepdim=True), slab.amax((1, 2), keepdim=True)
            resized = _apply({0: through}, _apply(in_plane, slab).clamp(lowest, highest))
        else:
            resized = _apply({0: through, **in_plane}, slab).clamp(*limits)
        target[rows] = resized.cpu().numpy()
    return result


def _apply(operators: Mapping[int, Tensor], array: Tensor) -> Tensor:
    """Resize a (Z, Y, X) tensor by a matrix for each axis; shrinking axes come first."""
    for axis, operator in sorted(operators.items(), key=lambda item: item[1].shape[0] / item[1].shape[1]):
        if axis == 0:
            array = torch.mm(operator, array.reshape(len(array), -1)).reshape(len(operator), *array.shape[1:])
        elif axis == 1:
            array = torch.matmul(operator, array)
        else:
            array = torch.matmul(array, operator.T)
    return array


def _weights_along(size: int, new_size: int, order: int) -> NDArray[np.float32]:
    """Matrix (new_size, size) for the axis along which slabs follow each other; order 0 copies the nearest slice."""
    if size == new_size:
        return np.eye(size, dtype=np.float32)
    weights = axis_operator(size, new_size, order).astype(np.float32)
    weights[np.abs(weights) < MIN_WEIGHT] = 0.0
    return weights


def _slabs(weights: NDArray[np.float32], max_slices: int) -> Iterator[tuple[slice, slice]]:
    """Cut an axis into slabs: new slices, and the old ones that they depend on; as few as have room.

    Args:
        weights: Matrix of the axis.
        max_slices: Slices that have room, old or new.

    Raises:
        MemoryError: If even a single new slice depends on more.
    """
    used = weights != 0.0
    first, stop = used.argmax(axis=1), weights.shape[1] - used[:, ::-1].argmax(axis=1)
    begin = 0
    while begin < len(weights):
        end, columns = begin, slice(0, 0)
        while end < len(weights):
            wider = slice(int(first[begin : end + 1].min()), int(stop[begin : end + 1].max()))
            if max(wider.stop - wider.start, end + 1 - begin) > max_slices:
                break
            end, columns = end + 1, wider
        if end == begin:
            raise MemoryError("a slab of the image does not fit")
        yield slice(begin, end), columns
        begin = end
