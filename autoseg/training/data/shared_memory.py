"""Arrays that processes hand each other in memory that all of them see, instead of writing them through a pipe.

An object is pickled without the content of its arrays, which lies in the memory; what comes out has its arrays there.
The memory has no name in the system: it is gone with the last process that sees it, however that process ends.
"""

import ctypes
import mmap
import pickle
import tempfile
from collections.abc import Sequence
from ctypes import Array
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import TrainingError
from autoseg.system import SHARED_MEMORY, free_disk_bytes
from autoseg.text import format_memory

ALIGNMENT = 64
"""Arrays begin at multiples of this number of bytes, a line of a processor's cache."""

SharedMemory = mmap.mmap | Array[ctypes.c_uint8]
"""Bytes that this process and its workers see."""

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

    Forked workers inherit it, and nothing but the machine's memory limits it. Others open it as a file without a name:
    on Linux in /dev/shm, or among the temporary files where /dev/shm has too little room.

    Args:
        size: Bytes, at least 1.
        context: How the workers are started.

    Raises:
        TrainingError: If neither place has room.
        MemoryError: If the system refuses so much to forked workers.
    """
    if context.get_start_method() == "fork":
        try:
            return mmap.mmap(-1, size)
        except OSError as error:
            raise MemoryError(f"{format_memory(size)} of shared memory: {error}") from error
    _check_room(size)
    return context.RawArray(ctypes.c_uint8, size)


def view(memory: SharedMemory, start: int = 0, size: int = -1) -> Content:
    """A part of shared memory, from the byte `start` on; -1: all that follows."""
    return np.frombuffer(memoryview(memory), np.uint8, size, start)


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
    """Refuse what neither file system has room for: writing into such a file would end this process by a signal."""
    places = [folder for folder in (SHARED_MEMORY, Path(tempfile.gettempdir())) if folder.is_dir()]
    room = max(free_disk_bytes(folder) for folder in places)
    if room < size:
        names = " and ".join(map(str, places))
        raise TrainingError(
            f"the processes that prepare batches need {format_memory(size)} of shared memory, and {names} have "
            f"{format_memory(room)} free. Start the container with a larger --shm-size, use fewer --workers, or train "
            "with --workers 0."
        )
