"""Locks: one process at a time plans a workspace, selects in it, or trains a fold; others are told who does.

    planning.lock                             while plan writes; no fold may begin meanwhile
    selection.lock                            while select works on the workspace
    models/<configuration>/fold_<k>/training.lock     while the fold is trained; other folds may train beside it

A lock is a file that its holder creates, which fails if it exists (O_EXCL), and removes at the end. That works on local
and on network file systems and needs no lock of the system. The holder touches the file every 30 s. A lock is stale if
its process no longer runs, which its own machine can tell, or if it was not touched for five minutes, which other
machines go by; the next command takes it over. Times are those of the file system, so clocks may differ.
"""

import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import LockedError, RecordError, WriteError
from autoseg.records.files import naming_full_disk, read_record
from autoseg.records.lock import LockHolder
from autoseg.records.workspace import Workspace
from autoseg.system import host_name, machine_id, process_start
from autoseg.text import format_duration, format_this_command

logger = logging.getLogger("autoseg.locks")

SECONDS_BETWEEN_SIGNS = 30.0
"""Interval in which a holder touches its lock."""

SECONDS_UNTIL_STALE = 300.0
"""A lock of another machine that was not touched for so long is stale."""

MAX_START_DIFFERENCE = 5.0
"""Largest difference in seconds between two answers of the system about the start of one process."""


@dataclass(frozen=True)
class FoundLock:
    """A lock file of somebody."""

    path: Path
    holder: LockHolder | None
    """None: the file cannot be understood, because it is being written, or damaged."""
    silent_seconds: float
    """Time since its last sign of life."""

    @property
    def token(self) -> str:
        """Text that no other lock has, but for those that cannot be read."""
        return "unreadable" if self.holder is None else self.holder.token

    @property
    def is_stale(self) -> bool:
        """Whether its holder is gone."""
        if self.holder is None or not self.holder.machine or self.holder.machine != machine_id():
            return self.silent_seconds > SECONDS_UNTIL_STALE
        return not _is_running(self.holder)

    def describe(self) -> str:
        """Who holds it, as one sentence without an end."""
        if self.holder is None:
            return f"{self.path}: a lock that cannot be read, {format_duration(self.silent_seconds)} old"
        age = format_duration(max(0.0, _now(self.path.parent) - self.holder.began))
        who = f"process {self.holder.pid} on {self.holder.host}"
        return (
            f"{self.path}: it is being {self.holder.what} by {who} for {age}, "
            f"last sign of life {format_duration(self.silent_seconds)} ago ({self.holder.command})"
        )


@contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock inside the context; a stale one is taken over, with a warning.

    Args:
        path: The lock file; its folder is created when missing.
        what: What is done, see `LockHolder`.

    Raises:
        LockedError: If another process holds it; says which one, and for how long.
    """
    holder = _describe_this_process(what)
    path.parent.mkdir(parents=True, exist_ok=True)
    while not (_create(path, holder) or _take_over(path, holder)):
        pass
    ended = threading.Event()
    beating = threading.Thread(target=_show_life, args=(path, holder.token, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        if _is_ours(path, holder.token):
            path.unlink(missing_ok=True)


def find_lock(path: Path) -> FoundLock | None:
    """The lock at a path, stale or not; None if there is none."""
    try:
        changed = path.stat().st_mtime
    except OSError:
        return None
    return FoundLock(path, _read_holder(path), max(0.0, _now(path.parent) - changed))


def find_locks(workspace: Workspace) -> list[FoundLock]:
    """All locks of a workspace, stale or not."""
    top = workspace.planning_lock, workspace.selection_lock
    paths = [*top, *sorted((workspace.root / "models").glob("*/fold_*/training.lock"))]
    found = [find_lock(path) for path in paths]
    return [lock for lock in found if lock is not None]


def find_writers(workspace: Workspace) -> list[FoundLock]:
    """Locks of a workspace whose holders are at work."""
    return [lock for lock in find_locks(workspace) if not lock.is_stale]


def refuse_planning(workspace: Workspace) -> None:
    """Refuse to begin while the workspace is planned.

    Raises:
        LockedError: If another process plans it.
    """
    found = find_lock(workspace.planning_lock)
    if found is not None and not found.is_stale:
        raise LockedError(f"{found.describe()}. {_ADVICE}")


def refuse_trainings(workspace: Workspace, reason: str) -> None:
    """Refuse to begin while folds are trained or compared.

    Args:
        workspace: Its trainings.
        reason: Why it is not possible, as a sentence.

    Raises:
        LockedError: If a fold is trained, or select is at work; lists all.
    """
    writers = [found for found in find_writers(workspace) if found.path != workspace.planning_lock]
    if writers:
        raise LockedError("\n".join([*(found.describe() for found in writers), f"{reason} {_ADVICE}"]))


def warn_of_writers(workspace: Workspace) -> None:
    """Warn whoever reads a workspace that somebody writes to it."""
    for found in find_writers(workspace):
        logger.warning("warning: %s; results may be those of before or after it", found.describe())


_ADVICE = "Wait until it ends, or end it; if it does not run any more, delete the lock file."


def _describe_this_process(what: str) -> LockHolder:
    return LockHolder(
        token=secrets.token_hex(8),
        what=what,
        command=format_this_command(),
        host=host_name(),
        machine=machine_id(),
        pid=os.getpid(),
        process_started=process_start(os.getpid()),
        began=time.time(),
    )


def _create(path: Path, holder: LockHolder) -> bool:
    """Make the lock file unless it exists."""
    try:
        opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with naming_full_disk(path), os.fdopen(opened, "wb") as file:
            file.write(holder.model_dump_json(indent=1).encode() + b"\n")
    except (OSError, WriteError):
        path.unlink(missing_ok=True)
        raise
    return True


def _take_over(path: Path, holder: LockHolder) -> bool:
    """Put this process's lock in the place of a stale one; refuse if its holder is at work.

    Who takes over first makes a claim that names the stale lock; of many, one can. The lock is there all the time, so
    nobody can make it meanwhile. A claim whose process is gone is itself claimed.

    Returns:
        Whether the lock is held now; False: it was released or taken over in between, look again.
    """
    stale: list[FoundLock] = []
    claim = path
    while (found := find_lock(claim)) is not None:
        if not found.is_stale:
            raise LockedError(f"{found.describe()}. {_ADVICE}")
        stale.append(found)
        claim = path.with_name(f"{path.name}.{found.token}")
    if not stale or not _create(claim, holder):
        return False
    now = find_lock(path)
    if now is None or now.token != stale[0].token:
        claim.unlink(missing_ok=True)
        return False
    claim.replace(path)
    for found in stale[1:]:
        found.path.unlink(missing_ok=True)
    logger.warning("warning: %s: its process does not run any more; the lock is taken over", _name_holder(stale[0]))
    return True


def _name_holder(found: FoundLock) -> str:
    if found.holder is None:
        return f"{found.path} cannot be read"
    return f"{found.path} was left by process {found.holder.pid} on {found.holder.host}"


def _show_life(path: Path, token: str, ended: threading.Event) -> None:
    """Touch the lock until the end; say once if it is gone."""
    while not ended.wait(SECONDS_BETWEEN_SIGNS):
        if not _is_ours(path, token):
            if not ended.is_set():
                logger.warning("warning: %s was deleted or taken over; others may write the same files now", path)
            return
        with suppress(OSError):  # a network drive that is away for a moment
            os.utime(path)


def _is_ours(path: Path, token: str) -> bool:
    holder = _read_holder(path)
    return holder is not None and holder.token == token


def _read_holder(path: Path) -> LockHolder | None:
    try:
        return read_record(LockHolder, path)
    except RecordError:
        return None


def _is_running(holder: LockHolder) -> bool:
    """Whether the process of a lock that was made on this machine is still there."""
    started = process_start(holder.pid)
    if started is None or holder.process_started is None:
        return started is not None
    return abs(started - holder.process_started) <= MAX_START_DIFFERENCE


def _now(folder: Path) -> float:
    """Time of the file system that a folder is on, seconds since 1970; of this machine where it cannot be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
