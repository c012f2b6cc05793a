"""Work on many items in worker processes: they end with their parent, and the death of one costs its item at most.

Every worker holds one item, so a worker that dies names the item that killed it. That item is tried again, once and
alone, when the others that were begun are finished; the rest goes on in any case.

Tested in tests/test_processes.py.
"""

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from _thread import interrupt_main
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import get_temp_dir
from types import ModuleType
from typing import Generic, TypeVar

import psutil
from threadpoolctl import threadpool_limits

from autoseg.errors import UsageError
from autoseg.system import leave_signals_to_parent, measure_available_memory
from autoseg.text import format_memory

logger = logging.getLogger("autoseg.workers")

Item = TypeVar("Item")

Result = TypeVar("Result")


MAX_SERVER_FOLDER_BYTES = 70
"""Longest folder of temporary files that leaves room for the name of the server's socket, 108 bytes in all."""

PRELOADED = ["autoseg.imaging.datasets.cases", "autoseg.imaging.datasets.checks", "autoseg.metrics.case_scores"]
"""Modules that the server imports before it forks; most work needs them."""

SECONDS_BETWEEN_LOOKS = 1.0
"""Interval in which the memory of workers is looked at, while none of them has anything to say."""

SECONDS_TO_END = 3.0
"""Time that a worker gets to leave its item and to remove its temporary files, before it is killed."""

SECONDS_OF_SILENCE = 600.0
"""Without a finished item for this long, a line says which items are worked on; a large case may take longer."""


READY = "ready"
"""First message of a worker: it has started, so its later death is not that of the system that starts processes."""


@dataclass(frozen=True)
class WorkerDeath:
    """An item that has no result, because two workers died while they worked on it."""

    cause: str
    """What ended the second worker, such as `SIGKILL` or `exit code 3`."""
    held_bytes: int
    """Largest memory that was seen in it; 0 where it was too short-lived to be looked at."""
    free_bytes: int | None
    """Memory that could still be taken when it was last looked at; None where not known."""

    def describe(self) -> str:
        """Say what happened and what to do, as a sentence after `CASE: `."""
        is_memory = self.cause == "SIGKILL"
        why = ", as systems do when memory runs out" if is_memory else ""
        held = f"; it held {format_memory(self.held_bytes)}" if self.held_bytes else ""
        free = f", {format_memory(self.free_bytes)} were free" if held and self.free_bytes is not None else ""
        return (
            f"the worker process was ended by {self.cause}{why}, and a second time when it worked on this case alone"
            f"{held}{free}. {'Give the machine more memory' if is_memory else 'Look at its files'}, or take it out."
        )


class _Worker(Generic[Item, Result]):
    """One process and the parent's end of its pipe."""

    def __init__(self, work: Callable[[Item], Result], context: BaseContext) -> None:
        self.connection, end = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(end, work, _own_socket_folder()), daemon=True)  # type: ignore[attr-defined]
        with bare_main_module():
            self.process.start()
        end.close()
        self.index: int | None = None
        self.is_ready = False
        self.held_bytes = 0
        self.free_bytes: int | None = None

    def give(self, index: int, item: Item) -> None:
        """Send an item; a worker that has died is noticed when it is waited for."""
        self.index = index
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((item,))

    def dismiss(self) -> None:
        """Let an idle worker end."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(None)

    def look_at_memory(self) -> None:
        """Remember how much memory the worker holds, because it cannot be asked when it has died."""
        try:
            held = psutil.Process(self.process.pid).memory_info().rss
        except psutil.Error:
            return
        self.held_bytes, self.free_bytes = max(self.held_bytes, int(held)), measure_available_memory()

    def cause_of_death(self) -> str:
        """Name of the signal, or the exit code; waits for the process to be gone."""
        self.process.join(SECONDS_TO_END)
        code = self.process.exitcode
        if code is None:
            return "a closed connection"
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def choose_start_method() -> str:
    """How workers are started here: forked by a server if possible, else as programs of their own.

    The server imports the libraries once for all workers of a command, and has no threads that a fork could catch with
    a lock in hand. macOS cannot fork after its libraries are loaded, Windows not at all.
    """
    has_room = len(os.fsencode(tempfile.gettempdir())) <= MAX_SERVER_FOLDER_BYTES
    return "forkserver" if sys.platform == "linux" and has_room else "spawn"


def map_in_workers(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    task: str,
    workers: int,
    start_method: str | None = None,
) -> Iterator[Result | WorkerDeath]:
    """Apply a function to every item in worker processes; give results in the order of the items, as they come.

    Workers use one thread each. They are gone when the iterator is closed or exhausted, and seconds after this process
    is, however it ended.

    Args:
        work: Picklable function of one item; an error that it raises is raised here, and ends everything.
        items: Picklable arguments.
        task: Name of the work for messages, as in "preprocessing: ...".
        workers: Largest number of processes; each holds one item.
        start_method: `forkserver`, `spawn` or `fork`; None: the best one here.

    Yields:
        Results; for an item that killed its worker twice, what is known of that.

    Raises:
        UsageError: If workers die before they have begun to work.
    """
    context = multiprocessing.get_context(start_method or choose_start_method())
    crew = _Crew(work, items, task, workers, context)
    results: dict[int, Result | WorkerDeath] = {}
    try:
        for index in range(len(items)):
            while index not in results:
                crew.hand_out()
                results.update(crew.collect())
            yield results.pop(index)
    finally:
        crew.end()


class _Crew(Generic[Item, Result]):
    """The workers of one call, what is left to do, and what has to be tried again."""

    def __init__(
        self, work: Callable[[Item], Result], items: Sequence[Item], task: str, workers: int, context: BaseContext
    ) -> None:
        self.work, self.items, self.task, self.context = work, items, task, context
        self.limit = min(workers, len(items))
        self.todo = deque(range(len(items)))
        self.again: deque[int] = deque()
        self.tried_again: set[int] = set()
        self.idle: list[_Worker[Item, Result]] = []
        self.busy: list[_Worker[Item, Result]] = []
        self.heard = time.monotonic()
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(PRELOADED)

    def hand_out(self) -> None:
        """Give items to workers; an item that killed one waits until all others are at rest, and is alone then."""
        while self.todo and not self.again and len(self.busy) < self.limit:
            self._give(self.todo.popleft())
        if self.again and not self.busy:
            for worker in self.idle:  # an idle worker keeps memory that the item may need
                worker.process.kill()
                worker.connection.close()
            self.idle.clear()
            index = self.again.popleft()
            self.tried_again.add(index)
            self._give(index)

    def collect(self) -> dict[int, Result | WorkerDeath]:
        """Wait for the next message, death or second; give the results that have come.

        Raises:
            UsageError: If a worker died alone and before it had begun.
            Exception: What the work raised.
        """
        sources = [source for worker in self.busy for source in (worker.connection, worker.process.sentinel)]
        signs = wait(sources, SECONDS_BETWEEN_LOOKS)
        ready = [worker for worker in self.busy if worker.connection in signs or worker.process.sentinel in signs]
        results: dict[int, Result | WorkerDeath] = {}
        for worker in ready:
            results.update(self._hear(worker))
        if not ready:
            for worker in self.busy:
                worker.look_at_memory()
            self._tell_of_silence()
        return results

    def end(self) -> None:
        """End all workers: those at work leave their item, those that do not within seconds are killed."""
        for worker in self.busy:
            worker.process.terminate()
        for worker in self.idle:
            worker.dismiss()
        deadline = time.monotonic() + SECONDS_TO_END
        for worker in (*self.busy, *self.idle):
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.connection.close()

    def _give(self, index: int) -> None:
        worker = self.idle.pop() if self.idle else _Worker(self.work, self.context)
        self.busy.append(worker)
        worker.give(index, self.items[index])

    def _hear(self, worker: _Worker[Item, Result]) -> dict[int, Result | WorkerDeath]:
        """One message of a worker, or its death."""
        try:
            message = worker.connection.recv() if worker.connection.poll() else None
        except (EOFError, OSError):  # OSError: it died while it sent a result
            message = None
        if message is None:
            return self._bury(worker)
        self.heard = time.monotonic()
        if message == READY:
            worker.is_ready = True
            return {}
        result, error = message
        if error is not None:
            raise error
        index = self._release(worker)
        self.idle.append(worker)
        return {index: result}

    def _bury(self, worker: _Worker[Item, Result]) -> dict[int, Result | WorkerDeath]:
        """Let the item of a dead worker be tried again alone; give up on it the second time."""
        index, cause = self._release(worker), worker.cause_of_death()
        worker.connection.close()
        if index not in self.tried_again:
            logger.warning(
                "%s: a worker process was ended by %s at %s; it is tried again, alone",
                self.task, cause, describe_item(self.items[index]),
            )  # fmt: skip
            self.again.append(index)
            if cause == "SIGKILL":
                self.limit = max(1, self.limit - 1)  # if memory ran out, as many would run out of it again
            return {}
        if not worker.is_ready:
            raise UsageError(
                f"{self.task}: worker processes are ended by {cause} while they start, also one alone. Run the same "
                "command again with --workers 1, which starts none."
            )
        return {index: WorkerDeath(cause, worker.held_bytes, worker.free_bytes)}

    def _release(self, worker: _Worker[Item, Result]) -> int:
        self.busy.remove(worker)
        if worker.index is None:
            raise RuntimeError("a worker without an item was busy")
        return worker.index

    def _tell_of_silence(self) -> None:
        if time.monotonic() - self.heard < SECONDS_OF_SILENCE:
            return
        self.heard = time.monotonic()
        names = ", ".join(
            f"{describe_item(self.items[worker.index])} (process {worker.process.pid}, "
            f"{format_memory(worker.held_bytes)})"
            for worker in self.busy
            if worker.index is not None
        )
        logger.warning(
            "%s: nothing was finished in the last %.0f min; at work: %s. Ending such a process makes the command go on "
            "without its case.",
            self.task, SECONDS_OF_SILENCE / 60, names,
        )  # fmt: skip


def describe_item(item: object) -> str:
    """Name of what a worker works on: the case of files, the first of several values, else the item itself."""
    if isinstance(item, tuple):
        return str(item[0])
    return str(getattr(item, "case", item))


@contextmanager
def bare_main_module() -> Iterator[None]:
    """Keep new processes from running the user's script again, which may lack the guard `if __name__ == "__main__"`.

    multiprocessing does so to find functions that the script defines, and no work of autoseg is defined there.
    """
    module = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = module


def _own_socket_folder() -> str | None:
    """Folder of sockets that multiprocessing makes for this process and all that it starts, and removes at its end.

    None in a process that was itself started by multiprocessing, because it shares that of others.
    """
    return None if multiprocessing.parent_process() is not None else get_temp_dir()


def _serve(connection: Connection, work: Callable[[Item], Result], left_by_parent: str | None) -> None:
    """Work on items, each in a tuple, until None comes; runs in a worker, which removes a folder of a killed parent."""
    try:
        leave_signals_to_parent(("SIGINT", "SIGHUP", "SIGUSR1"), partial(_end_soon, left_by_parent))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # interrupts, so that temporary files are removed
        with threadpool_limits(1):  # the workers share the cores
            connection.send(READY)
            while message := connection.recv():
                connection.send(_outcome(work, *message))
    except (EOFError, ConnectionError):  # the parent is gone
        _remove(left_by_parent)
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # whoever asks learns how this process ended


def _outcome(work: Callable[[Item], Result], item: Item) -> tuple[Result | None, Exception | None]:
    """Result, or the error in a form that passes through a pipe, with the traceback as a note."""
    try:
        return work(item), None
    except Exception as error:  # noqa: BLE001  # raised where the result is asked for
        error.add_note(traceback.format_exc())
        return None, portable_error(error)


def portable_error(error: Exception) -> Exception:
    """The error, or its text where the error cannot be sent to another process; some of libraries cannot."""
    try:
        pickle.loads(ForkingPickler.dumps(error))  # noqa: S301 (made by the line itself)
    except (pickle.PicklingError, TypeError, AttributeError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _remove(left_by_parent: str | None) -> None:
    if left_by_parent is not None:
        shutil.rmtree(left_by_parent, ignore_errors=True)


def _end_soon(left_by_parent: str | None) -> None:
    """Interrupt the work, and end without asking where code of a library does not let itself be interrupted."""
    _remove(left_by_parent)
    interrupt_main(signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(1)
