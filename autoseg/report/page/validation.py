"""Results of the folds of a workspace: training histories, scores, calibration, folders of label maps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from operator import add
from pathlib import Path

from autoseg.metrics.summary import summarize
from autoseg.records.calibration import Calibration, CalibrationCounts
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, read_records
from autoseg.records.selection import Selection
from autoseg.records.workspace import CALIBRATION_NAME, EVALUATION_NAME, Workspace
from autoseg.text import format_names


@dataclass(frozen=True)
class PooledFolds:
    """All validated folds of one configuration as one evaluation, before any post-processing."""

    configuration: str
    """Name of the configuration, or of two as `a + b` whose probabilities are averaged."""
    folds: tuple[str, ...]
    evaluation: Evaluation
    folders: dict[str, Path]
    """Folder of the predicted label map of each case."""


def read_pooled_folds(workspace: Workspace, outdated: Collection[tuple[str, str]] = ()) -> list[PooledFolds]:
    """Pool the validated folds of each configuration, by name.

    Args:
        workspace: Workspace with the folds.
        outdated: Folds to leave out, as (configuration, fold).

    Raises:
        RecordError: If an evaluation is damaged.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted((workspace.root / "models").glob(f"*/fold_*/validation/{EVALUATION_NAME}")):
        configuration, fold = path.parents[2].name, path.parents[1].name.removeprefix("fold_")
        if (configuration, fold) not in outdated:
            found.setdefault(configuration, []).append(path)
    return [_pool(configuration, paths) for configuration, paths in found.items()]


def read_selected_ensemble(workspace: Workspace, selection: Selection | None) -> list[PooledFolds]:
    """Pool the folds of the selected ensemble; empty where none is selected or its label maps are missing.

    Raises:
        RecordError: If an evaluation is damaged.
    """
    if selection is None or len(selection.configurations) == 1:
        return []
    names = selection.configurations
    paths = [workspace.validation_evaluation(names, fold) for fold in selection.folds]
    if not all(path.exists() for path in paths):
        return []
    return [replace(_pool(format_names(names), paths), folds=selection.folds)]


def _pool(configuration: str, paths: Sequence[Path]) -> PooledFolds:
    evaluations = [read_record(Evaluation, path) for path in paths]
    return PooledFolds(
        configuration=configuration,
        folds=tuple(path.parents[1].name.removeprefix("fold_") for path in paths),
        evaluation=summarize(
            [case for evaluation in evaluations for case in evaluation.cases],
            list(evaluations[0].labels),
            [case for evaluation in evaluations for case in evaluation.missing_predictions],
        ),
        folders={
            case.case: path.parent for path, of_fold in zip(paths, evaluations, strict=True) for case in of_fold.cases
        },
    )


def read_histories(workspace: Workspace) -> dict[str, dict[str, list[EpochHistory]]]:
    """Training histories by configuration and fold, of finished and of running folds.

    Raises:
        RecordError: If a line is damaged.
    """
    histories: dict[str, dict[str, list[EpochHistory]]] = {}
    for path in sorted((workspace.root / "models").glob("*/fold_*/history.jsonl")):
        fold = path.parent.name.removeprefix("fold_")
        histories.setdefault(path.parents[1].name, {})[fold] = read_records(EpochHistory, path)
    return histories


def read_calibration(workspace: Workspace, configuration: str, folds: Sequence[str]) -> dict[str, CalibrationCounts]:
    """Counts of a configuration by label, added up over the folds that have them; empty where no fold has any.

    Raises:
        RecordError: If a file is damaged.
    """
    totals: dict[str, CalibrationCounts] = {}
    for fold in folds:
        path = workspace.validation((configuration,), fold) / CALIBRATION_NAME
        if path.exists():
            for name, counts in read_record(Calibration, path).labels.items():
                totals[name] = add_counts(totals[name], counts) if name in totals else counts
    return totals


def add_counts(one: CalibrationCounts, other: CalibrationCounts) -> CalibrationCounts:
    """Sum of two counts, bin by bin."""
    return CalibrationCounts(
        voxels=tuple(map(add, one.voxels, other.voxels)),
        probability_sums=tuple(map(add, one.probability_sums, other.probability_sums)),
        label_voxels=tuple(map(add, one.label_voxels, other.label_voxels)),
    )
