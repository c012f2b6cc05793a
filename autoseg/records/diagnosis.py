"""What `autoseg doctor` finds: the machine, and the state of a workspace.

Tested in tests/cli/test_doctor.py and tests/cli/test_doctor_workspace.py.
"""

from typing import Literal

from autoseg.records.files import Record


class LockState(Record):
    """A lock of a workspace."""

    description: str
    """What is locked, and by which process."""
    is_stale: bool
    """Whether its process does not run any more."""


class WorkspaceDiagnosis(Record):
    """What was found in a workspace, and what was corrected."""

    workspace: str
    locks: tuple[LockState, ...]
    damage: dict[str, dict[str, str]]
    """What is wrong with preprocessed cases, by configuration and case."""
    is_repaired: bool
    """Whether all of it was corrected, because that was asked for."""
    removed: tuple[str, ...] = ()
    """Locks and temporary files that were removed."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is left to correct."""
        return self.is_repaired or not (self.damage or any(lock.is_stale for lock in self.locks))


class Diagnosis(Record):
    """The document of `autoseg doctor --json`."""

    schema_version: Literal[1] = 1
    machine: dict[str, str]
    """Rows of the table, by name."""
    workspace: WorkspaceDiagnosis | None
    """None: no workspace was given."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is left to correct."""
        return self.workspace is None or self.workspace.is_sound
