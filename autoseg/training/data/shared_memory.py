"""Arrays that processes hand each other in memory that all of them see, instead of writing them through a pipe.

An object is pickled without the content of its arrays, which lies in the memory; what comes out has its arrays there.
The memory has no name in the system: it is gone with the last process that sees it, however that process ends.

Tested in tests/training/data/test_workers.py.
"""

import mmap
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.errors import TrainingError
from autoseg.system import SHARED_MEMORY, free_disk_bytes
from autoseg.text import format_memory

ALIGNMENT = 64
"""Arrays begin at multiples of this number of bytes, a line of a processor's cache."""

SharedMemory = mmap.mmap | Tensor
"""Bytes that this process and its workers see; a tensor of uint8 in torch's shared memory."""

Content = NDArray[np.uint8]
"""The bytes of shared memory, or a part of them."""


@dataclass(frozen=True)
class Envelope:
    """An object whose arrays lie in shared memory."""

    stream: bytes
    """Everything but the content of the arrays."""
    spans: tuple[tuple[int, int], ...]
    """First byte of each array's content, and the byte after its last one."""

    def open(self, content: Content) -> Any:  # noqa: ANN401 (whatever was put in)
        """The object; its arrays share their memory with `content`."""
        buffers = [content[start:stop] for start, stop in self.spans]
        return pickle.loads(self.stream, buffers=buffers)  # noqa: S301 (written by a process of the same command)


def allocate(size: int, context: BaseContext) -> SharedMemory:
    """Memory that this process shares with workers of a context, whether forked or started as programs of their own.

    Forked workers inherit it, and nothing but the machine's memory limits it. Others open what torch shares, on Linux a
    file in /dev/shm that has no name any more.

    Args:
        size: Bytes, at least 1.
        context: How the workers are started.

    Raises:
        TrainingError: If /dev/shm has too little room for workers that are not forked.
        MemoryError: If the system refuses so much to forked workers.
    """
    if context.get_start_method() == "fork":
        try:
            return mmap.mmap(-1, size)
        except OSError as error:
            raise MemoryError(f"{format_memory(size)} of shared memory: {error}") from error
    _check_room(size)
    memory = torch.empty(size, dtype=torch.uint8)
    memory.share_memory_()  # type: ignore[no-untyped-call]
    return memory


def view(memory: SharedMemory, start: int = 0, size: int = -1) -> Content:
    """A part of shared memory, from the byte `start` on; -1: all that follows."""
    whole = memoryview(memory.numpy().data if isinstance(memory, Tensor) else memory)
    return np.frombuffer(whole, np.uint8, size, start)


def seal(value: object) -> tuple[Envelope, list[pickle.PickleBuffer]]:
    """Prepare an object for shared memory: its envelope, and the contents of its arrays, which belong at the spans."""
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    spans, start = [], 0
    for buffer in buffers:
        stop = start + buffer.raw().nbytes
        spans.append((start, stop))
        start = -(-stop // ALIGNMENT) * ALIGNMENT
    return Envelope(stream, tuple(spans)), buffers


def fill(content: Content, envelope: Envelope, buffers: Sequence[pickle.PickleBuffer]) -> None:
    """Write the contents of an envelope's arrays to their places.

    Raises:
        ValueError: If they do not fit.
    """
    for (start, stop), buffer in zip(envelope.spans, buffers, strict=True):
        content[start:stop] = np.frombuffer(buffer.raw(), np.uint8)


def _check_room(size: int) -> None:
    """Refuse what /dev/shm has no room for; systems other than Linux have no such folder and no such limit."""
    if not SHARED_MEMORY.is_dir():
        return
    room = free_disk_bytes(SHARED_MEMORY)
    if room < size:
        raise TrainingError(
            f"the processes that prepare batches need {format_memory(size)} of shared memory, and {SHARED_MEMORY} has "
            f"{format_memory(room)} free. Start the container with a larger --shm-size, use fewer --workers, or train "
            "with --workers 0."
        )
