"""Validation cases, predicted and scored again by the networks that did not train on them.

    ValidationRun --predict_each--> logits of each case --work--> files (label maps, thresholds, samples of voxels)

Tested in tests/selection/test_ensembles.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from joblib import Parallel, delayed

from autoseg.cluster.dask_workers import DaskCluster, ToolCluster
from autoseg.errors import PredictionError, TrainingError, UsageError
from autoseg.imaging.arrays.storage import RECORD_ENDING, open_case
from autoseg.imaging.arrays.stored_arrays import StoredArray
from autoseg.imaging.datasets.cases import read_case
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.volume import voxel_mm3
from autoseg.imaging.formats.writing import label_map_ending
from autoseg.inference.files.label_maps import find_label_maps, read_prediction
from autoseg.inference.models.cascade_maps import load_previous
from autoseg.inference.models.case_logits import stream_stored_case
from autoseg.inference.models.loading import LoadedConfiguration, load_configuration, refuse_other_plans, with_precision
from autoseg.inference.models.recipes import cascade_steps
from autoseg.inference.restoring.restore import LabelIndices, LogitStream
from autoseg.metrics.annotated import keep_annotated
from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.summary import summarize
from autoseg.networks.devices import choose_device
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import CaseFiles, DatasetDescription, foreground_names
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, hash_of
from autoseg.records.selection import EnsembleOrigin, Names
from autoseg.records.workspace import EVALUATION_NAME, Workspace
from autoseg.text import format_command

ORIGIN_FILE = "origin.json"

PredictCase = Callable[[str, str], LogitStream]
"""Function that takes the names of a configuration and of a case, and gives the case's logits as a stream."""

Item = TypeVar("Item", bound=tuple[Any, ...])


@dataclass(frozen=True)
class ValidatedFold:
    """One fold of a configuration or of an ensemble, predicted and scored."""

    fold: str
    folder: Path
    """Folder of the validation label maps."""
    evaluation: Evaluation

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases."""
        return tuple(scores.case for scores in self.evaluation.cases)


def scores_of(folds: Iterable[ValidatedFold]) -> list[CaseScores]:
    """Scores of the cases of several folds."""
    return [scores for fold in folds for scores in fold.evaluation.cases]


@dataclass(frozen=True, kw_only=True)
class ValidationRun:
    """Everything that is needed to predict and score validation cases again."""

    workspace: Workspace
    dataset: DatasetDescription
    dataset_folder: Path
    plan: Plan
    device: torch.device
    precision: str = "auto"
    """auto, fp32, tf32, bf16 or fp16; the same rule as prediction, see `inference.models.loading.with_precision`."""
    workers: int = 1
    """Threads that compute scores."""
    member_weights: Mapping[str, float] = field(default_factory=dict)
    """Parts of the mean of probabilities by configuration, where a pair has other than equal ones."""
    cluster: DaskCluster | None = None
    """Cluster that predicts cases again; None: this process does."""
    device_name: str = "auto"
    """Device on the cluster's workers: a name of `choose_device`."""

    def files(self, case: str) -> CaseFiles:
        """Paths of a case's image and reference."""
        return next(files for files in self.dataset.cases if files.case == case)


@dataclass(frozen=True)
class FoldMaps:
    """Validation label maps of one fold that are made again: which cases, by which configurations, and where."""

    run: ValidationRun
    names: Names
    fold: str
    cases: tuple[str, ...]
    folder: Path

    def remove_outdated(self) -> None:
        """Delete label maps that were made from other weights."""
        origin = EnsembleOrigin(
            configurations=self.names,
            fold=self.fold,
            origin=weights_origin(self.run, self.names, self.fold, self.cases),
        )
        path = self.folder / ORIGIN_FILE
        if path.exists() and read_record(EnsembleOrigin, path) == origin:
            return
        path.unlink(missing_ok=True)  # first, so that files left by an interruption here do not count
        for old in self.folder.glob("*"):
            if old.is_file():
                old.unlink()
        write_record(origin, path)

    def evaluate(self) -> ValidatedFold:
        """Score the label maps; an existing evaluation.json was written after all of them, so it is read instead."""
        path = self.folder / EVALUATION_NAME
        if path.exists():
            return ValidatedFold(self.fold, self.folder, read_record(Evaluation, path))
        predictions = find_label_maps(self.folder)
        tasks = (delayed(_score)(self.run, case, predictions[case]) for case in self.cases)
        scores: list[CaseScores] = Parallel(n_jobs=self.run.workers, prefer="threads")(tasks)
        evaluation = summarize(scores, foreground_names(self.run.plan.encoding))
        write_record(evaluation, path)
        return ValidatedFold(self.fold, self.folder, evaluation)


def predict_again(run: ValidationRun, fold: str, names: Iterable[str], cases: Sequence[str]) -> PredictCase:
    """Load the networks that predict validation cases of a fold.

    Returns:
        A function that takes the names of a configuration and of a case, and gives the case's logits as a stream.

    Raises:
        UsageError: If label maps of a cascade's previous step are missing or outdated; in the function: if the
            preprocessed data of a case is missing.
        PredictionError: If weights are damaged or belong to another plan.
    """
    loaded = {name: load_configuration(run.workspace, run.plan, name, [fold], "final", run.device) for name in names}
    refuse_other_plans(run.workspace, loaded.values())
    members = {
        name: replace(
            with_precision(member, run.precision, run.device, run.plan.encoding), weight=run.member_weights.get(name)
        )
        for name, member in loaded.items()
    }
    previous = {name: _load_previous(run, member, cases) for name, member in members.items()}
    return lambda name, case: _open_logits(run, members[name], previous[name], case)


def predict_each(
    run: ValidationRun,
    fold: str,
    names: Sequence[str],
    items: Sequence[Item],
    work: Callable[[ValidationRun, PredictCase, Item], None],
) -> Iterator[None]:
    """Predict validation cases of a fold again, and do something with each, here or on the cluster.

    Args:
        run: Context of the run.
        fold: Fold name.
        names: Configurations that are loaded.
        items: Tuples that begin with the name of a case.
        work: Function of the run, of the function that `predict_again` gives, and of an item. It writes files, to
            absolute paths; for a cluster it is picklable, as items are.

    Yields:
        None after each item.

    Raises:
        PredictionError: If a case could not be predicted on the cluster.
    """
    if not items:
        return
    cases = [item[0] for item in items]
    if run.cluster is None:
        predict = predict_again(run, fold, names, cases)
        for item in items:
            work(run, predict, item)
            yield
        return
    workspace, dataset_folder = Workspace(run.workspace.root.absolute()), run.dataset_folder.absolute()
    there = replace(run, cluster=None, workspace=workspace, dataset_folder=dataset_folder)
    tool = ToolCluster(run.cluster, partial(_load_on_worker, there, fold, names, cases))
    for index, failure in tool.work(partial(_work_on_worker, work), items, task="selection"):
        if failure is not None:
            raise PredictionError(f"{cases[index]}: {failure}")
        yield


def write_validation_maps(run: ValidationRun, case: str, maps: Sequence[tuple[LabelIndices, Path]]) -> None:
    """Write label indices, (Z, Y, X) in working orientation, on the grid of a case's image, each into its folder."""
    original = read_case(run.dataset_folder, run.files(case), run.plan.encoding, run.plan.orientation)
    for labels, folder in maps:
        original.write_labels(labels, run.plan.encoding, folder / f"{case}{label_map_ending(run.dataset.file_ending)}")


def weights_origin(run: ValidationRun, names: Sequence[str], fold: str, cases: Sequence[str]) -> str:
    """Hash of what predicts a fold's cases: weights of all configurations and of the cascade steps before them.

    Parts of the mean of probabilities count where they are not equal.
    """
    stages = [stage for name in names for stage in cascade_steps(run.plan, name)]
    records = [
        read_record(Checkpoint, run.workspace.fold(stage, fold) / "checkpoint_final.json").model_dump(mode="json")
        for stage in stages
    ]
    weights = [dict(run.member_weights)] if run.member_weights else []
    return hash_of([records, sorted(cases), *weights])


def _load_on_worker(
    run: ValidationRun, fold: str, names: Sequence[str], cases: Sequence[str]
) -> tuple[ValidationRun, PredictCase]:
    there = replace(run, device=choose_device(run.device_name))
    return there, predict_again(there, fold, names, cases)


def _work_on_worker(
    work: Callable[[ValidationRun, PredictCase, Item], None], tool: tuple[ValidationRun, PredictCase], item: Item
) -> None:
    there, predict = tool
    work(there, predict, item)


def why_not_again(run: ValidationRun, names: Names, folds: Sequence[ValidatedFold]) -> str:
    """Why validation cases cannot be predicted again, as the end of a sentence; empty where they can.

    Args:
        run: Context of the run.
        names: Names of one configuration, or of two whose probabilities are averaged.
        folds: All validated folds of the model.
    """
    cases = [case for fold in folds for case in fold.cases]
    for name in names:
        if name not in run.plan.configurations:
            return f"the plan has no configuration {name}"
        folder = run.workspace.preprocessed(run.plan.configurations[name].preprocessed_as)
        missing = [case for case in cases if not (folder / (case + RECORD_ENDING)).exists()]
        if missing:
            return f"the preprocessed data of case {missing[0]} is missing in {folder.name}"
        if run.plan.configurations[name].previous_configuration is not None:
            try:
                load_previous(run.workspace, run.plan, name, cases)
            except TrainingError as error:
                return str(error)
    return ""


def _load_previous(run: ValidationRun, member: LoadedConfiguration, cases: Sequence[str]) -> Mapping[str, StoredArray]:
    if member.configuration.previous_configuration is None:
        return {}
    try:
        return load_previous(run.workspace, run.plan, member.name, cases)
    except TrainingError as error:
        raise UsageError(f"{error}\nOr select without predicting again: {_select_as_trained(run.workspace)}") from error


def _select_as_trained(workspace: Workspace) -> str:
    return format_command(
        "autoseg", "select", workspace.root, "--no-ensembles", "--no-thresholds", "--no-expected-dice"
    )


def _open_logits(
    run: ValidationRun, member: LoadedConfiguration, previous: Mapping[str, StoredArray], case: str
) -> LogitStream:
    folder = run.workspace.preprocessed(member.configuration.preprocessed_as)
    if not (folder / (case + RECORD_ENDING)).exists():
        raise UsageError(
            f"{folder}: the preprocessed data of case {case} is missing, which is needed to predict it again. Run "
            f"autoseg-plan with the same options and {format_command('-w', run.workspace.root)}; or select without "
            f"predicting again: {_select_as_trained(run.workspace)}"
        )
    stored = open_case(folder, case)
    return stream_stored_case(member, stored, previous[case][:] if case in previous else None)


def _score(run: ValidationRun, case: str, prediction: Path) -> CaseScores:
    reference = read_reference(run.dataset_folder, run.files(case), run.plan.encoding)
    predicted = read_prediction(case, prediction, reference)
    grid = reference.grid
    scores = measure_case(
        case, predicted.array[0], reference.array[0], run.plan.labels, grid.spacing, voxel_mm3=voxel_mm3(grid)
    )
    return keep_annotated(scores, run.files(case).annotated)
