"""Evaluate: compare two folders of label maps by case.

A reference without prediction, a prediction without reference and a case that cannot be compared are all named in the
result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.cluster.dask_workers import DaskCluster, Workers
from autoseg.errors import ColorMaskError, ImageFileError, UsageError
from autoseg.imaging.arrays.soft_masks import (
    MIN_GREY_LEVELS,
    are_grey_levels,
    count_values,
    describe_grey_levels,
    find_thin_values,
)
from autoseg.imaging.datasets.cases import map_in_processes
from autoseg.imaging.datasets.effort import label_map_memory_bytes
from autoseg.imaging.datasets.labels.annotated_labels import name_annotated
from autoseg.imaging.datasets.labels.label_parts import read_named_reference
from autoseg.imaging.datasets.labels.label_reading import (
    MIXED_SCALES,
    MIXED_SCALES_NOTE,
    has_mixed_scales,
    suggest_colors,
)
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.imaging.formats.label_values import MAX_LABEL_VALUE, VALUE_NOTES
from autoseg.imaging.formats.reading import describe_notes, read_label_map
from autoseg.imaging.formats.volume import SHEAR_NOTE, is_sheared, voxel_mm3
from autoseg.inference.files.label_maps import (
    find_label_maps,
    find_pairs,
    read_named_prediction,
    read_on_one_grid,
    read_prediction,
)
from autoseg.metrics.annotated import keep_annotated
from autoseg.metrics.case_scores import DEFAULT_TOLERANCE_MM, measure_case
from autoseg.metrics.summary import summarize
from autoseg.processes import WorkerDeath
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import BACKGROUND, IGNORE, CaseFiles, Fault, LabelReading, LabelValues
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.worker_memory import limit_workers

MAX_NUMBER_OF_VALUES = 256
"""A reference with more different values is an image, not a label map."""

_Pair = tuple[str, Path, CaseFiles]
"""Name of a case, its prediction and its reference."""


@dataclass(frozen=True)
class _CaseOutcome:
    """What became of one case."""

    case: str
    scores: CaseScores | None
    """None: the case could not be compared."""
    faults: tuple[Fault, ...] = ()
    prediction_notes: tuple[str, ...] = ()
    reference_notes: tuple[str, ...] = ()


def evaluate_predictions(
    predictions: Path,
    references: Path,
    *,
    labels: dict[str, LabelValues] | None = None,
    reading: LabelReading | None = None,
    tolerance_mm: float | None = DEFAULT_TOLERANCE_MM,
    workers: Workers = 1,
    progress: Progress = no_progress,
) -> tuple[Evaluation, tuple[Fault, ...]]:
    """Measure every prediction that has a reference.

    Args:
        predictions: Folder of label maps; endings may differ from the references'.
        references: Folder of label maps with equal case names, for example `labelsTr` of a dataset, or with names
            such as `CASE_seg`, also beside their images.
        labels: Name -> value(s) in the files. None: every value found in the references except 0, as
            `label_<value>`, or the labels that a dataset with `annotated` declares.
        reading: How the label files of both folders are read; None: their pixels are label values. Masks of 0 and 1
            beside masks of 0 and 255 are one label.
        tolerance_mm: Tolerance of the surface Dice in mm. None: only metrics that follow from counts of voxels, without
            surfaces and lesions.
        workers: Cases scored at the same time, in processes.
        progress: Called after each case.

    Returns:
        The evaluation of all cases that could be compared, and faults: errors for cases
        that were left out, warnings for predictions without reference and for values that no label declares.

    Raises:
        UsageError: If a folder is missing, two files of a folder have the same case name, no case is in both
            folders, no case could be compared, worker processes cannot start, or, without `labels`, the references have
            no foreground, are no label maps, or are soft, noisy or colour masks.
    """
    predicted, expected = find_pairs(predictions, references)
    given = labels
    if given is None:
        given, reading = _labels_in(references, list(expected.values()), reading, workers)
    expected |= {files.case: files for files in name_annotated(expected.values(), given, references)}
    pairs = [(case, predicted[case], expected[case]) for case in sorted(predicted.keys() & expected.keys())]
    outcomes = _score_all(partial(_score_files, given, reading, tolerance_mm), pairs, workers, progress)
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    scored = [outcome.scores for outcome in outcomes if outcome.scores is not None]
    if not scored:
        raise none_compared(faults)
    faults += [_without_reference(case, predicted[case]) for case in sorted(predicted.keys() - expected.keys())]
    if reading is MIXED_SCALES:
        faults.append(Fault(severity="warning", case="", file=str(references), what=MIXED_SCALES_NOTE))
    faults += note_faults(predictions, {outcome.case: outcome.prediction_notes for outcome in outcomes})
    faults += note_faults(references, {outcome.case: outcome.reference_notes for outcome in outcomes})
    names = [name for name in given if name not in (BACKGROUND, IGNORE)]
    return summarize(scored, names, sorted(expected.keys() - predicted.keys())), tuple(faults)


def limit_scoring(workers: Workers, predictions: Path, max_memory: int | None) -> Workers:
    """Number of processes that memory has room for by the largest label map; a cluster stays as it is.

    Args:
        workers: Number of processes that was asked for, or one for each core.
        predictions: Folder of label maps; their references have the same grids.
        max_memory: Memory in bytes that the processes may take together; None: what is free now.

    Raises:
        UsageError: If the folder is missing, or two of its files have the same case name.
    """
    if workers == 1 or isinstance(workers, DaskCluster):
        return workers
    needed = label_map_memory_bytes(find_label_maps(predictions).values())
    return limit_workers(workers, needed, max_memory, "evaluation")


def not_compared(case: str, prediction: Path, death: WorkerDeath) -> Fault:
    """The fault of a case that ended the worker process that compared it."""
    return Fault(severity="error", case=case, file=str(prediction), what=death.describe())


def note_faults(folder: Path, notes_by_case: Mapping[str, Sequence[str]]) -> list[Fault]:
    """A warning for each note about the values of label maps of a folder."""
    about_values = {case: [note for note in notes if note in VALUE_NOTES] for case, notes in notes_by_case.items()}
    return [Fault(severity="warning", case="", file=str(folder), what=note) for note in describe_notes(about_values)]


def none_compared(faults: Sequence[Fault]) -> UsageError:
    """The error where no case could be compared, with the faults of all."""
    listed = "\n".join(f"  {fault.file}: {fault.what}" for fault in faults)
    return UsageError(f"no case could be compared:\n{listed}")


def _score_all(
    score: Callable[[_Pair], _CaseOutcome], pairs: Sequence[_Pair], workers: Workers, progress: Progress
) -> list[_CaseOutcome]:
    """What became of each case, in processes; one that ends its process is a fault."""
    scoring = map_in_processes(score, pairs, task="evaluation", workers=workers, progress=progress)
    return [
        _CaseOutcome(case, None, (not_compared(case, path, outcome),)) if isinstance(outcome, WorkerDeath) else outcome
        for (case, path, _), outcome in zip(pairs, scoring, strict=True)
    ]


def _labels_in(
    folder: Path, references: Sequence[CaseFiles], reading: LabelReading | None, workers: Workers
) -> tuple[dict[str, LabelValues], LabelReading | None]:
    """A label for each value, and the rule by which the files are read.

    Where `annotated` names the labels that were looked for, those that the dataset declares.
    """
    if any(files.parts is not None for files in references):
        raise UsageError(f"{folder}: labels are in masks and segments by name; give the model with its labels (-m)")
    if any(files.annotated for files in references) and (declared := find_dataset(folder).labels):
        return declared, reading
    find = partial(_values_in, reading)
    paths = [Path(files.label) for files in references]
    values_by_case = map_in_processes(find, paths, task="evaluation", workers=workers)
    found = [values for values in values_by_case if isinstance(values, set)]  # scoring reports the others
    foreground = sorted(set().union(*found) - {0})
    if found and not foreground:
        raise UsageError(
            f"{folder}: the references have only background, so there is no label to score; give the model "
            "whose labels they have with -m, or other references"
        )
    if reading is None and has_mixed_scales(found):
        reading, foreground = MIXED_SCALES, [1]
    return {f"label_{value}": value for value in foreground}, reading


def _values_in(reading: LabelReading | None, path: Path) -> set[int] | None:
    """Values of a label map; None for a file that is no label map, which scoring reports."""
    try:
        array = read_label_map(path, reading).array[0]
    except ColorMaskError as error:
        raise UsageError(
            f"{error}, with names of your own, and compare again: --label-colors '{suggest_colors(error.colors)}'"
        ) from error
    except ImageFileError:
        return None
    values = np.unique(array)
    if len(values) > MAX_NUMBER_OF_VALUES:
        raise UsageError(
            f"{path}: has more than {MAX_NUMBER_OF_VALUES} different values, so it is an image rather than a "
            "label map; give the folder of reference label maps, or the model whose labels they have with -m"
        )
    if array.dtype.kind not in "ui":
        return None
    if values[0] >= 0 and len(values) > MIN_GREY_LEVELS and values[-1] <= MAX_LABEL_VALUE:
        voxels, thin = count_values(array), find_thin_values(array)
        if are_grey_levels(voxels, thin):
            raise UsageError(f"{path}: {describe_grey_levels(voxels, thin)}, or give the model with -m")
    return set(values.tolist())


def _score_files(
    labels: dict[str, LabelValues],
    reading: LabelReading | None,
    tolerance_mm: float | None,
    files: _Pair,
) -> _CaseOutcome:
    case, prediction, reference_files = files
    reference = Path(reference_files.label)
    try:
        if {part.label for part in reference_files.parts or ()} & labels.keys():
            volume = read_named_prediction(prediction, labels, reading)
            named, labels = read_named_reference(reference_files, labels, volume.grid)
            volumes = read_prediction(case, prediction, named, reading, labels), named
        else:
            volumes = read_on_one_grid(case, prediction, reference, reading, labels)
    except ImageFileError as error:
        file = reference if str(error).startswith(f"{reference}: ") else prediction
        what = str(error).removeprefix(f"{file}: ")
        return _CaseOutcome(case, None, (Fault(severity="error", case=case, file=str(file), what=what),))
    predicted, expected = (volume.array[0] for volume in volumes)
    faults = undeclared_values(case, {prediction: predicted, reference: expected}, labels)
    if any(fault.severity == "error" for fault in faults):
        return _CaseOutcome(case, None, faults)
    grid = volumes[1].grid
    if is_sheared(grid):
        faults = (*faults, Fault(severity="warning", case=case, file=str(reference), what=SHEAR_NOTE))
    scores = measure_case(case, predicted, expected, labels, grid.spacing, tolerance_mm, voxel_mm3(grid))
    scores = keep_annotated(scores, reference_files.annotated)
    return _CaseOutcome(case, scores, faults, volumes[0].notes, volumes[1].notes)


def undeclared_values(
    case: str, maps: Mapping[Path, NDArray[np.integer]], labels: dict[str, LabelValues]
) -> tuple[Fault, ...]:
    """Warnings about values that no label declares; errors where the labels of two files have no value in common.

    A file whose foreground has no declared value at all, beside one that has, was numbered in another way (0 and 255
    instead of 0 and 1): its score would be 0 whatever it shows.
    """
    background = {0, *_values_of(labels.get(BACKGROUND, 0))}
    declared = background.union(*map(_values_of, labels.values()))
    found = {path: set(np.unique(values).tolist()) for path, values in maps.items()}
    is_known = {path: bool((values & declared) - background) for path, values in found.items()}
    faults = []
    for path, values in found.items():
        if values <= declared:
            continue
        has_values = f"has the values {_shorten(sorted(values))}, but the labels are {labels}"
        if not is_known[path] and any(is_known.values()):
            what = f"{has_values}; not compared, because none of them is in the file. Give both folders equal values"
            is_one_structure = len(values - background) == 1 == len(declared - background)
            what += ", or read the masks with --label-threshold 1." if is_one_structure else "."
            faults.append(Fault(severity="error", case=case, file=str(path), what=what))
        else:
            what = f"{has_values}; other values were counted as background. Give the labels that the files use."
            faults.append(Fault(severity="warning", case=case, file=str(path), what=what))
    return tuple(faults)


def _values_of(group: LabelValues) -> tuple[int, ...]:
    return group if isinstance(group, tuple) else (group,)


def _without_reference(case: str, path: Path) -> Fault:
    return Fault(severity="warning", case=case, file=str(path), what=f"no reference for case {case}; not scored")


def _shorten(items: Sequence[object]) -> str:
    """The first few items, and how many there are when that is not all."""
    few = ", ".join(str(item) for item in items[:5])
    return few if len(items) <= 5 else f"{few}, ... ({len(items)})"
