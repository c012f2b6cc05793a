"""Learn from held-out cases how far the winner's probabilities can be trusted.

    networks of the winner, again --drawn voxels, sums by label--> a small file per case
    drawn voxels --> temperatures, tested on other folds than they were fitted on
    sums by label, Dice of the recipe --> expected Dice with an interval, tested in the same way

A held-out case has one network of each configuration that has not seen it, so disagreement between folds cannot be
learnt from: for new images there are several networks, for held-out ones there is none to disagree with.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import encode_label_map
from autoseg.imaging.arrays.storage import RECORD_ENDING
from autoseg.imaging.datasets.cases import choose_orientation
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.volume import orient_array
from autoseg.inference.restoring.decisions import DEFAULT_THRESHOLDS, Thresholds
from autoseg.inference.restoring.restore import restore_labels
from autoseg.inference.sinks.label_sums import LabelSumsCounter
from autoseg.inference.sinks.voxel_sample import VoxelSample
from autoseg.progress import Progress, ProgressBar, no_bar
from autoseg.records.confidence import Confidence, ConfidenceReport
from autoseg.records.dataset import foreground_names
from autoseg.records.evaluation import CaseScores
from autoseg.records.files import read_record, replacing, write_record
from autoseg.records.plan import hash_of
from autoseg.records.selection import EnsembleOrigin, Names
from autoseg.records.workspace import Workspace
from autoseg.selection.expected_dice import ScoredCase, describe_unlearnt, learn_expected_dice
from autoseg.selection.temperature import NO_CHANGE, Voxels, learn_temperatures
from autoseg.selection.validation_run import (
    ORIGIN_FILE,
    PredictCase,
    ValidatedFold,
    ValidationRun,
    predict_each,
    weights_origin,
)

MAX_NUMBERS = 2**24
"""Probabilities of all drawn voxels together; 64 MiB in float32."""
CASE_VOXELS = (256, 8192)
"""Smallest and largest number of voxels that are drawn from a case."""
MEASURED_ENDING = ".npz"


@dataclass(frozen=True)
class ConfidenceOutcome:
    """What was learnt, and why."""

    confidence: Confidence | None
    """None: nothing could be learnt."""
    report: ConfidenceReport | None
    reasons: tuple[str, ...]
    promised: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Overlap that the probabilities promise, by held-out case and label that is predicted there."""


@dataclass(frozen=True)
class _Measured:
    case: str
    fold: str
    voxels: Voxels
    measurements: NDArray[np.float64]
    """(L, 3) by foreground label; see `LabelSums.measurements`."""


def learn_confidence(
    run: ValidationRun,
    names: Names,
    folds: Sequence[ValidatedFold],
    scores: Sequence[CaseScores],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    bar: ProgressBar = no_bar,
) -> ConfidenceOutcome:
    """Fit temperatures and models of the expected Dice; cases that were measured with these weights are read.

    Args:
        run: Context of the run; its workspace has the preprocessed cases.
        names: Names of the configurations whose probabilities are averaged.
        folds: All validated folds of the model.
        scores: Scores of these cases after the whole recipe.
        thresholds: Thresholds of regions; empty: one half for all.
        bar: Progress of the cases that have to be predicted.

    Raises:
        UsageError: If label maps of a cascade's previous step are missing.
        ImageFileError: If a reference cannot be read.
        PredictionError: If weights are damaged or belong to another plan.
        DatasetError: If a file of measurements is damaged.
    """
    missing = _count_missing(run, names, folds)
    if missing:
        reason = f"Confidence: not learnt, the preprocessed data of {missing} held-out cases is missing."
        return ConfidenceOutcome(None, None, (reason,))
    with bar("confidence") as progress:
        measured = _measure_all(run, names, folds, thresholds, progress)
    # where some labels were not looked for, nobody knows which voxels are background
    complete = [case for case in measured if run.files(case.case).annotated is None]
    folds_of_cases = [case.fold for case in complete]
    learnt = learn_temperatures([case.voxels for case in complete], folds_of_cases, run.plan.encoding)
    by_case = {case.case: case for case in scores}
    labels = [
        learn_expected_dice(label, [_scored(case, place, label, by_case) for case in measured])
        for place, label in enumerate(foreground_names(run.plan.encoding))
    ]
    models = {label.label: label.model for label in labels if label.model is not None}
    agreement = {label.label: label.agreement for label in labels if label.agreement is not None}
    held_out = tuple(case for label in labels for case in label.cases)
    return ConfidenceOutcome(
        Confidence(temperatures=learnt.temperatures, expected_dice=models),
        ConfidenceReport(calibration=learnt.errors, agreement=agreement, cases=held_out),
        (learnt.reason, *(label.reason for label in labels if label.reason), *describe_unlearnt(labels)),
        {case.case: _promised_overlaps(case, foreground_names(run.plan.encoding)) for case in measured},
    )


def learn_fold_temperatures(
    run: ValidationRun, name: str, folds: Sequence[ValidatedFold], bar: ProgressBar = no_bar
) -> dict[str, dict[str, float]]:
    """Temperatures of one configuration for each of its folds, learnt on the cases that the other folds validated.

    So nothing that a fold says of other images knows the labels of the cases that it is judged by.

    Args:
        run: Context of the run; its workspace has the preprocessed cases.
        name: The configuration.
        folds: All validated folds of it.
        bar: Progress of the cases that have to be predicted.

    Returns:
        Temperature of each head by fold; 1 where they do not help, or cannot be learnt.
    """
    unchanged = {head.name: NO_CHANGE for head in run.plan.encoding.heads}
    if len(folds) < 2 or _count_missing(run, (name,), folds):
        return {fold.fold: unchanged for fold in folds}
    with bar("confidence") as progress:
        measured = _measure_all(run, (name,), folds, DEFAULT_THRESHOLDS, progress)
    found = {}
    for fold in folds:
        others = [case for case in measured if case.fold != fold.fold]
        learnt = learn_temperatures([case.voxels for case in others], [case.fold for case in others], run.plan.encoding)
        found[fold.fold] = learnt.temperatures
    return found


def _promised_overlaps(case: _Measured, names: Sequence[str]) -> dict[str, float]:
    overlaps = zip(names, case.measurements[:, 0].tolist(), strict=True)
    return {name: overlap for name, overlap in overlaps if np.isfinite(overlap)}


def write_report(outcome: ConfidenceOutcome, workspace: Workspace) -> None:
    """Write confidence.json, or delete an earlier selection's, which would contradict this one."""
    if outcome.report is None:
        workspace.confidence.unlink(missing_ok=True)
    else:
        write_record(outcome.report, workspace.confidence)


def _count_missing(run: ValidationRun, names: Names, folds: Sequence[ValidatedFold]) -> int:
    """Number of held-out cases that cannot be predicted again."""
    configurations = run.plan.configurations
    cases = [case for fold in folds for case in fold.cases]
    if not configurations.keys() >= set(names):
        return len(cases)
    folders = [run.workspace.preprocessed(configurations[name].preprocessed_as) for name in names]
    return sum(not all((folder / (case + RECORD_ENDING)).exists() for folder in folders) for case in cases)


def _measure_all(
    run: ValidationRun, names: Names, folds: Sequence[ValidatedFold], thresholds: Thresholds, progress: Progress
) -> list[_Measured]:
    count = sum(len(fold.evaluation.cases) for fold in folds)
    fewest, most = CASE_VOXELS
    max_voxels = min(max(MAX_NUMBERS // (len(run.plan.encoding.heads) * count), fewest), most)
    pending: dict[str, list[tuple[str, Path]]] = {}
    paths = []
    for fold in folds:
        cases = fold.cases
        folder = run.workspace.confidence_cases(names, fold.fold).absolute()
        weights = weights_origin(run, names, fold.fold, cases)
        origin = hash_of([weights, dict(thresholds), max_voxels])
        _remove_outdated(folder, EnsembleOrigin(configurations=names, fold=fold.fold, origin=origin))
        own = [(case, folder / f"{case}{MEASURED_ENDING}") for case in cases]
        pending[fold.fold] = [item for item in own if not item[1].exists()]
        paths += [(fold.fold, *item) for item in own]
    work = partial(_measure_case, names=names, thresholds=dict(thresholds), max_voxels=max_voxels)
    done, total = 0, sum(map(len, pending.values()))
    for fold_name, items in pending.items():
        for _ in predict_each(run, fold_name, names, items, work):
            done += 1
            progress(done, total)
    return [_read_measured(fold_name, case, path) for fold_name, case, path in paths]


def _remove_outdated(folder: Path, origin: EnsembleOrigin) -> None:
    """Delete measurements that were made with other weights or settings."""
    path = folder / ORIGIN_FILE
    if path.exists() and read_record(EnsembleOrigin, path) == origin:
        return
    path.unlink(missing_ok=True)  # first, so that files left by an interruption here do not count
    for old in folder.glob(f"*{MEASURED_ENDING}"):
        old.unlink()
    write_record(origin, path)


def _measure_case(
    run: ValidationRun,
    predict: PredictCase,
    item: tuple[str, Path],
    *,
    names: Names,
    thresholds: Mapping[str, float],
    max_voxels: int,
) -> None:
    """Write what is needed of one case."""
    case, path = item
    encoding = run.plan.encoding
    label_map = read_reference(run.dataset_folder, run.files(case), encoding)
    reference = orient_array(
        encode_label_map(label_map.array[0], encoding), choose_orientation(label_map.grid, run.plan.orientation)
    )
    sample = VoxelSample(reference, encoding, max_voxels, np.random.default_rng(zlib.crc32(case.encode())))
    counter = LabelSumsCounter(encoding, thresholds)
    restore_labels([predict(name, case) for name in names], encoding, [sample, counter], thresholds)
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            probabilities=sample.probabilities,
            indices=sample.indices,
            weights=sample.weights,
            measurements=np.array([sums.measurements for sums in counter.sums.values()]),
        )


def _scored(measured: _Measured, place: int, label: str, scores: Mapping[str, CaseScores]) -> ScoredCase:
    dice = scores[measured.case].labels[label].dice if measured.case in scores else None
    return ScoredCase(measured.case, measured.fold, measured.measurements[place], dice)


def _read_measured(fold: str, case: str, path: Path) -> _Measured:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            voxels = Voxels(arrays["probabilities"], arrays["indices"], arrays["weights"])
            return _Measured(case, fold, voxels, arrays["measurements"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DatasetError(f"{path}: missing or damaged ({error}); delete it and select again") from error
