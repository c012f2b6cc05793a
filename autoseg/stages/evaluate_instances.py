"""Evaluate instances: compare predicted instances with those of references by panoptic quality and average precision.

What ranks predicted instances is read from `instances.csv`; an instance without a score has score one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoseg.cluster.dask_workers import Workers
from autoseg.errors import ImageFileError, UsageError
from autoseg.imaging.datasets.cases import map_in_processes
from autoseg.imaging.formats.label_values import check_whole_numbers
from autoseg.imaging.formats.reading import read_label_map
from autoseg.inference.files.instance_scores import InstanceScoreTable, read_instance_scores
from autoseg.inference.files.instance_scoring import (
    InstanceOptions,
    ScoredCase,
    check_grid,
    pool_cases,
    score_instances,
)
from autoseg.inference.files.label_maps import find_pairs
from autoseg.inference.files.tables import INSTANCES_FILE
from autoseg.processes import WorkerDeath
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import CaseFiles, Fault
from autoseg.records.evaluation import InstanceEvaluation
from autoseg.stages.evaluate import none_compared, not_compared, note_faults, undeclared_values


@dataclass(frozen=True)
class _CaseOutcome:
    """What became of one case."""

    case: str
    scored: ScoredCase | None
    """None: the case could not be compared."""
    faults: tuple[Fault, ...] = ()
    prediction_notes: tuple[str, ...] = ()
    reference_notes: tuple[str, ...] = ()


def evaluate_instances(
    predictions: Path,
    references: Path,
    options: InstanceOptions,
    *,
    workers: Workers = 1,
    progress: Progress = no_progress,
) -> tuple[InstanceEvaluation, tuple[Fault, ...]]:
    """Match the instances of every prediction that has a reference.

    Args:
        predictions: Folder of label maps, with or without maps of instances.
        references: Folder of label maps (with or without maps of instances), or of maps of instances alone; equal
            case names. Or a dataset in any layout with a label map for each case.
        options: Labels, and how instances are found.
        workers: Cases scored at the same time, in processes.
        progress: Called after each case.

    Returns:
        The evaluation, and faults: errors for cases that could not be compared, warnings for values that no label
        declares and notes of the readers.

    Raises:
        UsageError: If a folder is missing, no case is in both, references are masks of single labels, no case could be
            compared, or worker processes cannot start.
    """
    predicted, expected = find_pairs(predictions, references)
    matched = sorted(predicted.keys() & expected.keys())
    if any(part.file != expected[case].label for case in matched for part in expected[case].parts or ()):
        raise UsageError(
            f"{references}: each label has a mask of its own, and instances are compared with label maps. Give a "
            "folder of label maps, or leave out --instances"
        )
    table = read_instance_scores(predictions)
    files = [(case, predicted[case], expected[case], table.by_case.get(case, {})) for case in matched]
    score = partial(_score_case, options)
    scoring = map_in_processes(score, files, task="evaluation", workers=workers, progress=progress)
    outcomes = [
        _failed(case, not_compared(case, path, outcome)) if isinstance(outcome, WorkerDeath) else outcome
        for (case, path, *_), outcome in zip(files, scoring, strict=True)
    ]
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    if not any(outcome.scored for outcome in outcomes):
        raise none_compared(faults)
    missing = sorted(expected.keys() - predicted.keys())
    evaluation = pool_cases([outcome.scored for outcome in outcomes if outcome.scored], options, table.source, missing)
    faults += _unscored_faults(predictions, table, outcomes)
    faults += note_faults(predictions, {outcome.case: outcome.prediction_notes for outcome in outcomes})
    faults += note_faults(references, {outcome.case: outcome.reference_notes for outcome in outcomes})
    return evaluation, tuple(faults)


def _unscored_faults(folder: Path, table: InstanceScoreTable, outcomes: Sequence[_CaseOutcome]) -> list[Fault]:
    """A warning if the table of instances lacks some of the predicted ones."""
    unscored = sum(outcome.scored.num_unscored for outcome in outcomes if outcome.scored)
    if table.source == "none" or not unscored:
        return []
    what = f"{unscored} predicted instances have no {table.source} there; for average precision they have score one"
    return [Fault(severity="warning", case="", file=str(folder / INSTANCES_FILE), what=what)]


def _score_case(options: InstanceOptions, files: tuple[str, Path, CaseFiles, Mapping[int, float]]) -> _CaseOutcome:
    case, prediction, reference_files, score_of = files
    reference, listed_map = Path(reference_files.label), reference_files.instances
    try:
        reading = None if options.reference_ids else options.reading
        predicted, expected = read_label_map(prediction, reading), read_label_map(reference, reading)
        for volume in (predicted, expected):
            check_whole_numbers(volume.array, volume.path)
        check_grid(predicted, expected)
        faults: tuple[Fault, ...] = ()
        if options.labels is not None and not options.reference_ids:
            arrays = {prediction: predicted.array[0], reference: expected.array[0]}
            faults = undeclared_values(case, arrays, dict(options.labels))
        if any(fault.severity == "error" for fault in faults):
            return _failed(case, *faults)
        reference_map = read_label_map(Path(listed_map)) if listed_map else None
        if reference_map is not None:
            check_whole_numbers(reference_map.array, reference_map.path)
        scored = score_instances(case, predicted, expected, options, score_of, reference_map=reference_map)
    except ImageFileError as error:
        return _failed(case, Fault(severity="error", case=case, file=str(prediction), what=str(error)))
    return _CaseOutcome(case, scored, faults, predicted.notes, expected.notes)


def _failed(case: str, *faults: Fault) -> _CaseOutcome:
    return _CaseOutcome(case, None, faults=faults)
