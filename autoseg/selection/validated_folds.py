"""Folds that can be compared: their evaluations and label maps.

Tested in tests/stages/test_select.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.inference.files.label_maps import find_label_maps
from autoseg.metrics.learning import LEARNED_DICE, unlearned_labels
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record
from autoseg.records.plan import Splits
from autoseg.records.selection import Names
from autoseg.records.workspace import EVALUATION_NAME, Workspace
from autoseg.selection.case_maps import CaseMapFiles
from autoseg.selection.validation_run import ValidatedFold, ValidationRun

ALL_CASES_FOLD = "all"
"""Name of the fold that trains on every case, so it has no validation cases and no score."""


def read_validated_folds(
    workspace: Workspace, trained: dict[str, tuple[str, ...]], label_names: Sequence[str]
) -> tuple[dict[str, list[ValidatedFold]], list[str]]:
    """Validated folds by configuration, and one sentence for each fold that is left out.

    Args:
        workspace: With the evaluations that training wrote.
        trained: Trained folds by configuration.
        label_names: Labels of the plan, which every evaluation must have.

    Raises:
        UsageError: If an evaluation is of other labels.
        RecordError: If a JSON file is damaged.
    """
    planned = len(read_record(Splits, workspace.splits).folds) if workspace.splits.exists() else 0
    validated: dict[str, list[ValidatedFold]] = {}
    reasons = []
    for configuration, folds in trained.items():
        for fold in folds:
            folder = workspace.validation((configuration,), fold)
            if fold == ALL_CASES_FOLD:
                reasons.append(f"{configuration}: fold {fold} has no validation cases and so no score.")
            elif (folder / EVALUATION_NAME).exists():
                evaluation = _read_evaluation(folder / EVALUATION_NAME, label_names)
                validated.setdefault(configuration, []).append(ValidatedFold(fold, folder, evaluation))
            else:
                reasons.append(f"{configuration}: fold {fold} is trained but not validated, so it was left out.")
        untrained = [str(fold) for fold in range(planned) if str(fold) not in folds]
        if untrained:
            reasons.append(f"{configuration}: of {planned} folds, not trained: {', '.join(untrained)}.")
    return validated, reasons


def _read_evaluation(path: Path, label_names: Sequence[str]) -> Evaluation:
    evaluation = read_record(Evaluation, path)
    if set(evaluation.labels) != set(label_names):
        raise UsageError(
            f"{path}: has scores of the labels {', '.join(evaluation.labels)}, the plan has {', '.join(label_names)}; "
            "train this fold again with --restart"
        )
    return evaluation


def find_validation_maps(run: ValidationRun, folds: Sequence[ValidatedFold]) -> list[CaseMapFiles]:
    """Label maps of all validation cases of some folds, with their references.

    Raises:
        UsageError: If the label map or the reference of a case is missing.
    """
    references = {files.case: files for files in run.dataset.cases if files.label}
    found = []
    for fold in folds:
        predictions = find_label_maps(fold.folder)
        for scores in fold.evaluation.cases:
            prediction, reference = predictions.get(scores.case), references.get(scores.case)
            if prediction is None:
                raise UsageError(f"{fold.folder}: no label map of case {scores.case}; validate fold {fold.fold} again")
            if reference is None:
                raise UsageError(
                    f"{run.workspace.dataset}: has no label map of case {scores.case}, which {fold.folder} has; "
                    "plan the dataset again with its reference label maps"
                )
            found.append(CaseMapFiles(prediction, run.dataset_folder, reference))
    return found


def name_short_trainings(
    workspace: Workspace, winner: Names, singles: Mapping[str, Sequence[ValidatedFold]]
) -> list[str]:
    """A sentence that the choice means little if trainings behind it were too short to learn; else none."""
    short = []
    for configuration in winner:
        for fold in singles[configuration]:
            record = workspace.fold(configuration, fold.fold) / "checkpoint_final.json"
            if not record.exists():
                continue
            checkpoint = read_record(Checkpoint, record)
            if not checkpoint.imported_from and unlearned_labels(fold.evaluation, checkpoint.step):
                short.append(f"{configuration}, fold {fold.fold} ({checkpoint.step} steps)")
    if not short:
        return []
    return [
        f"This choice means little: a label has Dice below {LEARNED_DICE:g} after too short a training of "
        f"{'; '.join(short)}. Train again with more time, then select again."
    ]
