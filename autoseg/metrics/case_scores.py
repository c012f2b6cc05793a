"""Everything that is measured of one case: overlap, volume, surfaces and lesions of every label."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.metrics.descriptions import METRICS, Mask, StructurePair
from autoseg.metrics.overlap import find_positions, score_case, sorted_values
from autoseg.metrics.surface import largest_distance_mm
from autoseg.records.dataset import IGNORE, LabelValues
from autoseg.records.evaluation import CaseScores, LabelScores

DEFAULT_TOLERANCE_MM = 1.0
"""Tolerance of the surface Dice: about what experts differ by on small structures; large organs often get 2 mm."""

CUBIC_MM_PER_ML = 1000.0

Values = NDArray[np.generic]
"""(Z, Y, X), values as a file has them."""


def measure_case(
    case: str,
    prediction: Values,
    reference: Values,
    labels: dict[str, LabelValues],
    spacing: Sequence[float],
    tolerance_mm: float | None = DEFAULT_TOLERANCE_MM,
    voxel_mm3: float | None = None,
) -> CaseScores:
    """Measure every foreground label of one case.

    Voxels whose reference has the ignore value are left out of everything: of the counts, of both masks, and with
    them the surface elements that touch such a voxel. A value that no label declares counts as background.

    Args:
        case: Name of the case.
        prediction: Values as `labels` has them, (Z, Y, X), the whole image.
        reference: The same, on the same grid, (Z, Y, X).
        labels: Name -> value, or all values of a region; `background` and `ignore` are not scored.
        spacing: mm, (z, y, x). When an axis has length 1 the surfaces are contours in the plane of the other two; a
            picture's pixels count as 1 mm.
        tolerance_mm: Tolerance of the surface Dice. None: only what follows from counts of voxels is measured, neither
            surfaces nor lesions.
        voxel_mm3: Volume of a voxel. None: the axes are at right angles, so it is the product of the spacing.

    Returns:
        Scores by name, in the order of `labels`. Working memory is two bytes per voxel of the image, and what the box
        around one label needs, see `measure_surfaces`.

    Raises:
        ValueError: If the maps differ in shape.
    """
    counted = score_case(case, prediction, reference, labels).labels
    scored = {name: sorted_values(labels[name]) for name in counted}
    ignored = _find_ignored(reference, labels)
    num_voxels = reference.size - (0 if ignored is None else int(np.count_nonzero(ignored)))
    volume_mm3 = prod(spacing) if voxel_mm3 is None else voxel_mm3
    voxel_ml = None if 1 in reference.shape else volume_mm3 / CUBIC_MM_PER_ML
    scores = {name: _add_whole_image(of_label, num_voxels, voxel_ml) for name, of_label in counted.items()}
    if tolerance_mm is None:
        return CaseScores(case=case, labels=scores)
    coded = _CodedMaps(prediction, reference, scored, ignored)
    for name, values in scored.items():
        masks = coded.cut_out(values)
        if masks is not None:
            measured = _measure_structure(StructurePair(*masks, spacing, tolerance_mm))
            scores[name] = scores[name].model_copy(update=measured)
    return CaseScores(
        case=case,
        labels=scores,
        surface_tolerance_mm=tolerance_mm,
        largest_distance_mm=largest_distance_mm(reference.shape, spacing),
    )


class _CodedMaps:
    """Both maps with the scored values numbered from 1 and everything else 0, and the box of every number."""

    def __init__(
        self, prediction: Values, reference: Values, scored: Mapping[str, Sequence[int]], ignored: Mask | None
    ) -> None:
        self._values = np.unique([value for values in scored.values() for value in values])
        self._maps = [_encode(values, self._values) for values in (prediction, reference)]
        self._ignored = ignored
        if ignored is not None:
            for coded in self._maps:
                coded[ignored] = 0
        self._boxes = [ndimage.find_objects(coded, len(self._values)) for coded in self._maps]

    def cut_out(self, values: Sequence[int]) -> tuple[Mask, Mask, Mask | None] | None:
        """Predicted, reference and ignored mask in the box of a label with one voxel around; None when it is empty."""
        numbers = np.searchsorted(self._values, values)
        found = [boxes[number] for boxes in self._boxes for number in numbers if boxes[number] is not None]
        if not found:
            return None
        box = tuple(
            slice(max(0, min(side.start for side in sides) - 1), max(side.stop for side in sides) + 1)
            for sides in zip(*found, strict=True)
        )
        is_own = np.zeros(len(self._values) + 1, dtype=bool)
        is_own[numbers + 1] = True
        prediction, reference = (is_own[coded[box]] for coded in self._maps)
        return prediction, reference, None if self._ignored is None else self._ignored[box]


def _find_ignored(reference: Values, labels: Mapping[str, LabelValues]) -> Mask | None:
    if IGNORE not in labels:
        return None
    ignored = np.isin(reference, sorted_values(labels[IGNORE]))
    return ignored if ignored.any() else None


def _encode(values: Values, known: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Position in `known` plus 1; 0 for any other value. Plane by plane, because positions take 8 bytes a voxel."""
    coded: NDArray[np.unsignedinteger] = np.empty(values.shape, dtype=np.min_scalar_type(len(known)))
    numbers = np.append(np.arange(1, len(known) + 1), 0).astype(coded.dtype)
    for number, plane in enumerate(values):
        coded[number] = numbers[find_positions(plane, known)]
    return coded


def _add_whole_image(scores: LabelScores, num_voxels: int, voxel_ml: float | None) -> LabelScores:
    """Scores with the metrics that depend on the whole image.

    Args:
        scores: Scores of one label, from counts of voxels.
        num_voxels: Voxels of the image that are not ignored.
        voxel_ml: Volume of a voxel in ml; None when it is not known.
    """
    if not scores.predicted_voxels and not scores.reference_voxels:
        return scores
    wrong = scores.false_positives + scores.false_negatives
    difference = scores.predicted_voxels - scores.reference_voxels
    return scores.model_copy(
        update={
            "pixel_accuracy": 1 - wrong / num_voxels,
            "volume_error_ml": None if voxel_ml is None else difference * voxel_ml,
        }
    )


def _measure_structure(pair: StructurePair) -> dict[str, float | int | None]:
    """Fields of LabelScores that need both masks, by name."""
    lesions = pair.lesions
    measured = {metric.name: metric.measure(pair) for metric in METRICS if metric.measure is not None}
    return measured | {
        "predicted_lesions": lesions.true_positives + lesions.false_positives,
        "reference_lesions": lesions.true_positives + lesions.false_negatives,
        "matched_lesions": lesions.true_positives,
    }
