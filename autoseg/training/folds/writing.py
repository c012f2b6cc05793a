"""Writes weights and draws figures in a thread, so that training continues meanwhile.

    training: --copy of the weights in memory--> thread: wait for the copy, write, rename
    training: --history-----------------------> thread: draw

There is one thread, so files are written in the order in which they were asked for. What fails in it is raised in the
thread of the training: when the training looks, when it hands over the next piece, at the latest at the end.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from torch import Tensor

from autoseg.networks.device_types import Event, device_type

logger = logging.getLogger("autoseg.train")

MAX_DRAWING_FRACTION = 0.01
"""Fraction of the time that may go into drawing: Python computes in one thread at a time, so the training waits."""


@dataclass(frozen=True)
class HostCopy:
    """Tensors as they were when they were copied, in the memory of the host."""

    tensors: dict[str, Tensor]
    copied: Event | None
    """Comes when a GPU has copied them; None: they are there."""

    def wait(self) -> dict[str, Tensor]:
        """The tensors, as soon as they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.tensors


def copy_to_host(tensors: Mapping[str, Tensor]) -> HostCopy:
    """Copy tensors as they are now; what is queued on a GPU later cannot change the copy.

    The host does not wait, but for a GPU without streams.

    Args:
        tensors: Tensors by name. Copies of those on a GPU lie in pinned memory, which torch keeps for the next ones.
    """
    rows = [device_type(tensor.device) for tensor in tensors.values()]
    streaming = next((row for row in rows if row.has_streams), None)
    copies = {
        name: tensor.detach().to("cpu", non_blocking=row.has_streams, copy=True)
        for (name, tensor), row in zip(tensors.items(), rows, strict=True)
    }
    if streaming is None:
        return HostCopy(copies, None)
    copied: Event = streaming.module.Event()
    copied.record()
    return HostCopy(copies, copied)


class BackgroundWriter:
    """Does pieces of work in one thread, in order; a context whose end is the end of the last piece."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pieces: deque[Future[None]] = deque()
        self._writing: Future[None] | None = None
        self._undrawn: Callable[[], None] | None = None
        self._draws_from = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all pieces; raise what failed in them, unless something else has failed."""
        try:
            if error is None:
                self.finish()
        finally:
            self._pool.shutdown()
        for piece in self._pieces:
            if failed := piece.exception():
                logger.warning("a file could not be written either: %s", failed)

    def write(self, write: Callable[[dict[str, Tensor]], None], tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as they are now; there is one copy of them at a time.

        Args:
            write: Writes the copies of the tensors; called in the thread.
            tensors: Tensors by name.

        Raises:
            Exception: What an earlier piece failed with.
        """
        self.check()
        if self._writing is not None:
            self._writing.result()
        copy = copy_to_host(tensors)
        self._writing = self._pool.submit(lambda: write(copy.wait()))
        self._pieces.append(self._writing)

    def draw(self, draw: Callable[[], None]) -> None:
        """Draw a figure, now and then: the newest one that was asked for, and the last one in any case."""
        self._undrawn = draw
        if time.monotonic() >= self._draws_from:
            self._submit_drawing()

    def check(self) -> None:
        """Raise what has failed so far."""
        while self._pieces and self._pieces[0].done():
            self._pieces.popleft().result()

    def finish(self) -> None:
        """Wait for everything that was asked for.

        Raises:
            Exception: What the first failed piece failed with.
        """
        if self._undrawn is not None:
            self._submit_drawing()
        while self._pieces:
            self._pieces.popleft().result()

    def _submit_drawing(self) -> None:
        if self._undrawn is not None:
            self._draws_from = float("inf")  # until this one is drawn
            self._pieces.append(self._pool.submit(partial(self._draw, self._undrawn)))
            self._undrawn = None

    def _draw(self, draw: Callable[[], None]) -> None:
        began = time.monotonic()
        draw()
        ended = time.monotonic()
        self._draws_from = ended + (ended - began) / MAX_DRAWING_FRACTION
