"""Unlabelled images that a workspace learns from, and what came of it.

Tested in tests/stages/test_learn.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from autoseg.records.evaluation import MetricComparison
from autoseg.records.files import Record
from autoseg.records.names import FileName

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class UnlabelledImage(Record):
    """An image without label map that a teacher can label."""

    case: FileName
    images: tuple[str, ...]
    """Its image files, as found."""
    content_hash: str
    """Hash of their content."""


class UnlabelledImages(Record):
    """The images of a folder that can be learnt from, in unlabelled/images.json."""

    schema_version: Literal[1] = 1
    folder: str
    """Folder or list, as the user named it."""
    cases: tuple[UnlabelledImage, ...]
    left_out: tuple[str, ...]
    """A sentence for each image that cannot be used, or has a label map in the dataset."""


class SoftLabelsRecord(Record):
    """What one fold of a teacher has labelled; written once all cases are."""

    schema_version: Literal[1] = 1
    teacher: FileName
    fold: FileName
    teacher_hash: str
    """Hash of the training that made the teacher's weights."""
    temperatures: dict[str, float]
    """Temperature of each head, learnt on cases that this fold has not validated on."""
    cases: tuple[FileName, ...]
    confident_fraction: Fraction
    """Voxels of foreground whose label is probable enough, as a fraction of all voxels of foreground."""


class StudentRecord(Record):
    """A student beside its teacher, on the labelled cases that each fold of both has validated on."""

    schema_version: Literal[1] = 1
    student: FileName
    teacher: FileName
    folds: tuple[FileName, ...]
    num_labelled: NonNegativeInt
    """Cases that were compared."""
    num_unlabelled: NonNegativeInt
    teacher_dice: float | None
    """Mean foreground Dice."""
    student_dice: float | None
    difference: MetricComparison | None
    """Student minus teacher, case by case; None: nothing could be compared."""
    fallen: tuple[str, ...]
    """Labels whose mean Dice is lower with the student."""
    is_kept: bool
    reason: str
    """One sentence with the figures that decided."""
