"""Objects matched at IoU > 0.5, against numbers worked out by hand and against a loop over all pairs."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.metrics.detection import PanopticQuality, match_lesions, panoptic_quality


def test_objects_worked_out_by_hand():
    reference = np.array([[[7, 7, 7, 7, 0, 3, 3, 0, 9, 0]]])
    prediction = np.array(
        [[[1, 1, 1, 0, 0, 2, 2, 2, 0, 5]]], dtype=np.uint16
    )  # IoU 3/4, 2/3; 9 missed; 5 is a false alarm
    found = panoptic_quality(prediction, reference)
    assert (found.true_positives, found.false_positives, found.false_negatives) == (2, 1, 1)
    assert found.segmentation_quality == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found.recognition_quality == pytest.approx(2 / (2 + 0.5 + 0.5))
    assert found.panoptic_quality == pytest.approx((3 / 4 + 2 / 3) / 3)


def test_an_iou_of_exactly_one_half_is_no_match():
    found = panoptic_quality(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 1, 1]]))
    assert found == PanopticQuality(0, 1, 1, None, 0.0, 0.0)


def test_two_touching_objects_are_two():
    reference = np.array([[[1, 1, 1, 2, 2, 2]]])
    assert panoptic_quality(np.array([[[4, 4, 4, 8, 8, 8]]]), reference).true_positives == 2
    assert panoptic_quality(np.ones_like(reference), reference).true_positives == 0
    assert match_lesions(reference > 0, reference > 0).true_positives == 1


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 4), (0, 3, 5)])
def test_empty_maps(shape):
    empty = np.zeros(shape, dtype=np.int32)
    assert panoptic_quality(empty, empty) == PanopticQuality(0, 0, 0, None, None, None)


@pytest.mark.parametrize(("prediction", "reference", "expected"), [(1, 0, (0, 1, 0)), (0, 1, (0, 0, 1))])
def test_one_empty_map_scores_zero(prediction, reference, expected):
    found = panoptic_quality(np.full((2, 3, 4), prediction), np.full((2, 3, 4), reference))
    assert astuple(found) == (*expected, None, 0.0, 0.0)


def test_large_numbers_are_no_sizes():
    large = np.array([[[0, 4_000_000_000, 4_000_000_000, 3]]], dtype=np.uint32)
    assert panoptic_quality(large, large).panoptic_quality == 1.0


def test_lesions_that_touch_at_a_corner_are_one():
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 3, 4] = True
    assert match_lesions(mask, mask).true_positives == 2
    assert match_lesions(mask[:1], mask[:1]).true_positives == 1


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r"\(2, 3\) and \(3, 2\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "whole numbers, found float64"),
        (np.full((2, 3), -4), np.zeros((2, 3), int), "no negative numbers, found -4"),
    ],
)
def test_wrong_maps_are_refused(prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        panoptic_quality(prediction, reference)


ids = arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 4))


@given(prediction=ids, reference=ids)
@settings(deadline=None, max_examples=60)
def test_equals_a_loop_over_all_pairs(prediction, reference):
    true, predicted = set(np.unique(reference)) - {0}, set(np.unique(prediction)) - {0}
    ious = []
    for one in true:
        for other in predicted:
            a, b = reference == one, prediction == other
            iou = (a & b).sum() / (a | b).sum()
            ious += [iou] if iou > 0.5 else []
    found = panoptic_quality(prediction, reference)
    counts = (len(ious), len(predicted) - len(ious), len(true) - len(ious))
    assert (found.true_positives, found.false_positives, found.false_negatives) == counts
    weight = counts[0] + counts[1] / 2 + counts[2] / 2
    assert found.panoptic_quality == (pytest.approx(sum(ious) / weight) if weight else None)
    assert found.recognition_quality == (pytest.approx(len(ious) / weight) if weight else None)
    assert found.segmentation_quality == (pytest.approx(np.mean(ious)) if ious else None)
