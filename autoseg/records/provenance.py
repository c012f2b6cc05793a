"""Where a result comes from: the command, the versions and the inputs that made it.

Tested in tests/test_provenance.py.
"""

from typing import Literal

from pydantic import Field

from autoseg.records.files import Record


class Provenance(Record):
    """Command, versions and inputs of one result; times and names of machines are in the logs."""

    schema_version: Literal[1] = 1
    command: str
    """Command line, quoted for a shell."""
    autoseg_version: str
    python: str
    """Version of Python, system and processor."""
    libraries: dict[str, str]
    """Versions of the packages that autoseg needs, by name."""
    device: str
    """Device of the networks; empty: none was used."""
    seed: int | None
    """Seed of the training; None: there is none."""
    plan_hash: str
    """Hash of the plan; empty: there was none."""
    data_hash: str
    """Hash of the files of all cases, as they were planned; empty: not known, as for imported models."""
    weights_of_other_plans: tuple[str, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Configuration and fold of networks that were trained for another plan and used all the same."""
