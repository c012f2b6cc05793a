"""What `autoseg verify` found in a workspace or model.

Tested in tests/stages/test_verify.py.
"""

from typing import Literal

from autoseg.records.files import Record


class Mismatch(Record):
    """A file that is damaged, or that does not belong to the others."""

    file: str
    what: str
    """What is wrong, as the end of a sentence that begins with the file."""
    command: str
    """Command or action that corrects it."""


class Verification(Record):
    """Everything that was compared, and what does not belong together."""

    schema_version: Literal[1] = 1
    checked: dict[str, int]
    """Number of files or cases that were compared, by kind."""
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]
    """Sentences about what could not be compared, and about what is unusual but not wrong."""
