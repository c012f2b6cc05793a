"""A trained network on disk and how training went.

Tested in tests/training/folds/test_checkpointing.py.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from autoseg.records.files import Record
from autoseg.records.names import FileName
from autoseg.records.network import Sizes
from autoseg.records.plan import hash_of
from autoseg.records.training import TrainingSpec

ForegroundFound = Literal["some", "none"]
"""Foreground that was predicted where patches have some."""


class Restart(Record):
    """A training that begins again with fresh weights, because it predicts nothing but background."""

    learning_rate: PositiveFloat
    """Highest learning rate from now on."""
    progress: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Fraction of the training that was done; the schedule covers the rest."""


class EpochHistory(Record):
    """One line of history.jsonl."""

    epoch: int
    """0-based."""
    step: int
    """Optimiser steps done at the end of this epoch."""
    seconds: float
    data_wait_fraction: float
    """Fraction of the epoch in which the device waited for the loader, [0, 1]."""
    train_loss: float | None
    validation_loss: float | None
    pseudo_dice: dict[str, float | None]
    """Dice over random validation patches by label: an indicator, not the fold's score. None: label not seen."""
    learning_rate: float
    peak_memory_bytes: int | None = None
    """Largest so far: what this training has reserved on a GPU, else what the process holds."""
    patch_size: Sizes | None = Field(default=None, exclude_if=lambda value: value is None)
    """Smaller patch of the last step, voxels, while patches grow; None: the configuration's own."""
    found_foreground: ForegroundFound | None = Field(default=None, exclude_if=lambda value: value is None)
    """Foreground predicted on patches of training and validation that have some; None: no patch has, or not known."""
    restart: Restart | None = Field(default=None, exclude_if=lambda value: value is None)
    """How the training begins again after this epoch; None: it goes on."""


class CompilingTrial(Record):
    """Whether the training call of a network is compiled, decided before the first step, with what was measured."""

    compiled: bool
    device: str
    """Type of the device that it was decided for: cpu or cuda."""
    steps_left: int
    """Number of steps that the decision was for; for a promised time at most, without loss and optimiser."""
    step_seconds: float | None = None
    """Time of forward and backward as they are; None: they did not fit into memory."""
    compiled_step_seconds: float | None = None
    """The same, compiled; None: not tried, or compiling failed."""
    compiling_seconds: float | None = None
    """Time that compiling took; None: not tried."""


class Checkpoint(Record):
    """The JSON beside a weights file, `<stem>.safetensors`; `checkpoint_last` holds the training state as well."""

    schema_version: Literal[1] = 1
    configuration: FileName
    fold: FileName
    """Index of the validation part as text, or `all`."""
    model_hash: str
    """Hash of all that the plan says about the model; weights serve no other plan."""
    cases_hash: str
    """Hash of the training cases' ids: on other cases the validation would not be held out. For a cascade also of the
    origins of its label maps."""
    data_hash: str = Field(default="", exclude_if=lambda value: value == "")
    """Hash of the files of the training and validation cases when training began: results of other files are outdated.
    Empty: not known, as in older and in exported checkpoints."""
    training: TrainingSpec
    """What was trained: the plan's, with the user's overrides."""
    weights: Literal["last", "average"] = "last"
    """Final weights: of the last step, or their moving average, whichever was better on validation patches."""
    epoch: int
    """Epochs completed."""
    step: int
    """Optimiser steps completed."""
    elapsed_seconds: float
    """Training time so far, over all resumed runs."""
    best_pseudo_dice: float | None = None
    average_pseudo_dice: float | None = None
    """Exponential moving average over epochs."""
    unvalidated: EpochHistory | None = Field(default=None, exclude_if=lambda value: value is None)
    """Epoch that is trained, and whose validation on patches a stop interrupted; a resumed training validates it."""
    finished: bool = False
    imported_from: str = ""
    """What another project's weights came from. It did not record cases_hash, step and, where that is 0,
    elapsed_seconds: they are empty or 0, and the training cannot resume. Empty: trained here."""
    seed: int = 0
    """Seed of the loader; batch n of a seed is always the same, so no generator state has to be stored."""
    loss_scale: float | None = None
    """Scale of the fp16 gradient scaler; None in other precisions."""
    loss_scale_steps: int = 0
    """Steps since that scale was last changed."""
    compiling: CompilingTrial | None = Field(default=None, exclude_if=lambda value: value is None)
    """What `--compile auto` measured and decided; a training that resumes keeps to it. None: nothing was measured."""


_IDENTITY = ("model_hash", "cases_hash", "data_hash", "seed", "epoch", "step", "elapsed_seconds")


def training_hash(checkpoint: Checkpoint) -> str:
    """Hash that tells finished trainings of one fold apart: a fold that was trained again has another one."""
    return hash_of(checkpoint.model_dump(mode="json", include=set(_IDENTITY)))


def map_origin(checkpoint: Checkpoint | None, content_hash: str) -> str:
    """Origin of a label map that weights made for the next cascade step on the grid of a preprocessed case.

    Args:
        checkpoint: Record of the weights.
        content_hash: That of the preprocessed case.
    """
    return hash_of([None if checkpoint is None else checkpoint.model_dump(mode="json"), content_hash])


def hash_of_cases(training: Sequence[str], origins: Sequence[str] = ()) -> str:
    """Value of `Checkpoint.cases_hash`.

    Args:
        training: Ids of the training cases.
        origins: Cascade: origins of the label maps of the previous step, in the order of the ids of all cases.
    """
    cases = sorted(training)
    return hash_of([cases, origins] if origins else cases)
