"""Manifest of an exported model: what it is, and the hashes by which readers detect alterations.

Tested in tests/stages/test_export.py.
"""

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from autoseg.records.dataset import LabelValues
from autoseg.records.files import FieldFault, Record, refuse_faults
from autoseg.records.names import FileName

MANIFEST_NAME = "manifest.json"
"""Name of the manifest at the top level of an exported model."""


class FileFacts(Record):
    """Size and content of one file."""

    bytes: NonNegativeInt
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PretrainedEncoder(Record):
    """Published weights that the encoder of a network started from, and under which terms."""

    name: str
    trained_on: str
    license: str
    """SPDX identifier."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Hash of the published file."""
    package: str
    """Distribution that the file came with."""


class Manifest(Record):
    """Description of an exported model and list of all its other files."""

    schema_version: Literal[1] = 1
    format: Literal["autoseg", "onnx", "nnunet"]
    """Content: `autoseg`, the layout of a workspace; `onnx`, a network and a JSON file per configuration and fold;
    `nnunet`, a dataset's folder among nnU-Net's results."""
    created: str
    """Date in UTC, YYYY-MM-DD."""
    license: str
    """License stated by the person who exported the model; empty: not stated."""
    autoseg_version: str
    torch_version: str
    numpy_version: str
    plan_hash: str = Field(default="", exclude_if=lambda value: value == "")
    """Hash of the plan that was trained, as `provenance` in its workspace has it; empty in older files."""
    pretrained: tuple[PretrainedEncoder, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Published weights that trainings of this model started from."""
    requires: tuple[str, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Distributions that the networks need beside autoseg."""
    dataset_name: str
    channel_names: tuple[str, ...]
    labels: dict[str, LabelValues]
    """Name -> value(s) in label maps."""
    configurations: dict[FileName, tuple[FileName, ...]]
    """Folds by configuration, previous steps of cascades included."""
    selected: tuple[FileName, ...]
    """Configurations that predict by default; the probabilities of several are averaged."""
    checkpoint: Literal["final", "best"]
    """Kind of the training's weights; the files of the exported model are called final."""
    mean_foreground_dice: float | None
    """Cross-validated mean foreground Dice of the selected model; None: not known."""
    label_dice: dict[str, float | None]
    """Cross-validated Dice of each label or region after post-processing; empty: not known."""
    files: dict[str, FileFacts]
    """All other files by their path relative to this file, POSIX separators."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_faults(_find_path_faults(self.files))
        return self


def _find_path_faults(files: dict[str, FileFacts]) -> list[FieldFault]:
    return [(("files", name), "leaves the model's folder") for name in files if _leaves_folder(name)]


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name)
    is_absolute = path.is_absolute() or bool(PureWindowsPath(name).drive)
    return not path.parts or is_absolute or ".." in path.parts or any(mark in name for mark in "\\\0")
