"""Log lines of a fold: its own file, and silence of all processes but the first.

Tested in tests/stages/test_train.py.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from typing_extensions import override

logger = logging.getLogger("autoseg.train")


class _LogFile(logging.FileHandler):
    """A log file that stops at the first line that cannot be written; training goes on until it has to write itself."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Say once why the log ends."""
        logging.getLogger("autoseg").removeHandler(self)
        with suppress(OSError):  # the line that could not be written is still in the stream
            self.close()
        logger.warning("%s ends here: it cannot be written (%s)", self.baseFilename, sys.exc_info()[1])


@contextmanager
def fold_log(folder: Path) -> Iterator[None]:
    """Write autoseg's log lines to `log.txt` in the fold's folder too; a resumed training appends."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    logger = logging.getLogger("autoseg")
    level = logger.level
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)  # called from Python, where nobody set up logging
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


@contextmanager
def warnings_only() -> Iterator[None]:
    """Only the first of several processes logs how training goes; the others log what goes wrong with them."""
    autoseg = logging.getLogger("autoseg")
    level = autoseg.level
    autoseg.setLevel(logging.WARNING)
    try:
        yield
    finally:
        autoseg.setLevel(level)
