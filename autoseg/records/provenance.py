"""Where a result comes from: the command, the versions and the inputs that made it.

Tested in tests/test_provenance.py.
"""

from typing import Literal

from pydantic import Field

from autoseg.records.files import Record


class InputFile(Record):
    """An image that was predicted."""

    path: str
    """Path of the file as it was given, or in the folder that was given."""
    sha256: str = ""
    """SHA-256 of the file; of a folder, that of the lines `HASH  NAME` of all its files, sorted by name. Empty: the
    image was not predicted in this run."""


class CaseProvenance(Record):
    """How one case of a prediction went."""

    case: str
    state: Literal["predicted", "kept", "failed"]
    """kept: its label map existed and stayed; the entry is that of the run that wrote it, as far as that is known."""
    inputs: tuple[InputFile, ...]
    """One file, or one for each channel."""
    output: str
    """Name of the label map, beside this record; empty: there is none."""
    error: str = ""
    """Reason why it failed."""
    warnings: tuple[str, ...] = ()
    """Assumptions of the reader, and deviations of the image from the training images; one sentence each."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Seconds by step: read, preprocess, network, export, write."""


class Provenance(Record):
    """Command, versions and inputs of one result; of times, only the seconds of predicted cases."""

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
    decision: str = Field(default="", exclude_if=lambda value: value == "")
    """How the labels of a prediction followed from probabilities; empty: not a prediction."""
    weights_hash: str = Field(default="", exclude_if=lambda value: value == "")
    """Hash of the weights of all networks that predicted."""
    cases: tuple[CaseProvenance, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Cases of a prediction, in the order of the run."""
