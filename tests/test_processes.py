"""Worker processes: order, errors, deaths, retries, start methods, and their end with their parent."""

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
from typing_extensions import override

from autoseg import processes
from autoseg.errors import UsageError
from autoseg.processes import WorkerDeath, choose_start_method, map_in_workers

ITEMS = ("b", "a", "d", "c")


def shout(item):
    return item.upper(), os.getpid()


def end_itself(number, culprit, marks, item):
    """Die while working on one item, the first time or always; leave a mark of each try."""
    (marks / f"{item}-{time.monotonic_ns()}").touch()
    if item == culprit:
        os.kill(os.getpid(), number)
    return item


def end_itself_once(marks, item):
    mark = marks / item
    if item == "a" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def fail(item):
    raise ValueError(f"{item} is bad")


class UnsendableError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def fail_unsendably(item):
    raise UnsendableError(item, item)


def wait_for_ever(marks, item):
    temporary = marks / f"temporary-{item}"
    temporary.touch()
    try:
        (marks / f"{item}-{os.getpid()}").touch()
        while item != "b":
            time.sleep(0.01)
    finally:
        temporary.unlink()
    return item


class DiesWhenStarting:
    """Work whose arrival in a worker ends it."""

    def __call__(self, item: str) -> str:
        return item

    @override
    def __reduce__(self):
        return os._exit, (7,)


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_every_start_method_gives_results_in_order_from_other_processes(start_method):
    results = map_in_workers(shout, ITEMS, task="testing", workers=2, start_method=start_method)
    texts, workers = zip(*(result for result in results if not isinstance(result, WorkerDeath)), strict=True)
    assert texts == ("B", "A", "D", "C")
    assert os.getpid() not in workers
    assert len(set(workers)) <= 2


def test_a_long_path_of_temporary_files_leaves_no_room_for_a_server(monkeypatch):
    for length, expected in ((70, "forkserver"), (71, "spawn")):
        monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * (length - 1))
        assert choose_start_method() == expected
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choose_start_method() == "spawn"


@pytest.mark.parametrize(
    ("start_method", "number"),
    [("forkserver", signal.SIGKILL), ("forkserver", signal.SIGSEGV), ("fork", signal.SIGKILL)],
)
def test_an_item_that_ends_its_worker_is_tried_twice_and_the_others_are_done(start_method, number, tmp_path, caplog):
    work = functools.partial(end_itself, number, "a", tmp_path)
    results = list(map_in_workers(work, ITEMS, task="testing", workers=2, start_method=start_method))
    assert [result for result in results if isinstance(result, str)] == ["b", "d", "c"]
    (death,) = [result for result in results if isinstance(result, WorkerDeath)]
    assert results[1] is death
    assert f"ended by {number.name}" in death.describe()
    assert ("memory runs out" in death.describe()) == (number == signal.SIGKILL)
    assert sorted(mark.name[0] for mark in tmp_path.iterdir()) == ["a", "a", "b", "c", "d"]
    assert f"testing: a worker process was ended by {number.name} at a; it is tried again, alone" in caplog.text


def test_a_worker_that_is_killed_once_costs_nothing(tmp_path):
    work = functools.partial(end_itself_once, tmp_path)
    assert list(map_in_workers(work, ITEMS, task="testing", workers=3)) == list(ITEMS)


def test_workers_that_cannot_start_are_told_apart():
    with pytest.raises(UsageError, match=r"testing: .* exit code 7 while they start.*--workers 1"):
        list(map_in_workers(DiesWhenStarting(), ITEMS, task="testing", workers=2))


def test_an_error_ends_the_work_and_keeps_its_traceback():
    with pytest.raises(ValueError, match="is bad") as raised:
        list(map_in_workers(fail, ITEMS, task="testing", workers=2))
    assert "in fail\n" in raised.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"UnsendableError: . and ."):
        list(map_in_workers(fail_unsendably, ITEMS, task="testing", workers=2))


def test_workers_at_work_are_gone_and_have_tidied_up_when_the_results_are_not_wanted(tmp_path):
    results = map_in_workers(functools.partial(wait_for_ever, tmp_path), ITEMS, task="testing", workers=2)
    assert next(results) == "b"
    workers = [int(path.name.split("-")[1]) for path in tmp_path.glob("?-*")]
    del results
    assert not any(psutil.pid_exists(worker) for worker in workers)
    assert not list(tmp_path.glob("temporary-*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent_and_the_script_needs_no_guard(number, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import functools, pathlib\n"
        "from autoseg.processes import map_in_workers\n"
        "from tests.test_processes import wait_for_ever\n"
        f"work = functools.partial(wait_for_ever, pathlib.Path({str(tmp_path)!r}))\n"
        "list(map_in_workers(work, ('a', 'd'), task='testing', workers=2))\n"
    )
    (scratch := tmp_path / "t").mkdir()
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "TMPDIR": str(scratch)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    while len(list(tmp_path.glob("?-*"))) < 2:
        assert parent.poll() is None
        time.sleep(0.02)
    workers = [psutil.Process(int(path.name.split("-")[1])) for path in tmp_path.glob("?-*")]
    parent.send_signal(number)
    assert parent.wait() == -number
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert (len(gone), alive) == (2, [])
    assert not list(tmp_path.glob("temporary-*"))
    assert not list(scratch.iterdir())


def test_a_long_silence_is_explained(monkeypatch, caplog):
    monkeypatch.setattr(processes, "SECONDS_OF_SILENCE", 0.0)
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LOOKS", 0.02)
    assert list(map_in_workers(functools.partial(sleep_and_give, 0.3), ITEMS, task="testing", workers=2)) == list(ITEMS)
    assert "testing: nothing was finished in the last 0 min; at work: b (process " in caplog.text


def sleep_and_give(seconds, item):
    time.sleep(seconds)
    return item
