"""Signals that end a training after the current step, so that it can be resumed.

Tested in tests/training/folds/test_training.py and tests/stages/test_train.py.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("autoseg.train")

STOPPING_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals after which a training writes a checkpoint and ends; Windows has only some of them."""


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let signals end the training after the current step, so that the checkpoint can be written.

    They are SIGINT, SIGTERM, SIGHUP and SIGUSR1, as far as the system has them and they were not ignored before.

    Args:
        stop: Event that a signal sets.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def request_stop(number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            logger.warning("%s: stopping after this step and writing a checkpoint", signal.Signals(number).name)
        stop.set()

    numbers = [getattr(signal, name) for name in STOPPING_SIGNALS if hasattr(signal, name)]
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    handlers = {number: signal.signal(number, request_stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
