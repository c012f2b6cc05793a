"""Evaluate instances: compare predicted instances with those of references by panoptic quality and average precision.

Instances are read from `CASE_instances.ext` if it lies beside a label map; else they are the connected components
of each label. What ranks them is read from `instances.csv`; an instance without a score has score one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.cluster.dask_workers import Workers
from autoseg.components import Connectivity, label_components
from autoseg.errors import ImageFileError, UsageError
from autoseg.imaging.datasets.cases import map_in_processes
from autoseg.imaging.formats.label_values import check_whole_numbers, describe_fractions
from autoseg.imaging.formats.reading import Volume, read_label_map, split_ending
from autoseg.imaging.formats.volume import grid_difference
from autoseg.inference.files.instance_scores import InstanceScoreTable, read_instance_scores
from autoseg.inference.files.label_maps import find_label_maps, find_references
from autoseg.inference.files.tables import INSTANCES_FILE
from autoseg.metrics.average_precision import IOU_TWENTIETHS, ScoredMatches, average_precision, match_by_score
from autoseg.metrics.detection import find_overlaps, rate_overlaps
from autoseg.processes import WorkerDeath
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import BACKGROUND, IGNORE, Fault, LabelReading, LabelValues
from autoseg.records.evaluation import AveragePrecision, CaseInstanceScores, InstanceEvaluation, InstanceScores
from autoseg.records.prediction import INSTANCES
from autoseg.stages.evaluate import not_compared, note_faults, undeclared_values

OBJECT = "object"
"""Name of the only label where references number instances, but have no labels."""


@dataclass(frozen=True)
class _CaseOutcome:
    """What became of one case."""

    case: str
    scores: CaseInstanceScores | None
    """None: the case could not be compared."""
    matches: dict[str, ScoredMatches] = field(default_factory=dict)
    """Matches of the predicted instances by label."""
    num_unscored: int = 0
    """Predicted instances without a score."""
    faults: tuple[Fault, ...] = ()
    prediction_notes: tuple[str, ...] = ()
    reference_notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InstanceOptions:
    """How instances are found in label maps."""

    labels: Mapping[str, LabelValues] | None = None
    """Name -> value(s) in the files; None: all foreground is one label, `object`."""
    reading: LabelReading | None = None
    """How label files are read; None: their pixels are label values."""
    connectivity: Connectivity = "full"
    """Connectivity of components, where there is no map of instances."""
    reference_ids: bool = False
    """Whether references are maps with a number for each instance instead of label maps; labels are not used then."""

    def groups(self) -> dict[str, tuple[int, ...] | None]:
        """Values of each label whose instances are scored; None: all values but 0."""
        if self.labels is None or self.reference_ids:
            return {OBJECT: None}
        return {
            name: values if isinstance(values, tuple) else (values,)
            for name, values in self.labels.items()
            if name not in (BACKGROUND, IGNORE)
        }

    def find_ignored(self, reference: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Voxels of a reference, (Z, Y, X), that do not count."""
        if self.labels is None or self.reference_ids or IGNORE not in self.labels:
            return np.zeros(reference.shape, dtype=np.bool_)
        return np.isin(reference, self.labels[IGNORE])


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
            case names.
        options: Labels, and how instances are found.
        workers: Cases scored at the same time, in processes.
        progress: Called after each case.

    Returns:
        The evaluation, and faults: errors for cases that could not be compared, warnings for values that no label
        declares and notes of the readers.

    Raises:
        UsageError: If a folder is missing, no case is in both, no case could be compared, or worker processes cannot
            start.
    """
    predicted = find_label_maps(predictions)
    expected = find_references(references, predicted)
    matched = sorted(predicted.keys() & expected.keys())
    if not matched:
        raise UsageError(
            f"no case is in both folders, {predictions} and {references}; file names without endings must be equal"
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
    cases = tuple(outcome.scores for outcome in outcomes if outcome.scores is not None)
    if not cases:
        listed = "\n".join(f"  {fault.file}: {fault.what}" for fault in faults)
        raise UsageError(f"no case could be compared:\n{listed}")
    names = cases[0].labels.keys()
    precisions = _rank([outcome.matches for outcome in outcomes if outcome.scores is not None])
    evaluation = InstanceEvaluation(
        connectivity=options.connectivity,
        labels={name: pool_scores(case.labels[name] for case in cases) for name in names},
        cases=cases,
        missing_predictions=tuple(sorted(expected.keys() - predicted.keys())),
        score_source=table.source,
        average_precision={name: None if values is None else _describe(values) for name, values in precisions.items()},
        mean_average_precision=_average([values for values in precisions.values() if values is not None]),
    )
    faults += _unscored_faults(predictions, table, outcomes)
    faults += note_faults(predictions, {outcome.case: outcome.prediction_notes for outcome in outcomes})
    faults += note_faults(references, {outcome.case: outcome.reference_notes for outcome in outcomes})
    return evaluation, tuple(faults)


def pool_scores(scores: Iterable[InstanceScores]) -> InstanceScores:
    """Scores of one label over all cases together.

    References:
        Kirillov et al. 2019, Panoptic Segmentation, section 4: counts are of the whole dataset.
    """
    cases = list(scores)
    return _rate(
        sum(case.sum_iou for case in cases),
        sum(case.true_positives for case in cases),
        sum(case.false_positives for case in cases),
        sum(case.false_negatives for case in cases),
    )


def _rate(sum_iou: float, matched: int, false_alarms: int, missed: int) -> InstanceScores:
    instances = matched + (false_alarms + missed) / 2
    return InstanceScores(
        true_positives=matched,
        false_positives=false_alarms,
        false_negatives=missed,
        sum_iou=sum_iou,
        segmentation_quality=sum_iou / matched if matched else None,
        recognition_quality=matched / instances if instances else None,
        panoptic_quality=sum_iou / instances if instances else None,
    )


def _rank(cases: Sequence[Mapping[str, ScoredMatches]]) -> dict[str, NDArray[np.float64] | None]:
    """Average precision by label, at each threshold."""
    return {name: average_precision([case[name] for case in cases]) for name in cases[0]}


def _average(values: Sequence[NDArray[np.float64]]) -> AveragePrecision | None:
    return _describe(np.mean(values, axis=0)) if values else None


def _describe(values: NDArray[np.float64]) -> AveragePrecision:
    by_iou = {f"{number / 20:.2f}": float(value) for number, value in zip(IOU_TWENTIETHS, values, strict=True)}
    return AveragePrecision(mean=float(values.mean()), by_iou=by_iou)


def _unscored_faults(folder: Path, table: InstanceScoreTable, outcomes: Sequence[_CaseOutcome]) -> list[Fault]:
    """A warning if the table of instances lacks some of the predicted ones."""
    unscored = sum(outcome.num_unscored for outcome in outcomes)
    if table.source == "none" or not unscored:
        return []
    what = f"{unscored} predicted instances have no {table.source} there; for average precision they have score one"
    return [Fault(severity="warning", case="", file=str(folder / INSTANCES_FILE), what=what)]


def _score_case(options: InstanceOptions, files: tuple[str, Path, Path, Mapping[int, float]]) -> _CaseOutcome:
    case, prediction, reference, score_of = files
    try:
        reading = None if options.reference_ids else options.reading
        predicted, expected = read_label_map(prediction, reading), read_label_map(reference, reading)
        for volume in (predicted, expected):
            check_whole_numbers(volume.array, volume.path)
        _check_grid(predicted, expected)
        predicted_ids, reference_ids = _read_ids(predicted), _read_ids(expected)
        if options.reference_ids:
            reference_ids = expected.array[0]
    except ImageFileError as error:
        return _failed(case, Fault(severity="error", case=case, file=str(prediction), what=str(error)))
    faults: tuple[Fault, ...] = ()
    if options.labels is not None and not options.reference_ids:
        faults = undeclared_values(
            case, {prediction: predicted.array[0], reference: expected.array[0]}, dict(options.labels)
        )
    if any(fault.severity == "error" for fault in faults):
        return _failed(case, *faults)
    if predicted_ids is None:
        score_of = {}  # components have numbers of their own
    scores, matches, num_unscored = {}, {}, 0
    for name, values in options.groups().items():
        inside = _mask(predicted.array[0], values), _mask(expected.array[0], values)
        ids = [
            _find_instances(mask, stored, options.connectivity)
            for mask, stored in zip(inside, (predicted_ids, reference_ids), strict=True)
        ]
        for numbers in ids:
            numbers[options.find_ignored(expected.array[0])] = 0
        overlaps = find_overlaps(*ids)
        found = rate_overlaps(overlaps)
        matched = found.true_positives
        sum_iou = matched * (found.segmentation_quality or 0.0)
        scores[name] = _rate(sum_iou, matched, found.false_positives, found.false_negatives)
        ranks = [score_of.get(number, 1.0) for number in overlaps.predicted.tolist()]
        matches[name] = match_by_score(overlaps, np.array(ranks))
        num_unscored += sum(number not in score_of for number in overlaps.predicted.tolist())
    return _CaseOutcome(
        case,
        CaseInstanceScores(case=case, labels=scores),
        matches,
        num_unscored,
        faults,
        predicted.notes,
        expected.notes,
    )


def _failed(case: str, *faults: Fault) -> _CaseOutcome:
    return _CaseOutcome(case, None, faults=faults)


def _mask(labels: NDArray[np.generic], values: tuple[int, ...] | None) -> NDArray[np.bool_]:
    return labels != 0 if values is None else np.isin(labels, values)


def _find_instances(
    mask: NDArray[np.bool_], ids: NDArray[np.integer] | None, connectivity: Connectivity
) -> NDArray[np.integer]:
    return label_components(mask, connectivity) if ids is None else np.where(mask, ids, 0)


def _read_ids(labels: Volume) -> NDArray[np.integer] | None:
    """The map of instances beside a label map; None if there is no such file."""
    if labels.path is None:
        return None
    stem, ending = split_ending(labels.path.name)
    path = labels.path.with_name(f"{stem}_{INSTANCES}{ending}")
    if not path.is_file():
        return None
    found = read_label_map(path)
    _check_grid(found, labels)
    ids: NDArray[np.integer] = found.array[0]
    if ids.dtype.kind not in "ui":
        raise ImageFileError(f"{path}: maps of instances have whole numbers: {describe_fractions(found.array)}")
    return ids


def _check_grid(volume: Volume, other: Volume) -> None:
    difference = grid_difference(volume.grid, other.grid)
    if difference is not None:
        raise ImageFileError(f"{volume.path}: does not lie on the grid of {other.path}: {difference}")
