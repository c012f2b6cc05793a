"""Unlabelled images with the labels that a fold's teacher gave them, as training takes them.

`stages.learn` writes both; here they are found, checked and opened. Tested in tests/stages/test_learn.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import DatasetError, UsageError
from autoseg.imaging.arrays.labels import foreground_heads
from autoseg.imaging.arrays.storage import StoredCase, open_case
from autoseg.imaging.arrays.stored_arrays import keep_open
from autoseg.records.checkpoint import Checkpoint, training_hash
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.unlabelled import SoftLabelsRecord
from autoseg.records.workspace import Workspace
from autoseg.text import format_command
from autoseg.training.data.loading import TrainingCase, training_cases
from autoseg.training.data.soft_labels import SoftLabels

RECORD_NAME = "labels.json"
"""Name of the file with the SoftLabelsRecord of a fold."""


@dataclass(frozen=True)
class SoftLabelledCases:
    """Unlabelled images of one fold with the labels of its teacher."""

    teacher: Path
    """Folder of the teacher's fold, with whose weights training begins."""
    images: Path
    """Folder of the preprocessed images."""
    labels: Path
    """Folder of their labels."""
    cases: tuple[str, ...]
    origins: tuple[str, ...]
    """Which weights and images made the labels of each case; other labels make another training."""
    min_confidence: float


def with_ignored(encoding: LabelEncoding) -> LabelEncoding:
    """The labels with an index for voxels that do not count, len(encoding.values), where there is none yet."""
    if encoding.ignore_value is not None:
        return encoding
    return encoding.model_copy(update={"ignore_value": max(encoding.values) + 1})


def find_soft_cases(workspace: Workspace, plan: Plan, name: str, fold_name: str) -> SoftLabelledCases | None:
    """The unlabelled images that a fold of a student learns from; None for any other configuration.

    Raises:
        UsageError: If the teacher's fold has not labelled them, or was trained again since.
    """
    spec = plan.configurations[name].training.soft_labels
    if spec is None:
        return None
    if fold_name == "all":
        raise UsageError(
            f"{name} is trained on single folds, because on all cases there is nothing to judge it by. "
            f"{format_command('autoseg', 'learn', workspace.root, '-c', spec.teacher)} trains them all."
        )
    labels, teacher = workspace.soft_labels(name, fold_name), workspace.fold(spec.teacher, fold_name)
    advice = f"Run first: {format_command('autoseg', 'learn', workspace.root, '-c', spec.teacher)}"
    if not (labels / RECORD_NAME).exists() or not (teacher / "checkpoint_final.json").exists():
        raise UsageError(
            f"{labels}: fold {fold_name} of {spec.teacher} has not labelled the unlabelled images that {name} learns "
            f"from. {advice}"
        )
    record = read_record(SoftLabelsRecord, labels / RECORD_NAME)
    if record.teacher_hash != training_hash(read_record(Checkpoint, teacher / "checkpoint_final.json")):
        raise UsageError(
            f"{labels}: fold {fold_name} of {spec.teacher} was trained again since it labelled the unlabelled images. "
            f"{advice}"
        )
    images = workspace.unlabelled_arrays(plan.configurations[name].preprocessed_as)
    try:
        origins = tuple(open_case(labels, case).record.content_hash for case in record.cases)
    except DatasetError as error:
        raise UsageError(f"{error} These are labels of {spec.teacher}. {advice}") from error
    return SoftLabelledCases(teacher, images, labels, record.cases, origins, spec.min_confidence)


def load_soft_cases(soft: SoftLabelledCases, encoding: LabelEncoding, *, ram_bytes: int) -> tuple[TrainingCase, ...]:
    """Open the images and their labels; images are read into memory if all of them fit, labels stay compressed.

    Args:
        soft: Which they are.
        encoding: The plan's labels.
        ram_bytes: Largest size of all images together.
    """
    opener = keep_open()
    images = {case: open_case(soft.images, case, opener) for case in soft.cases}
    return tuple(
        _with_labels(case, open_case(soft.labels, case.case_id, opener), soft, encoding)
        for case in training_cases(images, encoding, ram_bytes=ram_bytes)
    )


def _with_labels(
    image: TrainingCase, labels: StoredCase, soft: SoftLabelledCases, encoding: LabelEncoding
) -> TrainingCase:
    foreground = {head for head, _ in foreground_heads(encoding)}
    return replace(
        image,
        locations={head: voxels for head, voxels in labels.locations.items() if head in foreground},
        annotated=labels.annotated,
        absent_channels=image.absent_channels,
        soft=SoftLabels(labels.array, len(encoding.values), soft.min_confidence),
    )
