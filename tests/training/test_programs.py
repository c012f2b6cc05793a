"""Programs that end with whoever started them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.costs.runs import Training
from autoseg.errors import TrainingError
from autoseg.locks import lock
from autoseg.records.workspace import Workspace
from autoseg.training import programs
from autoseg.training.programs import run_attached, train_in_program

ROOT = Path(__file__).resolve().parents[2]

# stands for `autoseg COMMAND`: a command that takes long, and says so when it is stopped
SLOW = """
import runpy, signal, sys, time
import autoseg.cli.main
def wait(_):
    print("started", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    time.sleep(60)
autoseg.cli.main.main = wait
sys.argv = ["attached"]
runpy.run_module("autoseg.cli.attached", run_name="__main__")
"""


def test_a_program_gives_its_code_its_messages_and_its_threads():
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS'], 'threads', file=sys.stderr); sys.exit(3)"
    assert run_attached([sys.executable, "-c", code], 7, lambda: False) == (3, "7 threads\n")


def test_a_program_whose_end_is_asked_for_stops_as_after_sigterm():
    asked = iter([False, False, True])
    began = time.monotonic()
    code, messages = run_attached([sys.executable, "-c", SLOW], 1, lambda: next(asked, True))
    assert (code, messages) == (143, "started\n")
    assert time.monotonic() - began < 50


def test_a_program_stops_when_its_starter_is_killed(tmp_path):
    outer = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE);"
        "print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", outer, SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as starter:
        assert starter.stdout is not None
        assert starter.stderr is not None
        assert starter.stderr.readline() == "started\n"
        starter.kill()
        assert starter.stderr.read() == "", "the pipe is closed when the program is gone too"


@pytest.fixture
def called(monkeypatch):
    """Commands that trainings run, which fail as autoseg does."""
    commands = []

    def run(command, threads, _should_end):
        commands.append((command[3:], threads))
        return 2, "some library's warning\nautoseg train: no such fold\n"

    monkeypatch.setattr(programs, "run_attached", run)
    monkeypatch.setattr(programs, "threads_of_worker", lambda: 4)
    return commands


def test_a_failed_training_has_the_message_of_its_command(called, tmp_path):
    with pytest.raises(TrainingError, match=r"^no such fold$"):
        train_in_program(Workspace(tmp_path), "cuda:1", Training("2d", "3"))
    assert called == [(["train", str(tmp_path), "-c", "2d", "-f", "3", "--device", "cuda:1", "-q"], 4)]


def test_the_program_of_a_dead_worker_is_waited_for(called, tmp_path, monkeypatch):
    path = Workspace(tmp_path).fold("2d", "0") / "training.lock"
    waited = []
    with lock(path, "trained"):

        def end_the_other(seconds):
            waited.append(seconds)
            path.unlink()

        monkeypatch.setattr("autoseg.training.programs.time.sleep", end_the_other)
        with pytest.raises(TrainingError):
            train_in_program(Workspace(tmp_path), "cpu", Training("2d", "0"))
    assert len(waited) == 1
    assert len(called) == 1
