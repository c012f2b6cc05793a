"""SIGTERM and SIGINT as a polite request."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("autoseg.train")


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the training after the current step, so that the checkpoint can be written.

    Args:
        stop: Set by a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def request_stop(number: int, _frame: FrameType | None) -> None:
        logger.warning("%s: stopping after this step and writing a checkpoint", signal.Signals(number).name)
        stop.set()

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
