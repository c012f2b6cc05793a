"""The same work for every case, in several processes: one pool for everything that is done case by case."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from autoseg.errors import AutosegError, DatasetError, UsageError
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import CaseFiles

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    task: str,
    workers: int,
    progress: Progress = no_progress,
) -> Iterator[Result]:
    """Apply a function to every item, in the order of the items, and give each result as soon as it is available.

    Args:
        work: Picklable function. An error that it raises ends everything.
        items: Picklable arguments, one case each.
        task: Name of the work for the message, as in "preprocessing: a worker process was killed".
        workers: Number of processes; 1 works in this one. Each holds one item in memory and uses one thread.
        progress: Called after each item.

    Yields:
        Results; they are not kept.

    Raises:
        UsageError: If a worker process was killed, as systems do when they run out of memory.
    """
    for done, result in enumerate(_results(work, items, task, workers), start=1):
        yield result
        progress(done, len(items))


def work_on_cases(
    work: Callable[[CaseFiles], Result],
    cases: Sequence[CaseFiles],
    *,
    task: str,
    workers: int,
    progress: Progress = no_progress,
) -> Iterator[Result]:
    """Apply a function to every case; one bad case does not stop the others.

    Args:
        work: Picklable function. Raises AutosegError, OSError, ValueError or MemoryError for a case that fails.
        cases: The cases.
        task: Name of the work for the message, as in "preprocessing failed".
        workers: Number of processes; 1 works in this one. Each holds one case in memory and uses one thread.
        progress: Called after each case.

    Yields:
        Results of the cases that succeeded, in the order of the cases; they are not kept.

    Raises:
        DatasetError: After the last case, if any failed; names each of them.
        UsageError: If a worker process was killed.
    """
    failures = []
    outcomes = map_in_processes(partial(_attempt, work), cases, task=task, workers=workers, progress=progress)
    for case, (result, failure) in zip(cases, outcomes, strict=True):
        if result is None:
            failures.append(f"  {case.case}: {failure}")
        else:
            yield result
    if failures:
        raise DatasetError(f"{task} failed for {len(failures)} of {len(cases)} case(s):\n" + "\n".join(failures))


def _results(work: Callable[[Item], Result], items: Sequence[Item], task: str, workers: int) -> Iterator[Result]:
    if workers == 1 or len(items) == 1:
        yield from map(work, items)
        return
    try:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            pool = joblib.Parallel(n_jobs=workers, return_as="generator")
            yield from pool(joblib.delayed(work)(item) for item in items)
    except TerminatedWorkerError as error:
        raise UsageError(
            f"{task}: a worker process was killed, most likely because memory ran out. Run the same command "
            f"again with fewer than {workers} workers (--workers)."
        ) from error


def _attempt(work: Callable[[CaseFiles], Result], case: CaseFiles) -> tuple[Result | None, str]:
    """Result of a case, or None and the error message."""
    try:
        return work(case), ""
    except (AutosegError, OSError, ValueError) as error:
        return None, str(error)
    except MemoryError:
        return None, "out of memory; use fewer workers"
