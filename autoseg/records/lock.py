"""The command that writes in a part of a workspace, as its lock file names it.

Tested in tests/test_locks.py.
"""

from typing import Annotated, Literal

from pydantic import Field

from autoseg.records.files import Record


class LockHolder(Record):
    """Content of a lock file: which process made it. The file's time of change is its last sign of life."""

    schema_version: Literal[1] = 1
    token: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,64}$")]
    """Random text that no other lock has; who takes a stale lock over makes a file of that name."""
    what: str
    """What it does, as the end of `... is being`: `planned`, or `trained (3d_fullres, fold 0)`."""
    command: str
    """Command line, quoted for a shell."""
    host: str
    machine: str
    """Text that differs between machines, between starts of one machine and between containers; empty: not known."""
    pid: int
    process_started: float | None
    """Start of the process, seconds after that of the system: numbers of processes are given again. None: not known."""
    began: float
    """When the lock was made, seconds since 1970."""
