"""Worker processes that prepare batches, each in its turn: of three workers the second makes the batches 1, 4, 7, ...

    parent --number of a free slot--> worker --fills the slot--> parent --batch, whose arrays lie in the slot-->

A worker has a few slots, each as large as a batch, in memory that it shares with the parent, and only numbers and names
go through their pipe. A slot is free again when nothing refers to the arrays of its batch any more. The workers end
with the iterator that is closed, and with their parent.
"""

import logging
import multiprocessing
import os
import signal
import sys
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Protocol

import torch

from autoseg.errors import TrainingError
from autoseg.processes import bare_main_module, portable_error
from autoseg.system import leave_signals_to_parent, measure_available_memory
from autoseg.text import format_memory
from autoseg.training.data.batch import Batch
from autoseg.training.data.shared_memory import ALIGNMENT, Envelope, SharedMemory, allocate, fill, seal, view
from autoseg.worker_memory import limit_workers

logger = logging.getLogger("autoseg.train")

BATCHES_AHEAD_PER_WORKER = 2
"""How many finished batches a worker keeps ready: hides one slow batch, bounds memory."""

SLOTS = BATCHES_AHEAD_PER_WORKER + 1
"""Slots of a worker: one for the batch that is trained on meanwhile."""

ARRAYS_PER_BATCH = 16
"""Largest number of arrays in a batch: image, target, seeds, and maps of the reference at each level."""


class Loader(Protocol):
    """What makes batches; picklable, unless workers are forked."""

    @property
    def first_batch(self) -> int:
        """Number of the first batch."""

    def draw_batch(self, number: int) -> Batch:
        """Make one batch, which depends on its number alone."""

    def batch_bytes(self) -> int:
        """Size of all arrays of a batch in bytes."""


@dataclass(frozen=True)
class SharedLoader:
    """A loader whose arrays lie in shared memory, once for all workers that are not forked."""

    envelope: Envelope
    memory: SharedMemory


@dataclass(frozen=True)
class Failure:
    """Why a worker cannot make a batch."""

    message: str
    cause: Exception | None


def choose_start_method() -> str:
    """How workers of training are started here: forked on Linux, where they see the parent's cases without a copy.

    They compute with numpy and with one thread of torch, and use nothing of CUDA and of the parent's other threads.
    macOS cannot fork after its libraries are loaded, Windows not at all.
    """
    return "fork" if sys.platform == "linux" else "spawn"


def deliver(loader: Loader, workers: int, start_method: str | None = None) -> Generator[Batch, None, None]:
    """Batches of worker processes, in order and without end; close the iterator to end the workers.

    A worker that is killed is started again, once for a batch: batches depend on their numbers alone, so the training
    does not notice.

    Args:
        loader: Makes the batches, in each worker.
        workers: Largest number of processes, at least 1; fewer where the memory has no room for their batches.
        start_method: `fork`, `forkserver` or `spawn`; None: the best one here.

    Raises:
        TrainingError: If a worker failed, or was killed twice before its next batch came.
    """
    context = multiprocessing.get_context(start_method or choose_start_method())
    shared = loader if context.get_start_method() == "fork" else _share(loader, context)
    slot_bytes = loader.batch_bytes() + ALIGNMENT * ARRAYS_PER_BATCH
    workers = limit_workers(
        workers, SLOTS * slot_bytes, None, "preparing batches", need=f"{SLOTS} batches of each take"
    )
    start = partial(_Worker, shared, slot_bytes, context, stride=workers)
    crew = [start(loader.first_batch + place) for place in range(workers)]
    try:
        for number in count(loader.first_batch):
            place = (number - loader.first_batch) % workers
            batch = crew[place].take_batch()
            if batch is None:
                _tell_of_death(crew[place].cause_of_death())
                crew[place].end()
                crew[place] = start(number)
                batch = crew[place].take_batch()
            if batch is None:
                raise TrainingError(
                    f"A worker that prepares batches was killed ({crew[place].cause_of_death()}), and a second time "
                    "for the same batch, most often because memory ran out. Use fewer --workers, or give the machine "
                    "more memory; training resumes from the last checkpoint."
                )
            yield batch
            del batch  # else its slot would not become free before the next batch has come
    finally:
        for worker in crew:
            worker.end()


def _share(loader: Loader, context: BaseContext) -> SharedLoader:
    envelope, buffers = seal(loader)
    size = max((stop for _, stop in envelope.spans), default=1)
    memory = allocate(size, context)
    fill(view(memory), envelope, buffers)
    return SharedLoader(envelope, memory)


def _tell_of_death(cause: str) -> None:
    free = measure_available_memory()
    room = "" if free is None else f"; {format_memory(free)} of memory are free"
    logger.warning("a worker that prepares batches was killed (%s)%s; it is started again", cause, room)


class _Worker:
    """One process, its slots, and the parent's end of their pipe."""

    def __init__(
        self, loader: Loader | SharedLoader, slot_bytes: int, context: BaseContext, first: int, *, stride: int
    ) -> None:
        self._slot_bytes = slot_bytes
        self._memory = allocate(SLOTS * slot_bytes, context)
        self._free = deque(range(SLOTS))
        self._num_given = 0
        """Slots that the worker has and has not filled yet."""
        self._connection, end = context.Pipe()
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve,
            args=(end, loader, (self._memory, slot_bytes), (first, stride)),
            name=f"batches-{first}",
            daemon=True,
        )
        with bare_main_module():
            self.process.start()
        end.close()
        # at the latest when this process ends: workers leave signals to it, so they would wait for each other
        self._end = weakref.finalize(self, _kill, os.getpid(), self.process, self._connection)

    def take_batch(self) -> Batch | None:
        """The worker's next batch; None if the worker has died.

        Raises:
            TrainingError: If the worker could not make it; as the loader raised it.
        """
        try:
            self._give_slots()
            wait([self._connection, self.process.sentinel])
            if not self._connection.poll():
                return None
            answer: tuple[int, Envelope] | Failure = self._connection.recv()
        except (EOFError, OSError):  # it died while it wrote
            return None
        if isinstance(answer, Failure):
            raise TrainingError(answer.message) from answer.cause
        slot, envelope = answer
        self._num_given -= 1
        return self._open(slot, envelope)

    def end(self) -> None:
        """End the process; arrays of its batches stay valid."""
        self._end()

    def cause_of_death(self) -> str:
        """Signal or exit code of the dead process."""
        self.process.join()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _give_slots(self) -> None:
        while self._free and self._num_given < BATCHES_AHEAD_PER_WORKER:
            self._connection.send(self._free.popleft())
            self._num_given += 1

    def _open(self, slot: int, envelope: Envelope) -> Batch:
        """The batch in a slot; a copy of it where all other slots are still in use, so that the worker can continue."""
        content = view(self._memory, slot * self._slot_bytes, self._slot_bytes)
        is_last = self._num_given == 0 and not self._free
        if is_last:
            content = content.copy()
            self._free.append(slot)
        else:
            weakref.finalize(content, self._free.append, slot).atexit = False
        batch: Batch = envelope.open(content)
        return batch


def _kill(owner: int, process: BaseProcess, connection: Connection) -> None:
    """End a process, if this one has started it, and not a forked worker that has a copy of all objects."""
    if os.getpid() != owner:
        return
    process.kill()
    process.join()
    connection.close()


def _serve(
    connection: Connection, loader: Loader | SharedLoader, slots: tuple[SharedMemory, int], turn: tuple[int, int]
) -> None:
    """Make batches as long as there are slots for them; runs in a worker."""
    # the parent finishes its step, for which it may need one more batch
    leave_signals_to_parent(("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"), partial(os._exit, 1))
    torch.set_num_threads(1)  # the workers share the cores; without this each of them would use all
    memory, slot_bytes = slots
    opened: Loader = loader.envelope.open(view(loader.memory)) if isinstance(loader, SharedLoader) else loader
    with suppress(EOFError, ConnectionError):  # the parent is gone
        for number in count(*turn):
            slot: int = connection.recv()
            try:
                envelope, buffers = seal(opened.draw_batch(number))
            except TrainingError as error:
                cause = error.__cause__
                connection.send(Failure(str(error), portable_error(cause) if isinstance(cause, Exception) else None))
                return
            except MemoryError as error:
                connection.send(Failure(f"Making a batch failed: {error}", MemoryError(str(error))))
                return
            fill(view(memory, slot * slot_bytes, slot_bytes), envelope, buffers)
            connection.send((slot, envelope))
