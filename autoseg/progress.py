"""Progress of long jobs: the callbacks that stages call, and their variants that show nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Progress = Callable[[int, int], None]
"""Called with the number of items that are done and the number of all items."""

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Called with a title; the context gives the callback that moves the bar."""


def no_progress(_done: int, _total: int) -> None:
    """Show nothing."""


def no_bar(_title: str) -> AbstractContextManager[Progress]:
    """Open a progress bar that shows nothing."""
    return nullcontext(no_progress)
