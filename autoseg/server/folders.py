"""The server's temporary folder: all that clients send lies in it, and it is emptied even after the server was killed.

TMPDIR/autoseg-server-RANDOM/   readable by its owner alone
    server.lock                 names the process; without it, or when that process is gone, the folder is abandoned
    RANDOM/                     one job, or one stored image
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.locks import find_lock, lock

PREFIX = "autoseg-server-"

LOCK_NAME = "server.lock"

SECONDS_TO_LOCK = 60.0
"""A folder without a lock that is younger belongs to a server that is just starting."""


@contextmanager
def open_server_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make the folder, after those of servers that are gone were removed; it is removed at the end.

    Args:
        parent: Folder for temporary files; None: that of the system, which TMPDIR names.

    Raises:
        OSError: If no folder can be made there.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep_server_folders(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with lock(folder / LOCK_NAME, "served"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_server_folders(parent: Path) -> None:
    """Remove the folders of servers that are gone; what belongs to other users stays."""
    for folder in parent.glob(f"{PREFIX}*"):
        if folder.is_dir() and not folder.is_symlink() and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    found = find_lock(folder / LOCK_NAME)
    if found is not None:
        return found.is_stale
    try:
        return time.time() - folder.stat().st_mtime > SECONDS_TO_LOCK
    except OSError:  # another server removed it meanwhile
        return False
