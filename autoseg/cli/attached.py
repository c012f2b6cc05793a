"""A command that ends when the program that started it is gone: `python -m autoseg.cli.attached COMMAND ...`.

Its standard input is the read end of a pipe of that program, which the system closes with it, however it ended.

Tested in tests/training/test_programs.py.
"""

import os
import signal
import sys
import threading
import time

SECONDS_TO_END = 30.0
"""Time that the command gets to write a checkpoint."""


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    from autoseg.cli.main import main

    threading.Thread(target=_end_with_starter, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
