"""Temporary names beside what is being written, and removal of those that a killed process left behind.

    .autoseg-HOST-PROCESS-RANDOM.NAME

Host and process say whether whoever writes there is still at work, so that two commands never remove each other's.

Tested in tests/records/test_temporaries.py.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

SECONDS_UNTIL_OLD = 24 * 3600.0
"""Age from which a temporary file is a leftover wherever it was written: no file takes a day without being changed."""

MAX_NAME_BYTES = 255
"""Longest name of common file systems."""

_NAME = re.compile(r"\.autoseg-(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.")


def name_temporary(path: Path) -> Path:
    """A hidden path beside `path` that nothing else uses, with the same ending; a long name loses its beginning."""
    start = f".autoseg-{_host()}-{os.getpid()}-{secrets.token_hex(4)}."
    kept = path.name.encode("utf-8", "surrogateescape")[-(MAX_NAME_BYTES - len(start)) :]
    return path.with_name(start + kept.decode("utf-8", "ignore"))


def is_temporary(name: str) -> bool:
    """Whether `name_temporary` made this name."""
    return _NAME.match(name) is not None


def sweep_temporaries(folder: Path, *, recursive: bool = False) -> None:
    """Remove temporary files and folders of processes that are gone; what cannot be removed stays.

    On this host a process is asked for; elsewhere a day without a change counts as gone.

    Args:
        folder: Folder that a command is about to write to; it may be missing.
        recursive: Whether folders below are swept too.
    """
    for path in _temporaries(folder, recursive=recursive):
        with suppress(OSError):  # another command sweeps too, or may remove what this one may not
            if not _is_abandoned(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _temporaries(folder: Path, *, recursive: bool) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in (*folders, *files) if is_temporary(name))
        if not recursive:
            return
        folders[:] = [name for name in folders if not is_temporary(name)]


def _is_abandoned(path: Path) -> bool:
    match = _NAME.match(path.name)
    if match is None:
        return False
    if match["host"] == _host() and not psutil.pid_exists(int(match["process"])):
        return True
    return time.time() - path.lstat().st_mtime > SECONDS_UNTIL_OLD


def _host() -> str:
    """Eight digits for this machine or container: numbers of processes mean the same where they are equal."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # only Linux has several
        namespace = 0
    return hashlib.blake2b(f"{socket.gethostname()} {namespace}".encode(), digest_size=4).hexdigest()
