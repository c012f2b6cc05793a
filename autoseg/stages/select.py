"""Select: from cross-validated folds to one recipe that prediction follows.

Which configuration, with which folds and which post-processing: `select_model` reads the evaluations that training
wrote, compares configurations on the cases that all of them validated, and tries nnU-Net's keep-largest-component
rule on the winner's label maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import ImageFileError, UsageError
from autoseg.imaging.labels import encode_label_map
from autoseg.metrics.comparison import format_score, rank_configurations
from autoseg.metrics.overlap import BACKGROUND, IGNORE, score_case
from autoseg.metrics.summary import summarize
from autoseg.postprocessing import indices_of, keep_largest_component
from autoseg.records.dataset import DatasetDescription, LabelEncoding, LabelValues
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import Progress, read_record, write_record
from autoseg.records.plan import IMPORTED, Plan, Splits
from autoseg.records.selection import Candidate, KeepLargestComponent, Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.evaluate import find_label_maps, read_pair

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


@dataclass(frozen=True)
class _CaseMaps:
    """One validation case in memory: label indices (Z, Y, X), compressed, cut to the box of all foreground."""

    case: str
    prediction: blosc2.NDArray
    reference: blosc2.NDArray
    scores: CaseScores


def select_model(
    workspace: Workspace,
    dataset_folder: Path | None = None,
    *,
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
    validated, reasons = _read_folds(workspace, trained, _foreground_names(plan.encoding))
    if not validated and plan.planner == IMPORTED:
        raise UsageError(f"{workspace.root}: imported without validation cases, so there is nothing to choose by")
    if not validated:
        return _select_unscored(workspace, trained, reasons)
    candidates, remarks = rank_configurations(
        {name: [case for fold in folds for case in fold.evaluation.cases] for name, folds in validated.items()},
        {name: tuple(fold.fold for fold in folds) for name, folds in validated.items()},
        _foreground_names(plan.encoding),
    )
    folds = validated[candidates[0].configurations[0]]
    cases = _load_cases(folds, _reference_paths(workspace, dataset_folder), plan.encoding, workers)
    steps, evaluation, decisions = _find_postprocessing(cases, plan.encoding, workers, progress)
    missing = tuple(case for fold in folds for case in fold.evaluation.missing_predictions)
    selection = Selection(
        configurations=candidates[0].configurations,
        folds=candidates[0].folds,
        postprocessing=steps,
        mean_foreground_dice=evaluation.mean_foreground_dice,
        candidates=candidates,
        reasons=(*reasons, *remarks, *decisions),
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


def _foreground_names(encoding: LabelEncoding) -> list[str]:
    return [head.name for head in encoding.heads if head.name != BACKGROUND]


def _reference_paths(workspace: Workspace, dataset_folder: Path | None) -> dict[str, Path]:
    description = read_record(DatasetDescription, workspace.dataset)
    folder = dataset_folder or workspace.dataset_folder(description.folder)
    if not folder.exists():
        raise UsageError(f"{folder}: the dataset is not there; say where its folder is now")
    return {files.case: folder / files.label for files in description.cases if files.label}


def _load_cases(
    folds: Sequence[_ValidatedFold], references: dict[str, Path], encoding: LabelEncoding, workers: int
) -> list[_CaseMaps]:
    tasks = []
    for fold in folds:
        predictions = find_label_maps(fold.folder)
        for scores in fold.evaluation.cases:
            prediction, reference = predictions.get(scores.case), references.get(scores.case)
            if prediction is None:
                raise UsageError(f"{fold.folder}: no label map of case {scores.case}; validate fold {fold.fold} again")
            if reference is None:
                raise UsageError(f"dataset.json has no label map of case {scores.case}, which {fold.folder} has")
            tasks.append(delayed(_load_case)(scores.case, prediction, reference, encoding))
    return list(Parallel(n_jobs=workers, prefer="threads")(tasks))


def _load_case(case: str, prediction: Path, reference: Path, encoding: LabelEncoding) -> _CaseMaps:
    values = read_pair(case, prediction, reference)
    predicted, true = (_encode(*one, encoding) for one in zip((prediction, reference), values, strict=True))
    foreground = (predicted != 0) | (true != 0)
    boxes = ndimage.find_objects(foreground.view(np.uint8))
    box = boxes[0] if boxes else (slice(0, 1),) * 3
    return _measure(case, predicted[box], _compress(true[box]), encoding)


def _encode(path: Path, values: NDArray[np.generic], encoding: LabelEncoding) -> NDArray[np.int16]:
    try:
        return encode_label_map(values, encoding)
    except ValueError as error:
        raise ImageFileError(f"{path}: {error}") from error


def _measure(
    case: str, prediction: NDArray[np.integer], reference: blosc2.NDArray, encoding: LabelEncoding
) -> _CaseMaps:
    labels: dict[str, LabelValues] = {head.name: head.indices for head in encoding.heads}
    if encoding.ignore_value is not None:
        labels[IGNORE] = len(encoding.values)
    return _CaseMaps(case, _compress(prediction), reference, score_case(case, prediction, reference[:], labels))


def _compress(labels: NDArray[np.integer]) -> blosc2.NDArray:
    return blosc2.asarray(np.ascontiguousarray(labels))


def _find_postprocessing(
    cases: list[_CaseMaps], encoding: LabelEncoding, workers: int, progress: Progress | None
) -> tuple[tuple[KeepLargestComponent, ...], Evaluation, list[str]]:
    """Find out where keeping only the largest component helps.

    First the union of all foreground, then label by label in declaration order, each on top of what was accepted
    before. A step is accepted only if its own score rises (all foreground: the mean foreground Dice; one label: that
    label's mean Dice) and no label's mean falls.

    Returns:
        The accepted steps, the evaluation after them, and one sentence per step tried.

    References:
        nnU-Net v2 (Isensee et al. 2021), post-processing. Differs: a step for one label must not harm another, which
        it can when regions overlap.
    """
    names = _foreground_names(encoding)
    tried = [tuple(names), *((name,) for name in names if len(names) > 1)]
    evaluation = summarize([case.scores for case in cases], names)
    accepted: list[KeepLargestComponent] = []
    reasons = []
    for number, labels in enumerate(tried):
        tasks = (delayed(_keep_largest)(case, labels, encoding) for case in cases)
        changed: list[_CaseMaps] = []
        for case in Parallel(n_jobs=workers, prefer="threads", return_as="generator")(tasks):
            changed.append(case)
            if progress is not None:
                progress(number * len(cases) + len(changed), len(tried) * len(cases))
        attempt = summarize([case.scores for case in changed], names)
        is_accepted, figures = _judge(evaluation, attempt, own_label=labels[0] if number > 0 else None)
        what = f"of {labels[0]}" if number > 0 else "of all foreground"
        reasons.append(f"Keep only the largest component {what}: {'yes' if is_accepted else 'no'}, {figures}.")
        if is_accepted:
            accepted.append(KeepLargestComponent(labels=labels))
            cases, evaluation = changed, attempt
    return tuple(accepted), evaluation, reasons


def _keep_largest(case: _CaseMaps, labels: Sequence[str], encoding: LabelEncoding) -> _CaseMaps:
    prediction = keep_largest_component(case.prediction[:], indices_of(labels, encoding))
    return _measure(case.case, prediction, case.reference, encoding)


def _judge(before: Evaluation, after: Evaluation, own_label: str | None) -> tuple[bool, str]:
    """Whether a step is accepted, and the figures that decide."""
    old, new = (
        one.mean_foreground_dice if own_label is None else one.labels[own_label].dice for one in (before, after)
    )
    fallen = [name for name, label in after.labels.items() if _is_less(label.dice, before.labels[name].dice)]
    figures = f"Dice {format_score(old)} before, {format_score(new)} after"
    if fallen:
        figures += f"; lower for {', '.join(fallen)}"
    return _is_less(old, new) and not fallen, figures


def _is_less(first: float | None, second: float | None) -> bool:
    """Whether both are known and the first is smaller: a label that loses all its false alarms has not fallen."""
    return first is not None and second is not None and first < second
