"""Learn from unlabelled images: a teacher labels them, a student trains on both, cross-validation decides between them.

    images --preprocess--> unlabelled/images
    for every fold: teacher's network --calibrated probabilities--> soft labels --> student trains, validates
    all folds: student and teacher, case by case --> the selection, with the student if it is better

Fold k of the teacher alone labels images for fold k of the student, so no network that is scored on a case has learnt
anything from it, not even by way of its teacher. Every step leaves files that a later run does not make again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.costs.runs import Training
from autoseg.device_resampling import choose_resampler
from autoseg.errors import TrainingError, UsageError
from autoseg.imaging.arrays.damage import find_case_damage
from autoseg.imaging.arrays.labels import draw_class_locations
from autoseg.imaging.arrays.soft_codes import confident_labels, decode_soft_labels
from autoseg.imaging.arrays.storage import RECORD_ENDING, StoredCase, open_case, remove_other_cases, save_case
from autoseg.inference.models.loading import (
    LoadedConfiguration,
    load_configuration,
    refuse_other_plans,
    with_precision,
)
from autoseg.inference.predictor.soft_labels import label_softly
from autoseg.locks import lock
from autoseg.networks.devices import choose_device
from autoseg.progress import Progress, ProgressBar, no_bar
from autoseg.records.case import PreprocessedCase
from autoseg.records.checkpoint import Checkpoint, map_origin, training_hash
from autoseg.records.dataset import DatasetDescription, foreground_names
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, hash_of
from autoseg.records.selection import Selection
from autoseg.records.training import SoftLabelSpec
from autoseg.records.unlabelled import SoftLabelsRecord, StudentRecord, UnlabelledImages
from autoseg.records.workspace import Workspace
from autoseg.selection.confidence import learn_fold_temperatures
from autoseg.selection.validated_folds import ALL_CASES_FOLD, read_validated_folds
from autoseg.selection.validation_run import ValidationRun
from autoseg.stages.plan_students import add_student, find_teacher, list_students, refuse_teacher, student_name
from autoseg.stages.select import SelectionOptions, select_model
from autoseg.stages.train import prepare_fold, train_fold
from autoseg.stages.train_all import train_on_devices
from autoseg.stages.unlabelled_images import store_unlabelled
from autoseg.text import format_command
from autoseg.training.folds.soft_cases import RECORD_NAME, with_ignored
from autoseg.training.options import TrainingOptions

logger = logging.getLogger("autoseg.learn")


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """What is learnt from unlabelled images, and how."""

    configuration: str | None = None
    """Name of the teacher; None: that of a student which exists, else the best single configuration."""
    min_confidence: float | None = None
    """Calibrated probability from which a voxel counts, (0, 1]; None: that of the student which exists, else the usual
    one."""
    training: TrainingOptions = field(default_factory=TrainingOptions)
    """Options of the student's training; its device and precision also label the images."""
    selection: SelectionOptions = field(default_factory=SelectionOptions)
    """How student and teacher are selected from."""


@dataclass(frozen=True)
class Learnt:
    """A student, and what cross-validation says of it."""

    images: UnlabelledImages
    record: StudentRecord
    selection: Selection


def learn_unlabelled(
    workspace: Workspace,
    unlabelled: Path,
    options: LearningOptions | None = None,
    *,
    workers: int = 1,
    bar: ProgressBar = no_bar,
) -> Learnt:
    """Train a student on labelled cases and unlabelled images, and select again.

    Args:
        workspace: With at least one trained and validated fold of the teacher; the student is trained on these folds.
        unlabelled: A folder of images, an image, or a list.
        options: What is learnt and how; None: the defaults.
        workers: Cases processed at the same time while selecting.
        bar: Progress bars, by title.

    Returns:
        The images, the comparison, and the selection, in which the student takes part if it is better.

    Raises:
        UsageError: If no configuration can be the teacher, no fold of it is validated, or no image can be used.
        TrainingError: If a signal interrupted the training, or a fold cannot be trained.
        LockedError: If another process plans the workspace, or trains one of these folds.
        WriteError: If the disk is full.
    """
    options = options or LearningOptions()
    plan = read_record(Plan, workspace.plan)
    teacher = choose_teacher(workspace, plan, options.configuration)
    refuse_teacher(plan, teacher)
    run = _start_run(workspace, plan, options.training)
    folds, _ = read_validated_folds(workspace, {teacher: _trained_folds(workspace, teacher)}, _labels_of(plan))
    if teacher not in folds:
        command = format_command("autoseg-train", workspace.root, "-c", teacher, "-f", "0")
        raise UsageError(f"{workspace.root}: no fold of {teacher} is trained and validated yet. Run first: {command}")
    resampler = choose_resampler(run.device, options.training.precision)
    with bar("unlabelled images") as progress:
        images = store_unlabelled(workspace, plan, teacher, unlabelled, resampler=resampler, progress=progress)
    student = student_name(teacher)
    plan = _write_student(workspace, teacher, options.min_confidence)
    temperatures = learn_fold_temperatures(run, teacher, folds[teacher], bar)
    names = [fold.fold for fold in folds[teacher]]
    logger.info(
        "%s learns from %d unlabelled images, which %s labels, on fold(s) %s",
        student, len(images.cases), teacher, ", ".join(names),
    )  # fmt: skip
    for fold in names:
        with bar(f"labels of fold {fold}") as progress:
            label_images(run, plan, student, fold, temperatures[fold], progress)
        if not _train(workspace, plan, Training(student, fold), options.training, bar):
            raise TrainingError(f"{student}, fold {fold}: was interrupted. Run the same command again to resume.")
    selection = select_model(workspace, options=options.selection, workers=workers, bar=bar)
    return Learnt(images, read_record(StudentRecord, workspace.student_record(student)), selection)


def choose_teacher(workspace: Workspace, plan: Plan, asked: str | None) -> str:
    """Name of the configuration that labels the images.

    Args:
        workspace: Workspace with a selection, or with a student.
        plan: Its plan.
        asked: Name that the user gave; None: that of a student which exists, else the best single configuration that
            is no cascade.

    Raises:
        UsageError: If there is none.
    """
    if asked is not None:
        return asked
    students = list_students(plan)
    if students and (teacher := find_teacher(plan, students[0])) is not None:
        return teacher
    ranked: list[str] = []
    if workspace.selection.exists():
        candidates = read_record(Selection, workspace.selection).candidates
        ranked = [item.configurations[0] for item in candidates if len(item.configurations) == 1]
    names = [name for name in (*ranked, *plan.configurations) if name in plan.configurations]
    able = [name for name in names if plan.configurations[name].previous_configuration is None]
    trained = [name for name in able if _trained_folds(workspace, name)]
    if not trained:
        raise UsageError(
            f"{workspace.root}: no configuration is trained yet whose labels could be learnt from. Run first: "
            f"{format_command('autoseg-train', workspace.root, '-c', next(iter(able), 'CONFIGURATION'), '-f', '0')}"
        )
    return trained[0]


def _trained_folds(workspace: Workspace, name: str) -> tuple[str, ...]:
    return tuple(fold for fold in workspace.trained_folds(name) if fold != ALL_CASES_FOLD)


def _labels_of(plan: Plan) -> list[str]:
    return foreground_names(plan.encoding)


def _start_run(workspace: Workspace, plan: Plan, training: TrainingOptions) -> ValidationRun:
    dataset = read_record(DatasetDescription, workspace.dataset)
    return ValidationRun(
        workspace=workspace,
        dataset=dataset,
        dataset_folder=workspace.dataset_folder(dataset.folder),
        plan=plan,
        device=choose_device(training.device),
        precision=training.precision,
        device_name=training.device,
    )


def _write_student(workspace: Workspace, teacher: str, min_confidence: float | None) -> Plan:
    """The plan with the student, which is written unless it has it already."""
    with lock(workspace.planning_lock, "planned"):
        plan = read_record(Plan, workspace.plan)
        earlier = plan.configurations.get(student_name(teacher))
        if min_confidence is None and earlier is not None and earlier.training.soft_labels is not None:
            min_confidence = earlier.training.soft_labels.min_confidence
        changed = add_student(plan, teacher, min_confidence)
        if changed != plan:
            write_record(changed, workspace.plan)
    return changed


def _train(workspace: Workspace, plan: Plan, training: Training, options: TrainingOptions, bar: ProgressBar) -> bool:
    """Train a fold of a student on as many devices as planned; whether it is finished."""
    options = _options_of_fold(workspace, training.configuration, training.fold, options)
    if plan.budget.devices == 1:
        return train_fold(workspace, training.configuration, training.fold, options, bar=bar).finished
    given = {
        "--epochs": options.epochs,
        "--steps-per-epoch": options.steps_per_epoch,
        "--max-time": None if options.max_time_seconds is None else f"{options.max_time_seconds:g}s",
    }
    words = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    words += ["--restart"] if options.restart else []
    return train_on_devices(workspace, training, plan.budget.devices, options.device, words)


def _options_of_fold(workspace: Workspace, student: str, fold: str, options: TrainingOptions) -> TrainingOptions:
    """The options of a fold's training, which begins again where an earlier one had other images or labels."""
    prepared = prepare_fold(workspace, student, fold, options)
    records = [prepared.folder / f"checkpoint_{kind}.json" for kind in ("final", "last")]
    earlier = [read_record(Checkpoint, path) for path in records if path.exists()]
    if all(checkpoint.cases_hash == prepared.cases_hash for checkpoint in earlier):
        return options
    logger.info("%s is trained again: its unlabelled images or their labels are others than before", prepared.title)
    return replace(options, restart=True)


def label_images(
    run: ValidationRun,
    plan: Plan,
    student: str,
    fold: str,
    temperatures: Mapping[str, float],
    progress: Progress,
) -> SoftLabelsRecord:
    """Let a fold of the teacher label all unlabelled images of a workspace, one after the other.

    Args:
        run: Context of the run; its workspace has the preprocessed images.
        plan: Plan with the student.
        student: Name of the student.
        fold: Fold of teacher and student.
        temperatures: Temperature of each head.
        progress: Called after every image.

    Returns:
        The record, written last; images that the same weights have labelled are not predicted again.
    """
    workspace, configuration = run.workspace, plan.configurations[student]
    images = read_record(UnlabelledImages, workspace.unlabelled)
    spec, folder = _soft_labels_of(plan, student), workspace.soft_labels(student, fold)
    checkpoint = read_record(Checkpoint, workspace.fold(spec.teacher, fold) / "checkpoint_final.json")
    (folder / RECORD_NAME).unlink(missing_ok=True)
    remove_other_cases(folder, frozenset(image.case for image in images.cases))
    arrays = workspace.unlabelled_arrays(configuration.preprocessed_as)
    loaded: LoadedConfiguration | None = None
    confident, foreground = 0, 0
    for number, image in enumerate(images.cases, start=1):
        stored = open_case(arrays, image.case)
        source = map_origin(checkpoint, stored.record.content_hash)
        origin = hash_of([source, dict(temperatures), spec.min_confidence])
        if not _is_labelled(folder, image.case, origin):
            loaded = loaded or _load_teacher(run, spec.teacher, fold)
            codes = label_softly(loaded, stored, temperatures, plan.encoding)
            _save_labels(folder, stored.record.model_copy(update={"content_hash": origin}), codes, plan, student)
        found = _count_confident(open_case(folder, image.case), plan, spec)
        confident, foreground = confident + found[0], foreground + found[1]
        progress(number, len(images.cases))
    labels = SoftLabelsRecord(
        teacher=spec.teacher,
        fold=fold,
        teacher_hash=training_hash(checkpoint),
        temperatures=dict(temperatures),
        cases=tuple(image.case for image in images.cases),
        confident_fraction=confident / max(foreground, 1),
    )
    write_record(labels, folder / RECORD_NAME)
    logger.info(
        "fold %s of %s: %.0f %% of the foreground in the unlabelled images is at least %g probable and counts",
        fold, spec.teacher, 100 * labels.confident_fraction, spec.min_confidence,
    )  # fmt: skip
    if not foreground:
        logger.warning("warning: fold %s of %s finds no foreground in any unlabelled image", fold, spec.teacher)
    return labels


def _soft_labels_of(plan: Plan, student: str) -> SoftLabelSpec:
    spec = plan.configurations[student].training.soft_labels
    if spec is None:
        raise UsageError(f"{student} does not learn from unlabelled images")
    return spec


def _load_teacher(run: ValidationRun, teacher: str, fold: str) -> LoadedConfiguration:
    """The networks of one fold, as they validate."""
    loaded = load_configuration(run.workspace, run.plan, teacher, [fold], "final", run.device)
    refuse_other_plans(run.workspace, [loaded])
    return with_precision(loaded, run.precision, run.device, run.plan.encoding)


def _is_labelled(folder: Path, case: str, origin: str) -> bool:
    if find_case_damage(folder, case):
        return False
    return read_record(PreprocessedCase, folder / (case + RECORD_ENDING)).content_hash == origin


def _save_labels(folder: Path, record: PreprocessedCase, codes: NDArray[np.int16], plan: Plan, student: str) -> None:
    """Write the codes (Z, Y, X) of a case as an array without channels, with the places of confident foreground."""
    spec = _soft_labels_of(plan, student)
    confident = confident_labels(codes, len(plan.encoding.values), spec.min_confidence)
    locations = draw_class_locations(confident, with_ignored(plan.encoding), record.case)
    no_channels = np.zeros((0, *codes.shape), dtype=np.float32)
    save_case(folder, record, no_channels, codes, locations, plan.configurations[student].patch_size)


def _count_confident(stored: StoredCase, plan: Plan, spec: SoftLabelSpec) -> tuple[int, int]:
    """Number of voxels of foreground that count, and of all voxels of foreground; slice by slice."""
    confident, foreground = 0, 0
    for index in range(stored.record.shape[0]):
        labels, probabilities = decode_soft_labels(stored.array[0, index], len(plan.encoding.values))
        confident += int(((labels > 0) & (probabilities >= spec.min_confidence)).sum())
        foreground += int((labels > 0).sum())
    return confident, foreground
