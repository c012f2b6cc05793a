"""Instances or lesions matched where they overlap by more than half; the others are missed or false alarms."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.components import label_components

Mask = NDArray[np.bool_]
InstanceMap = NDArray[np.integer]
"""(Z, Y, X), a number for each instance, 0 where there is no instance; numbers need not be consecutive."""


@dataclass(frozen=True)
class PanopticQuality:
    """Instances of a prediction matched with those of a reference, IoU > 0.5."""

    true_positives: int
    """Matched pairs."""
    false_positives: int
    """Predicted instances without a match."""
    false_negatives: int
    """Instances of the reference without a match."""
    segmentation_quality: float | None
    """Mean IoU of the matched pairs, (0.5, 1]; None when nothing matches."""
    recognition_quality: float | None
    """F1: TP / (TP + FP / 2 + FN / 2), [0, 1]; None when both maps are empty."""
    panoptic_quality: float | None
    """Sum of the matched IoUs / (TP + FP / 2 + FN / 2), [0, 1]; None when both maps are empty."""


@dataclass(frozen=True)
class Overlaps:
    """Instances of a prediction and of a reference, and the pairs of them that share voxels."""

    predicted: NDArray[np.int64]
    """Numbers (P,) of the predicted instances, ascending."""
    reference: NDArray[np.int64]
    """Numbers (R,) of the reference's instances, ascending."""
    pairs: NDArray[np.int64]
    """(2, N): positions in `predicted` and in `reference` of the pairs."""
    intersections: NDArray[np.int64]
    """(N,), common voxels of each pair."""
    unions: NDArray[np.int64]
    """(N,), voxels of either instance of each pair."""


def panoptic_quality(prediction_ids: InstanceMap, reference_ids: InstanceMap) -> PanopticQuality:
    """Match two maps of instances and score them.

    A pair matches when its IoU is more than one half, so an instance has at most one partner, whatever the order in
    which pairs are matched. An instance that several numbers share in one map counts as several.

    Args:
        prediction_ids: (Z, Y, X), or (Y, X); 0 is no instance, every other number, none negative, one instance.
        reference_ids: Map of the reference on the same grid; ignored voxels must be 0 in both.

    Returns:
        Counts and qualities. Working memory is that of one plane and of the overlapping pairs.

    Raises:
        ValueError: If the maps differ in shape, are not whole numbers, or have negative numbers.

    References:
        Kirillov et al. 2019, Panoptic Segmentation, section 4. As published, for one class.
    """
    return rate_overlaps(find_overlaps(prediction_ids, reference_ids))


def find_overlaps(prediction_ids: InstanceMap, reference_ids: InstanceMap) -> Overlaps:
    """Find which instances of two maps share voxels; arguments and errors as for `panoptic_quality`."""
    if prediction_ids.shape != reference_ids.shape:
        raise ValueError(
            f"maps of instances have the shapes {prediction_ids.shape} and {reference_ids.shape}; "
            "both must be on the same grid"
        )
    predicted, predicted_sizes = _sizes(prediction_ids)
    expected, reference_sizes = _sizes(reference_ids)
    pairs, intersections = _overlaps(prediction_ids, reference_ids, predicted, expected)
    unions = predicted_sizes[pairs[0]] + reference_sizes[pairs[1]] - intersections
    return Overlaps(predicted, expected, pairs, intersections, unions)


def rate_overlaps(overlaps: Overlaps) -> PanopticQuality:
    """Match pairs whose IoU is more than one half, and score them."""
    is_match = 2 * overlaps.intersections > overlaps.unions  # whole numbers: an IoU of exactly one half is no match
    ious = overlaps.intersections[is_match] / overlaps.unions[is_match]
    return _rate(ious, num_predicted=len(overlaps.predicted), num_reference=len(overlaps.reference))


def match_lesions(prediction: Mask, reference: Mask) -> PanopticQuality:
    """Match the connected components of two masks and score them.

    Voxels are connected when they share a face, an edge or a corner (26 neighbours, 8 in a single slice).

    Args:
        prediction: (Z, Y, X).
        reference: (Z, Y, X), on the same grid.

    Raises:
        ValueError: If the masks differ in shape.
    """
    predicted, expected = (label_components(mask) for mask in (prediction, reference))
    return panoptic_quality(predicted, expected)


def _rate(ious: NDArray[np.float64], num_predicted: int, num_reference: int) -> PanopticQuality:
    matched = len(ious)
    mean_count = (num_predicted + num_reference) / 2  # TP + FP / 2 + FN / 2
    return PanopticQuality(
        true_positives=matched,
        false_positives=num_predicted - matched,
        false_negatives=num_reference - matched,
        segmentation_quality=float(ious.mean()) if matched else None,
        recognition_quality=matched / mean_count if mean_count else None,
        panoptic_quality=float(ious.sum()) / mean_count if mean_count else None,
    )


def _sizes(ids: InstanceMap) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the instances, ascending, and their voxels."""
    if ids.dtype.kind not in "uib":
        raise ValueError(f"a map of instances has whole numbers, found {ids.dtype}")
    if ids.size and ids.min() < 0:
        raise ValueError(f"a map of instances has no negative numbers, found {ids.min()}")
    found = [np.unique(plane[plane > 0], return_counts=True) for plane in ids]
    return _add_up([numbers.astype(np.int64) for numbers, _ in found], [counts for _, counts in found])


def _overlaps(
    prediction_ids: InstanceMap, reference_ids: InstanceMap, predicted: NDArray[np.int64], expected: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (2, P) of instances that share voxels, as positions in `predicted` and `expected`, and these voxels."""
    found = []
    for predicted_plane, reference_plane in zip(prediction_ids, reference_ids, strict=True):
        shared = (predicted_plane > 0) & (reference_plane > 0)
        keys = np.searchsorted(predicted, predicted_plane[shared]) * len(expected)
        keys += np.searchsorted(expected, reference_plane[shared])
        found.append(np.unique(keys, return_counts=True))
    pairs, counts = _add_up([numbers for numbers, _ in found], [counts for _, counts in found])
    return np.stack(np.divmod(pairs, max(1, len(expected)))), counts


def _add_up(
    numbers: list[NDArray[np.int64]], counts: list[NDArray[np.intp]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every different number once, ascending, with the sum of its counts."""
    if not numbers:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    different, positions = np.unique(np.concatenate(numbers), return_inverse=True)
    totals = np.zeros(len(different), dtype=np.int64)
    np.add.at(totals, positions, np.concatenate(counts))
    return different, totals
