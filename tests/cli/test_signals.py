"""Signals: exit code, one sentence, further signals, and code that cannot be interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.cli import main as cli
from autoseg.cli.main import main

SCRIPT = """
import signal, sys, time
from types import SimpleNamespace
from autoseg.cli import main, signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
{before}
def run(_arguments):
    {work}
    return 0
module = main._module_of("report")
main._module_of = lambda _name: SimpleNamespace(add_arguments=module.add_arguments, run=run)
sys.argv = ["autoseg", "report", "nowhere"]
sys.exit(main.main())
"""

SLEEP = "print('begun', flush=True); time.sleep(60)"

EXTENSION = """
import ctypes
ctypes.pythonapi.PyRun_String.restype = ctypes.py_object
ctypes.pythonapi.PyRun_String.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.py_object, ctypes.py_object]
scope = {}
"""

DEAF = """
    while True:
        try:
            print("begun", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def start(work: str, before: str = "", module: Path | None = None) -> "subprocess.Popen[str]":
    """A command that does this work, once it has begun; as a module, if a file for it is given."""
    script = SCRIPT.format(work=work, before=before)
    words, paths = ["-c", script], sys.path
    if module is not None:
        module.write_text(script)
        words, paths = ["-m", module.stem], [str(module.parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_a_command_with_its_own_code_and_one_sentence(number):
    process = start(SLEEP)
    process.send_signal(number)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert messages == f"autoseg report: interrupted by {number.name}; run the same command again to resume\n"


def test_code_that_an_extension_module_runs_does_not_change_the_exit_code(tmp_path):
    code = "import time; print('begun', flush=True); time.sleep(60)"
    work = f"ctypes.pythonapi.PyRun_String({code.encode()!r}, 257, scope, scope)"
    process = start(work, EXTENSION, tmp_path / "interrupted_module.py")
    process.send_signal(signal.SIGUSR1)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 138
    assert messages == "autoseg report: interrupted by SIGUSR1; run the same command again to resume\n"


def test_a_signal_while_the_terminal_is_set_up_is_one_sentence_too():
    slow = "terminal.set_up_logging = lambda **_: (print('begun', flush=True), time.sleep(60))"
    process = start("pass", before=f"from autoseg.cli import terminal\n{slow}")
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 143
    assert messages == "autoseg report: interrupted by SIGTERM; run the same command again to resume\n"


def test_a_second_interruption_ends_a_command_that_does_not_end():
    process = start(DEAF)
    while process.poll() is None:  # two within half a second count as one
        process.send_signal(signal.SIGINT)
        time.sleep(0.7)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 130
    assert messages.endswith("(stopped at once by a second Ctrl-C)\n")


def test_a_command_that_does_not_end_is_ended():
    process = start(DEAF, before="signals.SECONDS_TO_TIDY_UP = 0.3")
    process.send_signal(signal.SIGUSR1)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 138
    assert messages.count("\n") == 1
    assert "interrupted by SIGUSR1" in messages


def test_a_signal_after_the_end_does_not_change_the_exit_code():
    process = start(
        "print('begun', flush=True)",
        before="import atexit; atexit.register(lambda: (print('ended', flush=True), time.sleep(1)))",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ended\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_ignored_signals_stay_ignored():
    process = start(
        "print('begun', flush=True); time.sleep(0.5)", before="signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    )
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_what_ends_in_an_error_after_a_signal_has_the_code_of_the_signal_and_handlers_are_put_back(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    module = cli._module_of("report")

    class Module:
        add_arguments = staticmethod(module.add_arguments)

        @staticmethod
        def run(_arguments):
            signal.signal(signal.SIGTERM, lambda *_: None)  # as a training does
            signal.raise_signal(signal.SIGTERM)
            return cli.SOME_FAILED

    monkeypatch.setattr(cli, "_module_of", lambda _name: Module)
    assert main(["report", "nowhere"]) == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
