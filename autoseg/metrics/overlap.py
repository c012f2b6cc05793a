"""Overlap of one predicted label map with its reference: exact voxel counts and what follows from them alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.records.dataset import BACKGROUND, IGNORE, LabelValues
from autoseg.records.evaluation import CaseScores, LabelScores

MAX_IN_TABLE = 65535
"""Values up to this are looked up in a table, which is several times faster than searching for them."""


def score_case(
    case: str, prediction: NDArray[np.generic], reference: NDArray[np.generic], labels: dict[str, LabelValues]
) -> CaseScores:
    """Count and score every foreground label of one case.

    Voxels whose reference has the ignore value are left out of every count. A value that no label declares counts
    as background. Memory beyond the two maps does not grow with the number of slices.

    Args:
        case: Name of the case.
        prediction: Values as `labels` has them, (Z, Y, X).
        reference: The same, on the same grid, (Z, Y, X).
        labels: Name -> value, or all values of a region; `background` and `ignore` are not scored.

    Returns:
        Scores by name, in the order of `labels`: those that do not change when the image is cropped to a box around all
        foreground. `metrics.case_scores` adds the others.

    Raises:
        ValueError: If the maps differ in shape.

    References:
        Dice 1945; Jaccard 1912; volumetric overlap error and relative volume difference: Heimann et al. 2009. A label
        that is empty in both maps has no score, as in nnU-Net v2 (Isensee et al. 2021).
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"case {case}: the prediction has shape {prediction.shape}, the reference {reference.shape}; "
            "both must be on the same grid"
        )
    values = {name: sorted_values(value) for name, value in labels.items()}
    known = np.unique([value for group in values.values() for value in group])
    counts = _joint_counts(prediction, reference, known)
    counts[np.isin(known, values.get(IGNORE, [])).nonzero()] = 0
    scores = {
        name: _score_label(counts, np.searchsorted(known, group))
        for name, group in values.items()
        if name not in (BACKGROUND, IGNORE)
    }
    return CaseScores(case=case, labels=scores)


def sorted_values(value: LabelValues) -> list[int]:
    """Values of a label or region, ascending, each once."""
    return [value] if isinstance(value, int) else sorted(set(value))


def _joint_counts(
    prediction: NDArray[np.generic], reference: NDArray[np.generic], known: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Voxels by (reference, prediction), both as position in `known`; the last position is any other value."""
    size = len(known) + 1
    counts = np.zeros(size * size, dtype=np.int64)
    for predicted, expected in zip(prediction, reference, strict=True):  # slice by slice: 8 bytes per voxel of a slice
        joint = find_positions(expected, known).astype(np.int64) * size + find_positions(predicted, known)
        counts += np.bincount(joint.ravel(), minlength=size * size)
    return counts.reshape(size, size)


def find_positions(values: NDArray[Any], known: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Position of each value in the sorted `known`; len(known) for other values; in the smallest type."""
    smallest = np.min_scalar_type(len(known))
    positions: NDArray[np.unsignedinteger]
    if values.dtype.kind in "ui" and values.size and 0 <= int(values.min()) <= int(values.max()) <= MAX_IN_TABLE:
        table = np.full(int(values.max()) + 1, len(known), dtype=smallest)
        listed = np.flatnonzero((known >= 0) & (known < len(table)))
        table[known[listed]] = listed
        positions = table[values]
        return positions
    sorted_in = np.searchsorted(known, values)
    found = known.take(sorted_in, mode="clip") == values
    positions = np.where(found, sorted_in, len(known)).astype(smallest)
    return positions


def _score_label(counts: NDArray[np.int64], positions: NDArray[np.intp]) -> LabelScores:
    reference_voxels = int(counts[positions].sum())
    predicted_voxels = int(counts[:, positions].sum())
    true_positives = int(counts[np.ix_(positions, positions)].sum())
    false_positives = predicted_voxels - true_positives
    false_negatives = reference_voxels - true_positives
    union = true_positives + false_positives + false_negatives
    iou = true_positives / union if union else None
    return LabelScores(
        dice=2 * true_positives / (predicted_voxels + reference_voxels) if union else None,
        iou=iou,
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=false_negatives,
        predicted_voxels=predicted_voxels,
        reference_voxels=reference_voxels,
        precision=true_positives / predicted_voxels if predicted_voxels else None,
        recall=true_positives / reference_voxels if reference_voxels else None,
        volume_overlap_error=None if iou is None else 1 - iou,
        relative_volume_difference=predicted_voxels / reference_voxels - 1 if reference_voxels else None,
    )
