"""Memory that running cases were promised: what a case takes is chosen when its networks start, and counted until then.

A case is prepared while another one is predicted, whose sums lie on the device or in RAM; what is free then says little
about what is free when its own turn comes. And a case takes its memory little by little, so what is free while it runs
is not free for others: cases in several threads would be promised the same memory.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from autoseg.inference.memory.estimate import (
    AvailableMemory,
    StepSizes,
    choose_storage,
    device_bytes,
    disk_bytes,
    estimate_peak,
)
from autoseg.inference.windows.logit_slab import SlabStorage


@dataclass(frozen=True)
class CaseEstimate:
    """What a prepared case will need."""

    case: str
    """Case id for messages."""
    steps: tuple[StepSizes, ...]
    image_bytes: int
    """Bytes of the image as it was read."""
    resident: int
    """Bytes that the process held before the case was prepared, that image among them."""


@dataclass(frozen=True)
class _Promise:
    """Bytes that one running case may take at its peak."""

    host: int
    device: int
    disk: int


class PromisedMemory:
    """Chooses where the sums of windows of each case are kept; safe to use from several threads."""

    def __init__(self) -> None:
        """Nothing is promised yet."""
        self._lock = threading.Lock()
        self._running: dict[int, _Promise] = {}
        self._before: AvailableMemory | None = None
        """What was available before the first of the running cases started."""

    @contextmanager
    def promise(self, estimate: CaseEstimate, available: AvailableMemory) -> Iterator[tuple[SlabStorage, int]]:
        """Choose the place of the sums of windows, and count them as taken as long as the block lasts.

        Args:
            estimate: The case, prepared.
            available: What is available now; bytes of the case's own arrays are not counted as resident.

        Yields:
            Place and type of the sums, and the estimated bytes of the process at its peak.

        Raises:
            PredictionError: See `memory.estimate.choose_storage`.
        """
        with self._lock:
            own = replace(available, resident=min(available.resident, estimate.resident))
            storage, peak = choose_storage(estimate.steps, self._left_of(own), estimate.case)
            if not self._running:
                self._before = own
            key = max(self._running, default=0) + 1
            self._running[key] = _Promise(
                host=estimate_peak(estimate.steps, storage, 0),
                device=0 if available.device is None else device_bytes(estimate.steps, storage),
                disk=disk_bytes(estimate.steps, storage),
            )
        try:
            yield storage, peak
        finally:
            with self._lock:
                del self._running[key]

    def _left_of(self, now: AvailableMemory) -> AvailableMemory:
        """What is available beside what the running cases take now, and what they may still take."""
        if not self._running or self._before is None:
            return now
        before, running = self._before, self._running.values()
        device = None
        if now.device is not None and before.device is not None:
            device = min(now.device, before.device - sum(promise.device for promise in running))
        return replace(
            now,
            resident=max(now.resident, before.resident + sum(promise.host for promise in running)),
            device=device,
            disk=min(now.disk, before.disk - sum(promise.disk for promise in running)),
        )
