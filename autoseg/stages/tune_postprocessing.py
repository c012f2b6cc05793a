"""Find out which post-processing helps, on the cross-validated label maps of one model.

A step is kept only if the score rises and no label's falls; what helps is written into the selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import ImageFileError
from autoseg.imaging.labels import encode_label_map
from autoseg.metrics.comparison import format_score
from autoseg.metrics.overlap import BACKGROUND, IGNORE, score_case
from autoseg.metrics.summary import summarize
from autoseg.postprocessing import indices_of, keep_largest_component
from autoseg.records.dataset import LabelEncoding, LabelValues, indices_by_label
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import Progress
from autoseg.records.postprocessing import KeepLargestComponent, PostprocessingStep
from autoseg.stages.evaluate import read_pair


@dataclass(frozen=True)
class CaseMapFiles:
    """Label maps of one validation case."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class TunedPostprocessing:
    """What was found to help."""

    steps: tuple[PostprocessingStep, ...]
    """In the order in which they were accepted."""
    evaluation: Evaluation
    """After all steps."""
    reasons: tuple[str, ...]
    """One sentence per step tried."""


@dataclass(frozen=True)
class _CaseMaps:
    """One validation case in memory: label indices (Z, Y, X), compressed, cut to the box of all foreground."""

    case: str
    prediction: blosc2.NDArray
    reference: blosc2.NDArray
    scores: CaseScores


def tune_postprocessing(
    maps: Sequence[CaseMapFiles], encoding: LabelEncoding, *, workers: int = 1, progress: Progress | None = None
) -> TunedPostprocessing:
    """Find out where keeping only the largest component helps.

    First the union of all foreground, then label by label in declaration order, each on top of what was accepted
    before. A step is accepted only if its own score rises (all foreground: the mean foreground Dice; one label: that
    label's mean Dice) and no label's mean falls.

    Args:
        maps: Every validation case of the model.
        encoding: Of the model.
        workers: Cases worked on at the same time, in threads.
        progress: Called after each case of each step.

    Raises:
        ImageFileError: If a label map cannot be read, has values that no label declares, or does not lie on its
            reference's grid.

    References:
        nnU-Net v2 (Isensee et al. 2021), post-processing. Differs: a step for one label must not harm another, which
        it can when regions overlap.
    """
    names = foreground_names(encoding)
    loading = (delayed(_load_case)(one.case, one.prediction, one.reference, encoding) for one in maps)
    cases = list(Parallel(n_jobs=workers, prefer="threads")(loading))
    tried = [tuple(names), *((name,) for name in names if len(names) > 1)]
    evaluation = summarize([case.scores for case in cases], names)
    accepted: list[PostprocessingStep] = []
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
    return TunedPostprocessing(tuple(accepted), evaluation, tuple(reasons))


def foreground_names(encoding: LabelEncoding) -> list[str]:
    """Labels or regions that are scored, in declaration order."""
    return [name for name in indices_by_label(encoding) if name != BACKGROUND]


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
    labels: dict[str, LabelValues] = {**indices_by_label(encoding)}
    if encoding.ignore_value is not None:
        labels[IGNORE] = len(encoding.values)
    return _CaseMaps(case, _compress(prediction), reference, score_case(case, prediction, reference[:], labels))


def _compress(labels: NDArray[np.integer]) -> blosc2.NDArray:
    return blosc2.asarray(np.ascontiguousarray(labels))


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
