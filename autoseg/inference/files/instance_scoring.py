"""The instances of predicted label maps compared with those of their references, case by case and pooled.

Instances are read from `CASE_instances.ext` if it lies beside a label map; else they are the connected components of
each label.

Tested in tests/stages/test_evaluate_instances.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.components import Connectivity, label_components
from autoseg.errors import ImageFileError
from autoseg.imaging.formats.label_values import describe_fractions
from autoseg.imaging.formats.reading import Volume, read_label_map, split_ending
from autoseg.imaging.formats.volume import grid_difference
from autoseg.metrics.average_precision import IOU_TWENTIETHS, ScoredMatches, average_precision, match_by_score
from autoseg.metrics.detection import find_overlaps, rate_overlaps
from autoseg.records.dataset import BACKGROUND, IGNORE, LabelReading, LabelValues
from autoseg.records.evaluation import (
    AveragePrecision,
    CaseInstanceScores,
    InstanceEvaluation,
    InstanceScores,
    ScoreSource,
)
from autoseg.records.prediction import INSTANCES

OBJECT = "object"
"""Name of the only label where references number instances, but have no labels."""


@dataclass(frozen=True)
class ScoredCase:
    """The instances of one case, compared with those of its reference."""

    scores: CaseInstanceScores
    matches: dict[str, ScoredMatches]
    """Matches of the predicted instances by label."""
    num_unscored: int
    """Predicted instances without a score."""


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


def score_instances(
    case: str,
    predicted: Volume,
    expected: Volume,
    options: InstanceOptions,
    score_of: Mapping[int, float],
    *,
    reference_map: Volume | None = None,
) -> ScoredCase:
    """Match the instances of two label maps, with maps of instances beside them where they have some.

    Args:
        case: Case id.
        predicted: Predicted label map.
        expected: Reference label map.
        options: Labels, and how instances are found.
        score_of: Score of predicted instances by number; others have score one.
        reference_map: Map of instances of the reference; None: one beside it, if there is one.

    Raises:
        ImageFileError: If maps do not lie on one grid, or a map of instances cannot be read.
    """
    check_grid(predicted, expected)
    predicted_ids, reference_ids = _read_ids(predicted), _read_ids(expected)
    if options.reference_ids:
        reference_ids = expected.array[0]
    if reference_map is not None:
        check_grid(reference_map, expected)
        reference_ids = reference_map.array[0]
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
    return ScoredCase(CaseInstanceScores(case=case, labels=scores), matches, num_unscored)


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


def pool_cases(
    cases: Sequence[ScoredCase], options: InstanceOptions, source: ScoreSource, missing: Sequence[str] = ()
) -> InstanceEvaluation:
    """Evaluation of all cases together.

    Args:
        cases: At least one case.
        options: How instances were found.
        source: What ranks the predicted instances.
        missing: Cases with a reference but no prediction.
    """
    names = cases[0].scores.labels.keys()
    precisions = _rank([case.matches for case in cases])
    return InstanceEvaluation(
        connectivity=options.connectivity,
        labels={name: pool_scores(case.scores.labels[name] for case in cases) for name in names},
        cases=tuple(case.scores for case in cases),
        missing_predictions=tuple(missing),
        score_source=source,
        average_precision={name: None if values is None else _describe(values) for name, values in precisions.items()},
        mean_average_precision=_average([values for values in precisions.values() if values is not None]),
    )


def _rank(cases: Sequence[Mapping[str, ScoredMatches]]) -> dict[str, NDArray[np.float64] | None]:
    """Average precision by label, at each threshold."""
    return {name: average_precision([case[name] for case in cases]) for name in cases[0]}


def _average(values: Sequence[NDArray[np.float64]]) -> AveragePrecision | None:
    return _describe(np.mean(values, axis=0)) if values else None


def _describe(values: NDArray[np.float64]) -> AveragePrecision:
    by_iou = {f"{number / 20:.2f}": float(value) for number, value in zip(IOU_TWENTIETHS, values, strict=True)}
    return AveragePrecision(mean=float(values.mean()), by_iou=by_iou)


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
    check_grid(found, labels)
    ids: NDArray[np.integer] = found.array[0]
    if ids.dtype.kind not in "ui":
        raise ImageFileError(f"{path}: maps of instances have whole numbers: {describe_fractions(found.array)}")
    return ids


def check_grid(volume: Volume, other: Volume) -> None:
    """Refuse two maps that do not lie on one grid.

    Raises:
        ImageFileError: Names both files and the difference.
    """
    difference = grid_difference(volume.grid, other.grid)
    if difference is not None:
        raise ImageFileError(f"{volume.path}: does not lie on the grid of {other.path}: {difference}")
