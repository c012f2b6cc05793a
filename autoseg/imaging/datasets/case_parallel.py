"""The same work for every case, in several processes; one bad case does not stop the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from autoseg.errors import AutosegError, DatasetError
from autoseg.records.dataset import CaseFiles
from autoseg.records.files import Progress

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Outcome(Generic[Result]):
    """What came of one case: a result, or a message that says what went wrong."""

    result: Result | None
    failure: str = ""


def work_on_cases(
    work: Callable[[CaseFiles], Result],
    cases: Sequence[CaseFiles],
    *,
    task: str,
    workers: int,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Give the result for every case, in the order of the cases, as they come.

    Args:
        work: Picklable. Raises AutosegError, OSError, ValueError or MemoryError for a case it cannot do.
        cases: The cases.
        task: What is done, for the message, as in "preprocessing failed".
        workers: Processes; 1 works in this one. Each holds one case in memory and uses one thread.
        progress: Called after each case.

    Yields:
        Results of the cases that succeeded; results are not kept.

    Raises:
        DatasetError: After the last case, if any failed; names each of them. Or at once, if a worker was killed.
    """
    failures = []
    for done, (case, outcome) in enumerate(zip(cases, _outcomes(work, cases, task, workers), strict=True), start=1):
        if outcome.result is None:
            failures.append(f"  {case.case}: {outcome.failure}")
        else:
            yield outcome.result
        if progress is not None:
            progress(done, len(cases))
    if failures:
        raise DatasetError(f"{task} failed for {len(failures)} of {len(cases)} case(s):\n" + "\n".join(failures))


def _outcomes(
    work: Callable[[CaseFiles], Result], cases: Sequence[CaseFiles], task: str, workers: int
) -> Iterator[_Outcome[Result]]:
    if workers == 1 or len(cases) == 1:
        yield from (_attempt(work, case) for case in cases)
        return
    try:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            pool = joblib.Parallel(n_jobs=workers, return_as="generator")
            yield from pool(joblib.delayed(_attempt)(work, case) for case in cases)
    except TerminatedWorkerError as error:
        raise DatasetError(
            f"{task}: a worker process was killed, most likely because memory ran out. "
            f"Use fewer than {workers} workers; what was finished is kept."
        ) from error


def _attempt(work: Callable[[CaseFiles], Result], case: CaseFiles) -> _Outcome[Result]:
    try:
        return _Outcome(work(case))
    except (AutosegError, OSError, ValueError) as error:
        return _Outcome(None, str(error))
    except MemoryError:
        return _Outcome(None, "memory ran out; use fewer workers")
