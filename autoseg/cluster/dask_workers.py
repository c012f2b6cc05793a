"""Work on the workers of a Dask cluster: each works on one item at a time, and the death of one costs its item at most.

Items are handed out one by one, each to a chosen worker, so a worker that dies names the item that it worked on; Dask
itself would count the death against every task that waited there. The item is tried again on another worker, once.
Workers read and write files themselves, so folders must have the same paths everywhere. Needs the package
`distributed`.
"""

import importlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar

from autoseg.errors import UsageError
from autoseg.processes import WorkerDeath, describe_item

logger = logging.getLogger("autoseg.cluster")

Tool = TypeVar("Tool")
Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECTING_SECONDS = 20.0

SECONDS_BETWEEN_LOOKS = 1.0
"""Interval in which the workers of the cluster are looked at, while none of them finishes anything."""

SECONDS_WITHOUT_WORKERS = 60.0
"""How long a cluster without any worker is waited for; one that restarts its workers needs seconds."""

RESULT_SECONDS = 30.0
"""Longest wait for a finished result. Results are small and arrive at once, unless the worker died just afterwards."""

SCHEDULER_LACKS_PACKAGE = "Error during deserialization of the task graph"
"""Beginning of Dask's message when the scheduler cannot import what a task is made of."""

GPU = "GPU"
"""Name of the resource that workers with a GPU have, as in `dask worker --resources GPU=1`."""


@dataclass(frozen=True)
class Failed:
    """The error that the work raised for an item."""

    error: Exception


@dataclass(frozen=True)
class DaskCluster:
    """A running cluster."""

    address: str
    """Address of the scheduler, such as `tcp://node1:8786`."""

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item], *, task: str
    ) -> Iterator[Result | WorkerDeath]:
        """Apply a function to every item; give results in the order of the items, each as soon as possible.

        Args:
            work: Picklable function of one item; an error that it raises is raised here, and ends everything.
            items: Picklable arguments.
            task: Name of the work for messages, as in "preprocessing: ...".

        Yields:
            Results; for an item whose worker died twice, what is known of that.

        Raises:
            UsageError: If the package is missing, no scheduler answers at the address, or no worker is left.
        """
        ready: dict[int, Any] = {}
        following = 0
        for index, outcome in self.outcomes(work, items, task=task):
            ready[index] = outcome
            while following in ready:
                first = ready.pop(following)
                if isinstance(first, Failed):
                    raise first.error
                yield first
                following += 1

    def outcomes(
        self, work: Callable[[Item], Result], items: Sequence[Item], *, task: str, on_gpus: bool = False
    ) -> Iterator[tuple[int, Result | Failed | WorkerDeath]]:
        """Apply a function to every item; give the index and outcome of each in the order in which they are finished.

        Args:
            work: Picklable function of one item.
            items: Picklable arguments.
            task: Name of the work for messages.
            on_gpus: Whether only workers with the resource `GPU` are used, if there are any.

        Raises:
            UsageError: If the package is missing, no scheduler answers at the address, or no worker is left.
        """
        distributed = _import_distributed()
        with _connect(distributed, self.address) as client, _naming_the_scheduler(self.address, task):
            handing = _HandingOut(distributed, client, work, items, task, on_gpus)
            try:
                yield from handing.outcomes()
            finally:
                handing.cancel()


Workers = int | DaskCluster
"""Where cases are worked on: in so many processes of this machine, 1 being this process, or on a cluster."""


@dataclass
class _HandingOut(Generic[Item, Result]):
    """Items that wait for a worker, and those that workers have."""

    distributed: Any
    client: Any
    work: Callable[[Item], Result]
    items: Sequence[Item]
    task: str
    on_gpus: bool
    waiting: deque[int] = field(default_factory=deque)
    running: dict[Any, tuple[int, str]] = field(default_factory=dict)
    """Index of the item and address of its worker, by future."""
    tried_on: dict[int, str] = field(default_factory=dict)
    """Address of the worker that died, by index of the item that it worked on."""
    last_seen: float = field(default_factory=time.monotonic)
    """Time at which there was a worker."""

    def outcomes(self) -> Iterator[tuple[int, Result | Failed | WorkerDeath]]:
        self.waiting.extend(range(len(self.items)))
        while self.waiting or self.running:
            alive = self._look_at_workers()
            for future, (index, address) in list(self.running.items()):
                if address not in alive and not future.done():
                    yield from self._bury(future, index, address)
            self._hand_out(alive)
            for future in self._wait():
                index, address = self.running[future]
                try:
                    error = future.exception(timeout=RESULT_SECONDS)
                    outcome = future.result(timeout=RESULT_SECONDS) if error is None else Failed(error)
                except TimeoutError:
                    yield from self._bury(future, index, address)  # it died before it could hand on the result
                else:
                    del self.running[future]
                    self._check_installation(address, error)
                    yield index, outcome

    def _check_installation(self, address: str, error: Exception | None) -> None:
        """Refuse a cluster whose scheduler or workers lack what the work is made of.

        Raises:
            UsageError: If the error says so.
        """
        if isinstance(error, RuntimeError) and str(error).startswith(SCHEDULER_LACKS_PACKAGE):
            raise UsageError(
                f"{self.task}: the scheduler cannot read what it is given. Install autoseg in the same version, and "
                "the same Python packages, on the scheduler's machine too, and start it again."
            )
        if isinstance(error, ImportError):
            raise UsageError(
                f"{self.task}: the worker {address} cannot import what it needs ({error}). Install autoseg in the same "
                "version on every machine, and start the workers again."
            )

    def cancel(self) -> None:
        """Forget what workers still have; they notice it (`end_is_asked_for`), so nobody waits for them here."""
        with suppress(OSError, CancelledError):  # the scheduler may be gone
            if self.running:
                self.client.cancel([*self.running], force=True)
            elif not self.waiting:
                self.client.run(_forget_tool, on_error="ignore")  # a worker may have died since

    def _look_at_workers(self) -> dict[str, Any]:
        """Workers that can be used, by address; waits until there is one.

        Raises:
            UsageError: If there is none for too long.
        """
        workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        alive = {address: worker for address, worker in workers.items() if worker["status"] == "running"}
        if alive:
            self.last_seen = time.monotonic()
        elif time.monotonic() - self.last_seen > SECONDS_WITHOUT_WORKERS:
            done = len(self.items) - len(self.waiting) - len(self.running)
            raise UsageError(
                f"{self.task}: the Dask cluster has had no worker for {SECONDS_WITHOUT_WORKERS:.0f} s; {done} of "
                f"{len(self.items)} are done. Start workers with `dask worker ADDRESS`, and run the same command again."
            )
        with_gpu = {address: worker for address, worker in alive.items() if worker["resources"].get(GPU)}
        return with_gpu if self.on_gpus and with_gpu else alive

    def _hand_out(self, alive: dict[str, Any]) -> None:
        """Give every idle worker an item."""
        busy = {address for _, address in self.running.values()}
        for address in [address for address in alive if address not in busy]:
            is_only_one = len(alive) == 1
            index = next((i for i in self.waiting if is_only_one or self.tried_on.get(i) != address), None)
            if index is None:
                continue
            self.waiting.remove(index)
            resources = {GPU: 1} if self.on_gpus and alive[address]["resources"].get(GPU) else None
            key = f"{self.task}-{index}-{secrets.token_hex(8)}"  # shown on the cluster's dashboard
            future = self.client.submit(
                self.work, self.items[index], key=key, workers=[address], resources=resources, retries=0
            )
            self.running[future] = index, address

    def _wait(self) -> list[Any]:
        """Futures that are done, after a short wait for one of them."""
        if not self.running:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            return []
        try:
            self.distributed.wait([*self.running], timeout=SECONDS_BETWEEN_LOOKS, return_when="FIRST_COMPLETED")
        except TimeoutError:
            return []
        return [future for future in self.running if future.done()]

    def _bury(self, future: Hashable, index: int, address: str) -> Iterator[tuple[int, WorkerDeath]]:
        """Let the item of a dead worker be tried on another one; give up on it the second time."""
        del self.running[future]
        self.client.cancel([future], force=True)
        if index in self.tried_on:
            yield index, WorkerDeath("a lost connection to the cluster's worker", 0, None)
            return
        logger.warning(
            "%s: the worker %s is gone; it worked on %s, which is tried again on another one",
            self.task, address, describe_item(self.items[index]),
        )  # fmt: skip
        self.tried_on[index] = address
        self.waiting.appendleft(index)


@dataclass(frozen=True)
class ToolCluster(Generic[Tool]):
    """A cluster, and the tool that each of its processes loads once."""

    cluster: DaskCluster
    load: Callable[[], Tool]
    """Picklable function that loads the tool."""

    def work(
        self, work: Callable[[Tool, Item], Result], items: Sequence[Item], *, task: str
    ) -> Iterator[tuple[int, Result | str]]:
        """Do the same work with the tool for every item.

        Args:
            work: Picklable function of the tool and an item.
            items: Picklable inputs of `work`.
            task: Name of the work for messages.

        Yields:
            Index of the item, and its result or, if it failed or its worker died twice, a message; in the order in
            which items are finished.

        Raises:
            UsageError: If the package is missing, no scheduler answers at the address, or no worker is left.
        """
        with_tool = partial(_work_with_tool, _Loading(secrets.token_hex(8), self.load), work)
        for index, outcome in self.cluster.outcomes(with_tool, items, task=task):
            if isinstance(outcome, Failed | WorkerDeath):
                yield index, describe_failure(outcome)
            else:
                yield index, outcome


def describe_failure(outcome: object) -> str:
    """Why an item has no result; empty if it has one."""
    if isinstance(outcome, WorkerDeath):
        return outcome.describe()
    if isinstance(outcome, Failed):
        return str(outcome.error) or type(outcome.error).__name__
    return ""


_ONE_AT_A_TIME = threading.Lock()
"""Keeps a worker that several commands use from holding several items in memory."""


@dataclass(frozen=True)
class _Loading:
    """How to load a tool; equal within one run, so that each process loads it once, and none uses an earlier one's."""

    token: str
    load: Callable[[], Any] = field(compare=False)


def _work_with_tool(loading: _Loading, work: Callable[[Any, Item], Result], item: Item) -> Result:
    with _ONE_AT_A_TIME:
        return work(_loaded(loading), item)


@lru_cache(maxsize=1)
def _loaded(loading: _Loading) -> Any:  # noqa: ANN401 (whatever `load` returns)
    return loading.load()


def _forget_tool() -> None:
    """Release the tool that this process has loaded."""
    _loaded.cache_clear()


def end_is_asked_for() -> bool:
    """Whether nobody waits for the item that this thread of a worker works on: the command was ended, or is gone."""
    worker = _import_distributed().get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled"


def threads_of_worker() -> int:
    """Threads that the worker was given, in which this one runs."""
    return int(_import_distributed().get_worker().state.nthreads)


@contextmanager
def _naming_the_scheduler(address: str, task: str) -> Iterator[None]:
    """Say in one sentence that the scheduler is gone."""
    try:
        yield
    except (OSError, CancelledError) as error:
        if isinstance(error, OSError) and not type(error).__module__.startswith("distributed"):
            raise  # not of a connection
        raise UsageError(
            f"{task}: the Dask scheduler at {address} is gone. What is finished is kept; start it, and run the same "
            "command again."
        ) from error


def _connect(distributed: Any, address: str) -> Any:  # noqa: ANN401 (the package need not be installed)
    try:
        return distributed.Client(address, timeout=CONNECTING_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}). Start one with `dask scheduler`, and "
            "give the address that it prints"
        ) from error


def _import_distributed() -> Any:  # noqa: ANN401 (the package need not be installed)
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError(
            f"--scheduler needs a package that is not installed ({error}). Run pip install distributed"
        ) from error
