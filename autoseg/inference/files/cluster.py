"""Cases on a Dask cluster: every worker process loads the model once and predicts one case at a time.

Workers read the images and write the results themselves, so both folders, and the model, must be reachable from them
under the same paths. Needs the package `distributed`.
"""

import importlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

from autoseg.errors import UsageError

Tool = TypeVar("Tool")
Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECTING_SECONDS = 20.0

RESULT_SECONDS = 30.0
"""Longest wait for a finished result. Results are small and arrive at once, unless the worker died just afterwards."""


@dataclass(frozen=True)
class Cluster(Generic[Tool]):
    """A running cluster, and the tool that its processes load."""

    address: str
    """Address of the scheduler, such as `tcp://node1:8786`."""
    load: Callable[[], Tool]
    """Function that loads the tool, once in every process; picklable."""

    def work(self, work: Callable[[Tool, Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | str]]:
        """Do the same work for every item, on all workers of the cluster.

        Args:
            work: Function of the tool and an item; picklable. An error that it raises becomes a message, and the other
                items are not affected.
            items: Inputs of `work`; picklable.

        Yields:
            Index of the item, and its result or, if it failed or its worker died, a message; in the order in which
            items are finished.

        Raises:
            UsageError: If the package is missing, or no scheduler answers at the address.
        """
        distributed = _import_distributed()
        key = secrets.token_hex(8)
        with _connect(distributed, self.address) as client:
            futures = client.map(
                _work_in_worker, [*items], key=None, token=key, load=self.load, work=work, pure=False, retries=0
            )
            position = {future.key: index for index, future in enumerate(futures)}
            try:
                for future in distributed.as_completed(futures):
                    yield position[future.key], _result_or_message(future)
                    future.release()
            finally:
                client.cancel(futures)
                client.run(forget_tools, on_error="ignore")  # a worker may have died since


_ONE_AT_A_TIME = threading.Lock()
"""Keeps a worker with several threads from holding several cases in memory."""


def forget_tools() -> None:
    """Release the tool that this process has loaded."""
    _loaded.cache_clear()


def _work_in_worker(
    item: Item, *, token: str, load: Callable[[], Tool], work: Callable[[Tool, Item], Result]
) -> Result:
    with _ONE_AT_A_TIME:
        return work(_loaded(_Loading(token, load)), item)


@dataclass(frozen=True)
class _Loading:
    """How to load a tool; equal within one run, so that each process loads it once."""

    token: str
    load: Callable[[], Any] = field(compare=False)


@lru_cache(maxsize=1)
def _loaded(loading: _Loading) -> Any:  # noqa: ANN401 (whatever `load` returns)
    return loading.load()


def _result_or_message(future: Any) -> Any:  # noqa: ANN401 (whatever `work` returns)
    """The result or a message, also where a finished result was lost with its worker."""
    try:
        return future.result(timeout=RESULT_SECONDS)
    except Exception as error:  # noqa: BLE001 (any error that the work raised in another process)
        return _describe_error(error)


def _describe_error(error: BaseException) -> str:
    if type(error).__name__ == "KilledWorker":
        return (
            "the worker processes that predicted this case or one beside it were killed, most likely because they ran "
            "out of memory. Give workers more memory and run again with --skip-existing"
        )
    if isinstance(error, TimeoutError):
        return "the worker died before it could report the result. Run again with --skip-existing"
    return str(error) or type(error).__name__


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
