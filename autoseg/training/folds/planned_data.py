"""Whether plan, files and preprocessed arrays are still those that a training, or a result, began with.

Nothing locks a workspace: planning again while a fold trains, or a corrected label map, is noticed here, before
anything is trained or scored with it. Without fingerprint.json (imported models) nothing is known or checked.

Tested in tests/stages/test_train.py and tests/stages/test_select.py.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autoseg.errors import TrainingError, UsageError
from autoseg.imaging.arrays.damage import find_damaged_cases
from autoseg.imaging.arrays.storage import RECORD_ENDING, array_hashes, stored_cases
from autoseg.imaging.datasets.cases import is_changed
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import CaseFiles, DatasetDescription, reference_files
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint, data_hash
from autoseg.records.plan import Plan, is_model_of
from autoseg.records.workspace import Workspace
from autoseg.text import format_command
from autoseg.training.folds.fold import Fold

logger = logging.getLogger("autoseg.train")

MAX_CHECK_SECONDS = 60.0
"""Longest time that a training spends on the checksums of its cases; 2 GB take a second from a disk that is as fast."""

MAX_CHECK_FRACTION = 0.01
"""The same as a fraction of a promised training time."""


def read_fingerprint(workspace: Workspace) -> Fingerprint | None:
    """Facts about the cases as they were planned; None where there are none."""
    return read_record(Fingerprint, workspace.fingerprint) if workspace.fingerprint.exists() else None


def planned_arrays(plan: Plan, name: str, fingerprint: Fingerprint | None) -> dict[str, tuple[str, ...]]:
    """Values of `PreprocessedCase.content_hash` that the arrays of a configuration may have, by case id."""
    if fingerprint is None:
        return {}
    stored_as = plan.configurations[name].preprocessed_as
    return {case.case: array_hashes(case.content_hash, plan, stored_as) for case in fingerprint.cases}


def check_preprocessed(
    workspace: Workspace, plan: Plan, name: str, cases: Sequence[str], planned: Mapping[str, Sequence[str]]
) -> None:
    """Check that cases are stored as the plan has them.

    Args:
        workspace: With the stored cases.
        plan: Plan with the configuration.
        name: Configuration that needs the cases.
        cases: Case ids.
        planned: Result of `planned_arrays`.

    Raises:
        UsageError: If a case is not stored, or was stored for another plan or from other files.
    """
    folder = workspace.preprocessed(plan.configurations[name].preprocessed_as)
    missing = sorted(set(cases) - set(stored_cases(folder)))
    if missing:
        raise UsageError(
            f"{folder}: {len(missing)} cases are not preprocessed for {name}, {missing[0]} first. Run autoseg-plan "
            "again with the same workspace, without --no-preprocess."
        )
    outdated = [
        case
        for case in sorted(set(cases) & planned.keys())
        if read_record(PreprocessedCase, folder / (case + RECORD_ENDING)).content_hash not in planned[case]
    ]
    if outdated:
        raise UsageError(
            f"{folder}: {len(outdated)} cases, {outdated[0]} first, were preprocessed for another plan than "
            f"{workspace.plan}, or from other files. Run autoseg-plan again with the same workspace, without "
            "--no-preprocess; with --keep-plan if plan.json was edited."
        )


def check_undamaged(fold: Fold) -> None:
    """Compare the cases of a fold with their checksums, as many as a short time allows; says if it was not all.

    Raises:
        TrainingError: If an array or a record is damaged.
    """
    promised = fold.spec.time_per_fold_seconds
    seconds = MAX_CHECK_SECONDS if promised is None else min(MAX_CHECK_SECONDS, MAX_CHECK_FRACTION * promised)
    cases = (*fold.split.training, *fold.split.validation)
    damaged, checked = find_damaged_cases(fold.preprocessed, cases, seconds)
    if damaged:
        case, damage = next(iter(damaged.items()))
        command = format_command("autoseg", "doctor", fold.workspace.root, "--repair")
        raise TrainingError(
            f"{fold.preprocessed}: {len(damaged)} of {checked} preprocessed cases are damaged: {case} {damage}"
            f"{', and others' if len(damaged) > 1 else ''}. Preprocess them again: {command}"
        )
    if checked < len(cases):
        logger.info(
            "%d of %d preprocessed cases were compared with their checksums in %.1f s; %s compares all of them",
            checked, len(cases), seconds, format_command("autoseg", "verify", fold.workspace.root),
        )  # fmt: skip


def check_planned_files(folder: Path, cases: Iterable[CaseFiles], fingerprint: Fingerprint | None) -> None:
    """Check that images and label maps are those that were planned.

    Args:
        folder: Folder of the dataset.
        cases: Files of the cases.
        fingerprint: Facts about the cases as they were planned.

    Raises:
        UsageError: If the files of a case have another content.
        ImageFileError: If a file is missing.
    """
    planned = {} if fingerprint is None else {case.case: case for case in fingerprint.cases}
    changed = [
        files.case for files in cases if files.case in planned and is_changed(folder, files, planned[files.case])
    ]
    if changed:
        raise UsageError(
            f"{folder}: the image or the label map of {len(changed)} case(s), {changed[0]} first, was changed after "
            "the dataset was planned. Run autoseg-plan again with the same workspace; folds that used these cases are "
            "then trained again with --restart."
        )


def check_fold_files(
    workspace: Workspace, dataset: DatasetDescription, training: Sequence[str], validation: Sequence[str]
) -> None:
    """`check_planned_files` for the cases of a fold; images of training cases may be gone: their arrays are enough."""
    folder = workspace.dataset_folder(dataset.folder)
    wanted = [
        files
        for files in dataset.cases
        if files.case in set(validation)
        or (
            files.case in set(training)
            and all((folder / name).exists() for name in (*files.images, *reference_files(files)))
        )
    ]
    check_planned_files(folder, wanted, read_fingerprint(workspace))


def check_still_planned(fold: Fold) -> None:
    """Check, before a trained fold is scored, that the workspace was not planned otherwise since its training began.

    Raises:
        TrainingError: If plan or cases are others.
        UsageError: If files or arrays of the validation cases are others.
    """
    workspace = fold.workspace
    plan, fingerprint = read_record(Plan, workspace.plan), read_fingerprint(workspace)
    same_data = not fold.data_hash or fingerprint is None or data_hash(fingerprint, fold.split) == fold.data_hash
    if not is_model_of(plan, fold.configuration_name, fold.model_hash) or not same_data:
        raise TrainingError(
            f"{workspace.plan}: the dataset was planned again, with another result, while {fold.title} was trained. "
            "The fold is not validated, because its validation cases are no longer those of its training. Plan as "
            "before and train again with the same command, which validates only; or train with --restart."
        )
    check_fold_files(workspace, fold.dataset, (), fold.split.validation)
    check_preprocessed(workspace, plan, fold.configuration_name, fold.split.validation, fold.planned_arrays)
