"""Select: from cross-validated folds to one recipe that prediction follows.

Which configuration, with which folds and which post-processing: `select_model` reads the evaluations that training
wrote, compares configurations on the cases that all of them validated, and tries nnU-Net's keep-largest-component
rule on the winner's label maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.metrics.comparison import rank_configurations
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import Progress, read_record, write_record
from autoseg.records.plan import IMPORTED, Plan, Splits
from autoseg.records.selection import Candidate, Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.evaluate import find_label_maps
from autoseg.stages.refine import RefinementOptions, RefinementOutcome, refine_model
from autoseg.stages.tune_postprocessing import CaseMapFiles, foreground_names, tune_postprocessing

TIE_ORDER = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""Of equal scores the first wins, as in nnU-Net: the cheaper one. Other names follow, by alphabet."""
UNSCORED_CHOICE = "3d_fullres"
"""Chosen when nothing was validated: nnU-Net's own default configuration."""
ALL_CASES_FOLD = "all"
"""Trained on every case: nothing is left to validate, so it has no score."""


@dataclass(frozen=True)
class _ValidatedFold:
    fold: str
    folder: Path
    """Validation label maps."""
    evaluation: Evaluation


def select_model(
    workspace: Workspace,
    dataset_folder: Path | None = None,
    *,
    refine: RefinementOptions | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Selection:
    """Choose configuration, folds and post-processing by cross-validation; write selection.json and evaluation.json.

    A configuration's score is its mean foreground Dice over the validation cases of all its trained folds that every
    other candidate validated too. Missing folds are reported as reasons, not as errors. Without any validated fold
    (only fold `all`, say) there is no score, no post-processing and no evaluation.json.

    Args:
        workspace: With a plan and at least one trained fold.
        dataset_folder: Where the reference label maps are; None: the folder that dataset.json names.
        refine: Also try to refine boundaries; None: not. Post-processing is tuned on what comes of it.
        workers: Cases worked on at the same time, in threads.
        progress: Called after each validation case of each post-processing step.

    Returns:
        The selection, with its score after post-processing over all cases of the chosen folds.

    Raises:
        UsageError: If nothing is trained, a validation or reference label map is not there, a fold was validated
            for other labels than the plan's, or the model was imported.
        ImageFileError: If a label map cannot be read, has values that no label declares, or does not lie on its
            reference's grid.
        RecordError: If a JSON file is missing or damaged.
    """
    plan = read_record(Plan, workspace.plan)
    trained = _trained_configurations(workspace)
    validated, reasons = _read_folds(workspace, trained, foreground_names(plan.encoding))
    if not validated and plan.planner == IMPORTED:
        raise UsageError(f"{workspace.root}: imported without validation cases, so there is nothing to choose by")
    if not validated:
        return _select_unscored(workspace, trained, reasons)
    candidates, remarks = rank_configurations(
        {name: [case for fold in folds for case in fold.evaluation.cases] for name, folds in validated.items()},
        {name: tuple(fold.fold for fold in folds) for name, folds in validated.items()},
        foreground_names(plan.encoding),
    )
    folds = validated[candidates[0].configurations[0]]
    maps = _find_maps(folds, _reference_paths(workspace, dataset_folder))
    refined = RefinementOutcome(None, (), ())
    if refine is not None:
        held_out = {fold.fold: [case.case for case in fold.evaluation.cases] for fold in folds}
        refined = refine_model(workspace, dataset_folder, candidates[0].configurations, held_out, refine)
        maps = list(refined.maps) or maps
    tuned = tune_postprocessing(maps, plan.encoding, workers=workers, progress=progress)
    evaluation = tuned.evaluation
    missing = tuple(case for fold in folds for case in fold.evaluation.missing_predictions)
    selection = Selection(
        configurations=candidates[0].configurations,
        folds=candidates[0].folds,
        refinement=refined.refinement,
        postprocessing=tuned.steps,
        mean_foreground_dice=evaluation.mean_foreground_dice,
        candidates=candidates,
        reasons=(*reasons, *remarks, *refined.reasons, *tuned.reasons),
    )
    write_record(evaluation.model_copy(update={"missing_predictions": missing}), workspace.evaluation)
    write_record(selection, workspace.selection)
    return selection


def _trained_configurations(workspace: Workspace) -> dict[str, tuple[str, ...]]:
    """Trained folds by configuration, in tie order."""
    names = sorted(path.name for path in (workspace.root / "models").glob("*") if path.is_dir())
    names.sort(key=lambda name: TIE_ORDER.index(name) if name in TIE_ORDER else len(TIE_ORDER))
    trained = {name: folds for name in names if (folds := workspace.trained_folds(name))}
    if not trained:
        raise UsageError(f"{workspace.root}: no fold is trained to its end; run autoseg-train first")
    return trained


def _read_folds(
    workspace: Workspace, trained: dict[str, tuple[str, ...]], label_names: Sequence[str]
) -> tuple[dict[str, list[_ValidatedFold]], list[str]]:
    """Validated folds by configuration, and one sentence for each fold that is not among them."""
    planned = len(read_record(Splits, workspace.splits).folds) if workspace.splits.exists() else 0
    validated: dict[str, list[_ValidatedFold]] = {}
    reasons = []
    for configuration, folds in trained.items():
        for fold in folds:
            folder = workspace.fold(configuration, fold) / "validation"
            if fold == ALL_CASES_FOLD:
                reasons.append(f"{configuration}: fold {fold} has no validation cases and so no score.")
            elif (folder / "evaluation.json").exists():
                evaluation = _read_evaluation(folder / "evaluation.json", label_names)
                validated.setdefault(configuration, []).append(_ValidatedFold(fold, folder, evaluation))
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
            f"{path}: scores the labels {', '.join(evaluation.labels)}, the plan has {', '.join(label_names)}; "
            "train that fold again with --restart"
        )
    return evaluation


def _select_unscored(workspace: Workspace, trained: dict[str, tuple[str, ...]], reasons: list[str]) -> Selection:
    candidates = tuple(
        Candidate(
            configurations=(name,),
            folds=tuple(fold for fold in folds if fold != ALL_CASES_FOLD) or folds,
            num_cases=0,
            mean_foreground_dice=None,
        )
        for name, folds in trained.items()
    )
    best = next((one for one in candidates if UNSCORED_CHOICE in one.configurations), candidates[0])
    reasons.append(f"{best.configurations[0]} is chosen without a score: nothing was validated.")
    selection = Selection(
        configurations=best.configurations,
        folds=best.folds,
        mean_foreground_dice=None,
        candidates=candidates,
        reasons=tuple(reasons),
    )
    workspace.evaluation.unlink(missing_ok=True)  # an earlier selection's would contradict this one
    write_record(selection, workspace.selection)
    return selection


def _reference_paths(workspace: Workspace, dataset_folder: Path | None) -> dict[str, Path]:
    description = read_record(DatasetDescription, workspace.dataset)
    folder = dataset_folder or workspace.dataset_folder(description.folder)
    if not folder.exists():
        raise UsageError(f"{folder}: the dataset is not there; say where its folder is now")
    return {files.case: folder / files.label for files in description.cases if files.label}


def _find_maps(folds: Sequence[_ValidatedFold], references: dict[str, Path]) -> list[CaseMapFiles]:
    found = []
    for fold in folds:
        predictions = find_label_maps(fold.folder)
        for scores in fold.evaluation.cases:
            prediction, reference = predictions.get(scores.case), references.get(scores.case)
            if prediction is None:
                raise UsageError(f"{fold.folder}: no label map of case {scores.case}; validate fold {fold.fold} again")
            if reference is None:
                raise UsageError(f"dataset.json has no label map of case {scores.case}, which {fold.folder} has")
            found.append(CaseMapFiles(scores.case, prediction, reference))
    return found
