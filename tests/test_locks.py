"""Locks: one holder at a time, said with host, process and age; those of processes that are gone are taken over."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from autoseg import locks
from autoseg.errors import LockedError
from autoseg.locks import find_lock, find_locks, find_writers, lock, refuse_planning, refuse_trainings, warn_of_writers
from autoseg.records.workspace import Workspace


@pytest.fixture
def path(tmp_path):
    return tmp_path / "models" / "2d" / "fold_0" / "training.lock"


def change(path, **values):
    """Other values in a lock file, with its time of change as it was."""
    changed = path.stat().st_mtime_ns
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    os.utime(path, ns=(changed, changed))


def hold(path, **values):
    """Make a lock that nobody will release, of this process unless the values say otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    locks._create(path, locks._describe_this_process("trained (2d, fold 0)"))
    change(path, **values)


def silence(path, seconds):
    """Let the last sign of life be so long ago."""
    before = time.time() - seconds
    os.utime(path, (before, before))


def test_a_second_holder_is_told_who_is_first_and_since_when(path):
    with lock(path, "trained (2d, fold 0)"):
        change(path, host="rad7", command="autoseg train x -f 0", began=time.time() - 7500)
        expected = (
            rf"training\.lock: it is being trained \(2d, fold 0\) by process {os.getpid()} on rad7 for 2 h 5 min, last "
            r"sign of life \d s ago \(autoseg train x -f 0\)\. Wait until it ends, or end it; if it does not run any "
            "more, delete the lock file"
        )
        with pytest.raises(LockedError, match=expected), lock(path, "trained (2d, fold 0)"):
            pass
    assert not path.exists()


def test_a_lock_is_released_after_an_error_too(path):
    with pytest.raises(ZeroDivisionError), lock(path, "planned"):
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.parametrize(
    ("values", "is_gone"),
    [
        ({}, False),
        ({"pid": 2**22 + 1}, True),
        ({"process_started": 12.5}, True),
        ({"process_started": None}, False),
    ],
)
def test_here_a_lock_is_as_alive_as_its_process(path, values, is_gone, caplog):
    hold(path, **values)
    silence(path, 1e6)
    found = find_lock(path)
    assert found is not None
    assert found.is_stale == is_gone
    if is_gone:
        with lock(path, "planned"):
            assert json.loads(path.read_text())["what"] == "planned"
        (message,) = caplog.messages
        assert "does not run any more; the lock is taken over" in message
        assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("seconds", "is_gone"), [(10, False), (250, False), (350, True)])
@pytest.mark.parametrize("machine", ["another machine", ""])
def test_elsewhere_a_lock_is_as_alive_as_its_last_sign(path, machine, seconds, is_gone):
    hold(path, machine=machine, host="far", pid=2**22 + 1)
    silence(path, seconds)
    found = find_lock(path)
    assert found is not None
    assert found.is_stale == is_gone


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_lock_that_cannot_be_read_counts_until_it_is_old(path, content):
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(LockedError, match="a lock that cannot be read, 0 s old"), lock(path, "planned"):
        pass
    silence(path, 400)
    with lock(path, "planned"):
        assert json.loads(path.read_text())["what"] == "planned"


def test_a_killed_process_leaves_a_lock_that_is_taken_over_at_once(path, caplog):
    script = (
        "import sys, time; from pathlib import Path; from autoseg.locks import lock\n"
        "with lock(Path(sys.argv[1]), 'planned'):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} on "), lock(path, "planned"):
            pass
        process.kill()
        while process.poll() is None and find_writers(Workspace(path.parents[3])):
            time.sleep(0.01)  # dead, and not yet noticed by its parent: gone as well
        with lock(path, "planned"):
            pass
    assert f"left by process {process.pid} on" in caplog.messages[0]


def test_a_holder_shows_that_it_lives(path, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_SIGNS", 0.01)
    with lock(path, "planned"):
        silence(path, 1000)
        deadline = time.monotonic() + 20
        while path.stat().st_mtime < time.time() - 500 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > time.time() - 500


def test_a_holder_that_lost_its_lock_says_so_once_and_leaves_that_of_the_other(path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_SIGNS", 0.01)
    with lock(path, "planned"):
        change(path, token="other")
        deadline = time.monotonic() + 20
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    assert json.loads(path.read_text())["token"] == "other"
    (message,) = caplog.messages
    assert "was deleted or taken over" in message


@pytest.mark.parametrize("claimed", [False, True])
def test_of_many_that_try_at_once_one_takes_over_a_stale_lock(path, claimed):
    """Also where the process that took it over before was killed while it did."""
    for _ in range(20):
        hold(path, pid=2**22 + 1, token="first")
        if claimed:
            hold(path.with_name("training.lock.first"), pid=2**22 + 1, token="second")
        holding: list[int] = []
        most: list[int] = []
        refused: list[int] = []
        start = threading.Barrier(8)

        def try_to_hold(start=start, holding=holding, most=most, refused=refused):
            start.wait()
            try:
                with lock(path, "planned"):
                    holding.append(1)
                    most.append(len(holding))
                    time.sleep(0.002)
                    holding.pop()
            except LockedError:
                refused.append(1)

        threads = [threading.Thread(target=try_to_hold) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 1
        assert len(most) + len(refused) == 8
        assert list(path.parent.iterdir()) == []


def test_a_claim_on_a_lock_that_was_taken_over_meanwhile_is_given_back(path, monkeypatch):
    hold(path, pid=2**22 + 1)
    create = locks._create

    def create_late(place, holder):
        if place != path:
            change(path, token="faster", pid=os.getpid(), process_started=None)
        return create(place, holder)

    monkeypatch.setattr(locks, "_create", create_late)
    with pytest.raises(LockedError, match=f"by process {os.getpid()}"), lock(path, "planned"):
        pass
    assert [found.name for found in path.parent.iterdir()] == ["training.lock"]


def test_a_lock_whose_token_would_be_another_path_cannot_be_read(path):
    hold(path, token="../../x")
    found = find_lock(path)
    assert found is not None
    assert found.holder is None


def test_planning_and_training_are_refused_by_each_other_only_while_they_run(tmp_path):
    workspace = Workspace(tmp_path)
    refuse_planning(workspace)
    refuse_trainings(workspace, "No.")
    with lock(workspace.planning_lock, "planned"):
        with pytest.raises(LockedError, match=r"planning\.lock: it is being planned by process"):
            refuse_planning(workspace)
        refuse_trainings(workspace, "No.")
    with (
        lock(workspace.training_lock("2d", "0"), "trained (2d, fold 0)"),
        lock(workspace.training_lock("2d", "all"), "trained (2d, fold all)"),
    ):
        refuse_planning(workspace)
        with pytest.raises(LockedError, match=r"fold_0/.*\n.*fold_all/.*\nThis would change it\. Wait until"):
            refuse_trainings(workspace, "This would change it.")
        assert [found.path.parent.name for found in find_locks(workspace)] == ["fold_0", "fold_all"]


def test_readers_are_told_of_writers_and_of_nothing_else(tmp_path, caplog):
    workspace = Workspace(tmp_path)
    warn_of_writers(workspace)
    hold(workspace.training_lock("2d", "1"), pid=2**22 + 1)
    warn_of_writers(workspace)
    assert caplog.messages == []
    with lock(workspace.training_lock("2d", "0"), "trained (2d, fold 0)"):
        warn_of_writers(workspace)
    (message,) = caplog.messages
    assert "fold_0" in message
    assert "results may be those of before or after it" in message
