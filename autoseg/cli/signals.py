"""Signals that end a command: one sentence, no traceback, the exit code 128 + number, within ten seconds.

The first one interrupts the command, which tidies up and ends; a training finishes its step and writes a checkpoint
(`autoseg.training.folds.training`). A thread watches over that: a second Ctrl-C, or code of a library that cannot be
interrupted, ends the process at once. Worker processes follow. Files are complete in any case, since each is written
under a temporary name.

Tested in tests/cli/test_signals.py.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C; batch systems and service managers; a closed terminal; batch systems that start the command again later."""

SECONDS_TO_TIDY_UP = 9.0
"""Time from the first signal to the end of the process at the latest."""

SECONDS_OF_ONE_KEY = 0.5
"""One Ctrl-C may arrive twice within this time, from the terminal and from a program that passes it on."""

SIGNALLED = 128
"""Added to the number of a signal, it is the exit code, as shells count."""


class Interruption(KeyboardInterrupt):
    """A signal interrupts the command.

    Not KeyboardInterrupt itself: Python ends a process by SIGINT, whatever its exit code, if that one passed through
    code that an extension module ran, as torch does while it is imported.
    """


class SignalWatch:
    """What is known of the signals that a command was sent."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.first: signal.Signals | None = None
        """The signal that ends the command; None until there is one."""

    def exit_code(self, code: int) -> int:
        """Exit code of a command that would end with `code`: that of the signal, unless all was done before."""
        return code if self.first is None or code == 0 else SIGNALLED + self.first

    def follow(self, reading: socket.socket) -> None:
        """Take signals from the interpreter until the socket is closed; runs in a thread."""
        numbers = _ending_numbers()
        began: float | None = None
        while True:
            if began is not None:
                reading.settimeout(max(0.01, began + SECONDS_TO_TIDY_UP - time.monotonic()))
            try:
                received = reading.recv(1)
            except TimeoutError:
                self._leave(f"not at rest after {SECONDS_TO_TIDY_UP:.0f} s, stopped at once")
            if not received:
                return
            number = received[0]
            if number in numbers and began is None:
                began = time.monotonic()
                self.take(number)
            elif number == signal.SIGINT and began is not None and time.monotonic() - began > SECONDS_OF_ONE_KEY:
                self._leave("stopped at once by a second Ctrl-C")

    def take(self, number: int) -> None:
        """Note a signal; the first one counts."""
        if self.first is None:
            self.first = signal.Signals(number)

    def describe(self) -> str:
        """Say what ended the command, in one line for the terminal."""
        name = signal.SIGINT.name if self.first is None else self.first.name
        return f"autoseg {self.command}: interrupted by {name}; run the same command again to resume"

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Handle the first signal; what the command does to tidy up is not interrupted by further ones."""
        self.take(number)
        for ending in _ending_numbers():
            if not _is_ignored(ending):
                signal.signal(ending, _go_on)
        raise Interruption

    def _leave(self, how: str) -> NoReturn:
        print(f"{self.describe()} ({how})", file=sys.stderr, flush=True)
        os._exit(self.exit_code(SIGNALLED + signal.SIGINT))


@contextmanager
def ending_on_signals(command: str) -> Iterator[SignalWatch]:
    """Interrupt the command (KeyboardInterrupt) at the first signal that ends it; ignored signals stay ignored.

    Args:
        command: Name of the command, for messages.

    Yields:
        The watch, which knows the signal afterwards.
    """
    watch = SignalWatch(command)
    if threading.current_thread() is not threading.main_thread():
        yield watch  # signals reach the main thread only
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    thread = threading.Thread(target=watch.follow, args=(reading,), daemon=True)
    earlier_descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    earlier = {
        number: signal.signal(number, watch.interrupt) for number in _ending_numbers() if not _is_ignored(number)
    }
    thread.start()
    try:
        yield watch
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_descriptor)
        writing.close()
        thread.join()
        reading.close()


def ignore_ending_signals() -> None:
    """Let the process end with the exit code that it has; the interpreter takes a while to take itself down."""
    for number in _ending_numbers():
        signal.signal(number, signal.SIG_IGN)


def _ending_numbers() -> list[int]:
    """Numbers of the signals that end a command; Windows has only some of them."""
    return [getattr(signal, name) for name in ENDING_SIGNALS if hasattr(signal, name)]


def _is_ignored(number: int) -> bool:
    """Whether whoever started this process wants it to survive the signal, as nohup does."""
    return signal.getsignal(number) == signal.SIG_IGN


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Do nothing in the main thread; the watching thread learns of the signal all the same."""
