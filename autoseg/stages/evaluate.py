"""Evaluate: compare two folders of label maps by case.

A reference without prediction, a prediction without reference and a case that cannot be compared are all named in the
result.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import ImageFileError, UsageError
from autoseg.imaging.datasets.cases import map_in_processes
from autoseg.imaging.formats.reading import read_label_map
from autoseg.imaging.formats.volume import SHEAR_NOTE, is_sheared, voxel_mm3
from autoseg.inference.files.label_maps import find_label_maps, read_on_one_grid
from autoseg.metrics.case_scores import DEFAULT_TOLERANCE_MM, measure_case
from autoseg.metrics.summary import summarize
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import BACKGROUND, IGNORE, Fault, LabelValues
from autoseg.records.evaluation import CaseScores, Evaluation

MAX_NUMBER_OF_VALUES = 256
"""A reference with more different values is an image, not a label map."""

_CaseOutcome = tuple[CaseScores | None, tuple[Fault, ...]]


def evaluate_predictions(
    predictions: Path,
    references: Path,
    *,
    labels: dict[str, LabelValues] | None = None,
    tolerance_mm: float | None = DEFAULT_TOLERANCE_MM,
    workers: int = 1,
    progress: Progress = no_progress,
) -> tuple[Evaluation, tuple[Fault, ...]]:
    """Measure every prediction that has a reference.

    Args:
        predictions: Folder of label maps; endings may differ from the references'.
        references: Folder of label maps with equal case names, for example `labelsTr` of a dataset.
        labels: Name -> value(s) in the files. None: every value found in the references except 0, as
            `label_<value>`.
        tolerance_mm: Tolerance of the surface Dice in mm. None: only metrics that follow from counts of voxels, without
            surfaces and lesions.
        workers: Cases scored at the same time, in processes.
        progress: Called after each case.

    Returns:
        The evaluation of all cases that could be compared, and faults: errors for cases
        that were left out, warnings for predictions without reference and for values that no label declares.

    Raises:
        UsageError: If a folder is missing, two files of a folder have the same case name, no case is in both
            folders, no case could be compared, a worker was killed, or, without `labels`, the references have
            no foreground or are no label maps.
    """
    predicted, expected = find_label_maps(predictions), find_label_maps(references)
    matched = sorted(predicted.keys() & expected.keys())
    if not matched:
        raise UsageError(
            f"no case is in both folders: {predictions} has {_first_names(predicted)}, {references} has "
            f"{_first_names(expected)}. File names without their endings must be equal."
        )
    given = labels if labels is not None else _labels_in(references, list(expected.values()), workers)
    pairs = [(case, predicted[case], expected[case]) for case in matched]
    score = partial(_score_files, given, tolerance_mm)
    outcomes = list(map_in_processes(score, pairs, task="evaluation", workers=workers, progress=progress))
    faults = [fault for _, of_case in outcomes for fault in of_case]
    scored = [scores for scores, _ in outcomes if scores is not None]
    if not scored:
        listed = "\n".join(f"  {fault.file}: {fault.what}" for fault in faults)
        raise UsageError(f"no case could be compared:\n{listed}")
    names = [name for name in given if name not in (BACKGROUND, IGNORE)]
    missing = sorted(expected.keys() - predicted.keys())
    faults += [_without_reference(case, predicted[case]) for case in sorted(predicted.keys() - expected.keys())]
    return summarize(scored, names, missing), tuple(faults)


def _labels_in(folder: Path, references: Sequence[Path], workers: int) -> dict[str, LabelValues]:
    values_by_case = map_in_processes(_values_in, references, task="evaluation", workers=workers)
    found = [values for values in values_by_case if values is not None]
    foreground = sorted(set().union(*found) - {0})
    if found and not foreground:
        raise UsageError(
            f"{folder}: the references have only background, so there is no label to score; give the model "
            "whose labels they have with -m, or other references"
        )
    return {f"label_{value}": value for value in foreground}


def _values_in(path: Path) -> set[int] | None:
    """Whole-number values of a label map; None for a file that cannot be read, which scoring reports."""
    try:
        values = np.unique(read_label_map(path).array)
    except ImageFileError:
        return None
    if len(values) > MAX_NUMBER_OF_VALUES:
        raise UsageError(
            f"{path}: has more than {MAX_NUMBER_OF_VALUES} different values, so it is an image rather than a "
            "label map; give the folder of reference label maps, or the model whose labels they have with -m"
        )
    return {int(value) for value in values[np.isfinite(values)] if value == np.rint(value)}


def _score_files(
    labels: dict[str, LabelValues], tolerance_mm: float | None, files: tuple[str, Path, Path]
) -> _CaseOutcome:
    case, prediction, reference = files
    try:
        volumes = read_on_one_grid(case, prediction, reference)
    except ImageFileError as error:
        file = reference if str(error).startswith(f"{reference}: ") else prediction
        what = str(error).removeprefix(f"{file}: ")
        return None, (Fault(severity="error", case=case, file=str(file), what=what),)
    predicted, expected = (volume.array[0] for volume in volumes)
    declared = {0, *(value for group in labels.values() for value in (group if isinstance(group, tuple) else (group,)))}
    warnings = [
        _undeclared(case, path, values, labels)
        for path, values in ((prediction, np.unique(predicted)), (reference, np.unique(expected)))
        if not declared.issuperset(values.tolist())
    ]
    grid = volumes[1].grid
    if is_sheared(grid):
        warnings.append(Fault(severity="warning", case=case, file=str(reference), what=SHEAR_NOTE))
    scores = measure_case(case, predicted, expected, labels, grid.spacing, tolerance_mm, voxel_mm3(grid))
    return scores, tuple(warnings)


def _undeclared(case: str, path: Path, values: NDArray[np.generic], labels: dict[str, LabelValues]) -> Fault:
    return Fault(
        severity="warning",
        case=case,
        file=str(path),
        what=f"has the values {_shorten(values.tolist())}, but the labels are {labels}; other values were counted as "
        "background. Give the labels that the files use.",
    )


def _without_reference(case: str, path: Path) -> Fault:
    return Fault(severity="warning", case=case, file=str(path), what=f"no reference for case {case}; not scored")


def _first_names(found: dict[str, Path]) -> str:
    return _shorten(list(found)) if found else "no label maps"


def _shorten(items: Sequence[object]) -> str:
    """The first few items, and how many there are when that is not all."""
    few = ", ".join(str(item) for item in items[:5])
    return few if len(items) <= 5 else f"{few}, ... ({len(items)})"
