"""From the loader's arrays to tensors on the device: on a GPU one batch ahead, while the device computes.

Tested in tests/training/steps/test_loop.py.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autoseg.networks.device_types import Event, Stream, device_type
from autoseg.training.data.augmentation.on_device import DeviceAugmentation
from autoseg.training.data.batch import Batch


class DeviceBatch(NamedTuple):
    """A batch, ready for the network."""

    image: Tensor
    """(B, C, *S) float32, in the network's memory layout."""
    target: Tensor
    """Label indices, (B, *S) int64."""
    cases: list[str]
    """Case id by sample."""
    maps: tuple[Tensor, ...]
    """Maps of the reference by level, (B, F, *S) float32; empty for losses that need none."""


class DeviceFeed:
    """Takes batches from a loader to the device, in order.

    On a GPU with streams, `fetch_next` reads and copies the next batch on a stream of its own while the step that was
    just queued is computed; elsewhere it does nothing: on a CPU, reading would take the same core.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        device: torch.device,
        stream: Stream | None,
        layout: torch.memory_format,
        augmentation: DeviceAugmentation | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            batches: One is taken at a time.
            device: Where they go.
            stream: Stream of a GPU that copies them, one for all feeds of a training, because the memory of each
                stream is kept apart; None on a device without streams.
            layout: Memory layout of the network, in which images are given.
            augmentation: Applied to batches that bring seeds for it, where the loader left it to the device.
        """
        self._batches = batches
        self._device = device
        self._layout = layout
        self._module = device_type(device).module
        self._augmentation = augmentation
        self._stream = stream
        self._ahead: tuple[Batch, list[Tensor]] | None = None
        self._blocked_seconds = 0.0
        self._idle_from: Event | None = None
        self._idle: list[tuple[Event, Event]] = []

    def take(self) -> DeviceBatch:
        """The next batch; waits for the loader if it was not fetched before."""
        batch, (image, target, *maps) = self._ahead or self._copy(self._read())
        self._ahead = None
        if self._stream is not None:
            self._await_copy(self._stream, image, target, *maps)
        if self._augmentation is not None and "seeds" in batch:
            image, target = self._augmentation(image, target, np.asarray(batch["seeds"]))
        image = image.contiguous(memory_format=self._layout)
        return DeviceBatch(image, target.long(), batch["cases"], tuple(maps))

    def fetch_next(self) -> None:
        """Read and copy the next batch already; called when the device has been given work."""
        if self._stream is None:
            return
        self._idle_from = self._record_event()
        self._ahead = self._copy(next(self._batches))

    def waited_seconds(self) -> float:
        """How long the device had nothing to do between two steps so far; waits for a GPU to finish."""
        if not self._idle:
            return self._blocked_seconds
        self._module.synchronize(self._device)
        idle_milliseconds: float = sum(
            first.elapsed_time(second)  # type: ignore[arg-type]  # both are of one device
            for first, second in self._idle
        )
        return self._blocked_seconds + idle_milliseconds / 1000.0

    def _read(self) -> Batch:
        asked = time.monotonic()
        batch = next(self._batches)
        self._blocked_seconds += time.monotonic() - asked
        return batch

    def _copy(self, batch: Batch) -> tuple[Batch, list[Tensor]]:
        """A batch and its tensors on the device: image, target in the loader's small type, maps."""
        tensors = [torch.from_numpy(array) for array in (batch["image"], batch["target"], *batch.get("maps", ()))]
        if self._stream is None:
            return batch, [tensor.to(self._device) for tensor in tensors]
        with self._module.stream(self._stream):
            return batch, [tensor.pin_memory().to(self._device, non_blocking=True) for tensor in tensors]

    def _await_copy(self, stream: Stream, *tensors: Tensor) -> None:
        """Let the device's main stream wait for the copies, and record when it continues."""
        current = self._module.current_stream(self._device)
        current.wait_stream(stream)
        for tensor in tensors:
            tensor.record_stream(current)  # else their memory could be used again too early
        if self._idle_from is not None:
            self._idle.append((self._idle_from, self._record_event()))
            self._idle_from = None

    def _record_event(self) -> Event:
        """A moment of the device's main stream."""
        event: Event = self._module.Event(enable_timing=True)
        event.record(self._module.current_stream(self._device))
        return event
