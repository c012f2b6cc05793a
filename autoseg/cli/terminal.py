"""Log lines and progress bars: bars on a terminal, plain lines where the output is a file or a pipe."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text
from typing_extensions import override

from autoseg.cli.epoch_table import EpochTable
from autoseg.progress import Progress
from autoseg.records.files import Record

SECONDS_BETWEEN_LINES = 15.0
"""Interval between lines of progress in a file or pipe."""

PERCENT = 100
"""Number of parts that are shown as per cent."""

console = Console(stderr=True, highlight=False)
"""Console of messages and progress; results go to standard output."""


class _StandardError:
    """Standard error at the time of writing: rich replaces it while a bar is shown, so that lines go above the bar."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def set_up_logging(*, verbose: bool, quiet: bool) -> None:
    """Send the log lines of autoseg to standard error, with the time of day."""
    logger = logging.getLogger("autoseg")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers.clear()
    handler = logging.StreamHandler(_StandardError())
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)


@contextmanager
def printing_apart(*, as_json: bool) -> Iterator[None]:
    """Send what is printed for people to standard error, where standard output is for one JSON document."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(record: Record, **parts: Record) -> None:
    """Print one JSON document: the fields of a record, and other records by name; ASCII, for terminals of any kind."""
    document = record.model_dump(mode="json")
    document |= {name: part.model_dump(mode="json") for name, part in parts.items()}
    print(json.dumps(document, indent=1))


class _DoneColumn(ProgressColumn):
    """How much is done."""

    @override
    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else _describe_done(int(task.completed), int(task.total)))


def _describe_done(done: int, total: int) -> str:
    """`3/7`, and `37 %` of a hundred parts."""
    return f"{done} %" if total == PERCENT else f"{done}/{total}"


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Open a progress bar: a callback (done, total) that draws a bar on a terminal and logs occasional lines elsewhere.

    Above the bar, a table of epochs replaces their log lines.
    """
    handlers = logging.getLogger("autoseg").handlers
    if not console.is_terminal or handlers[0].level > logging.INFO:
        yield _line_progress(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _DoneColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars, epochs = RichProgress(*columns, console=console), EpochTable()
    task = bars.add_task(title, total=None)
    handler = handlers[0]
    handler.addFilter(epochs.take)
    try:
        with Live(get_renderable=lambda: epochs.above(bars), console=console):
            yield lambda done, total: bars.update(task, completed=done, total=total)
    finally:
        handler.removeFilter(epochs.take)


def _line_progress(title: str) -> Progress:
    started = time.monotonic()
    last_line = started
    complete = False

    def show(done: int, total: int) -> None:
        nonlocal last_line, complete
        now = time.monotonic()
        if complete or (done < total and now - last_line < SECONDS_BETWEEN_LINES):
            return
        last_line, complete = now, done >= total
        left = f", about {(now - started) * (total - done) / done:.0f} s left" if 0 < done < total else ""
        logging.getLogger("autoseg").info("%s: %s%s", title, _describe_done(done, total).replace("/", " of "), left)

    return show
