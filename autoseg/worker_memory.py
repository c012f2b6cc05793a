"""How many workers the memory has room for.

Tested in tests/test_worker_memory.py.
"""

import logging
from typing import TypeVar

from autoseg.system import measure_available_memory
from autoseg.text import format_memory

logger = logging.getLogger("autoseg.workers")

Crew = TypeVar("Crew")
"""Number of processes, or workers of another kind, which are not limited here."""

WORKER_BYTES = 120_000_000
"""Memory of a worker before it has an item: interpreter and libraries."""


def limit_workers(
    workers: Crew,
    bytes_each: int,
    max_memory: int | None,
    task: str,
    kind: str = "worker processes",
    need: str = "the largest case takes",
) -> Crew | int:
    """Number of workers that the memory has room for, at least one; say so if they are fewer than asked for.

    Args:
        workers: Number of processes that was asked for, or one for each core; a cluster stays as it is.
        bytes_each: Memory that the largest item takes while it is worked on.
        max_memory: Memory in bytes that all of them may take together; None: what is free now.
        task: Name of the work for the message.
        kind: What the workers are.
        need: Subject and verb of what takes the memory.
    """
    if not isinstance(workers, int):
        return workers
    room = measure_available_memory() if max_memory is None else max_memory
    if room is None:
        return workers
    fitting = max(1, room // (bytes_each + WORKER_BYTES))
    if fitting < workers:
        logger.info(
            "%s: %d instead of %d %s, because %s about %s and all may take %s",
            task, fitting, workers, kind, need, format_memory(bytes_each), format_memory(room),
        )  # fmt: skip
    return fitting if fitting < workers else workers
