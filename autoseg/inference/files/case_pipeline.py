"""Cases on a conveyor: the next one is prepared while this one is predicted, and the last one is written behind it.

    prepare case n + 1 (thread)      predict case n (caller's thread)      finish case n - 1 (thread)

At most three cases are in memory, one per step: preparing waits until the prediction has taken the case before, and a
predicted case waits until the one before it is finished.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from autoseg.errors import AutosegError

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Answer = TypeVar("Answer")
Done = TypeVar("Done")
Result = TypeVar("Result")
Given = TypeVar("Given")

CASE_ERRORS = (AutosegError, OSError, MemoryError, RuntimeError, ValueError)
"""What may go wrong with one case and leaves the others alone."""


@dataclass(frozen=True)
class CaseSteps(Generic[Item, Prepared, Answer, Done]):
    """What is done with a case; each step may raise one of CASE_ERRORS."""

    prepare: Callable[[Item], Prepared]
    predict: Callable[[Item, Prepared], Answer]
    finish: Callable[[Item, Answer], Done]


@dataclass(frozen=True)
class _Outcome(Generic[Result]):
    """What came of a step: its result in a list that the next step empties, or the message of its error."""

    result: list[Result]
    error: str = ""

    def told(self) -> Result | str:
        """The message if there is one, else the result."""
        return self.error if self.error else self.result.pop()


def run_cases(
    items: Sequence[Item], steps: CaseSteps[Item, Prepared, Answer, Done], *, side_by_side: bool = True
) -> Iterator[Done | str]:
    """Work on all cases.

    When the caller's thread is interrupted, or stops asking, the case that is being finished is finished, so that no
    file is left half written; the one that is being prepared is dropped.

    Args:
        items: The cases.
        steps: `prepare` and `finish` run in threads of their own, one case at a time each.
        side_by_side: False: one case after the other, all in the caller's thread, so that one is in memory at a time.

    Yields:
        For every case, in order, what `finish` gave, or the message of the error that ended it.

    Raises:
        Exception: What is not one of CASE_ERRORS, as it comes.
    """
    if not side_by_side:
        for item in items:
            predicted = _attempt_next(steps.predict, item, _attempt(steps.prepare, item))
            yield _attempt_next(steps.finish, item, predicted).told()
        return
    behind: Future[_Outcome[Done]] | None = None
    ahead = _start(_attempt, steps.prepare, items[0]) if items else None
    try:
        for index, item in enumerate(items):
            prepared = ahead.result() if ahead is not None else _attempt(steps.prepare, item)
            ahead = _start(_attempt, steps.prepare, items[index + 1]) if index + 1 < len(items) else None
            answer = _attempt_next(steps.predict, item, prepared)
            if behind is not None:
                yield behind.result().told()
            behind = _start(_attempt_next, steps.finish, item, answer)
        if behind is not None:
            yield behind.result().told()
    finally:
        if behind is not None:
            wait([behind])


def _attempt(step: Callable[..., Result], *arguments: object) -> _Outcome[Result]:
    try:
        return _Outcome([step(*arguments)])
    except CASE_ERRORS as error:
        return _Outcome([], str(error) or type(error).__name__)


def _attempt_next(step: Callable[[Item, Given], Result], item: Item, before: _Outcome[Given]) -> _Outcome[Result]:
    """The step with what the one before gave, which is let go; where that failed, its error."""
    return _Outcome([], before.error) if before.error else _attempt(step, item, before.result.pop())


def _start(work: Callable[..., Result], *arguments: object) -> Future[Result]:
    """Begin in a thread that does not keep the program from ending."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
