"""Overlap counts against numbers worked out by hand and against boolean masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.metrics.overlap import score_case
from autoseg.records.dataset import LabelValues


def test_counts_and_scores_worked_out_by_hand():
    reference = np.array([[[0, 1, 1, 2], [2, 2, 0, 0]]])
    prediction = np.array([[[1, 1, 0, 2], [2, 0, 0, 0]]])

    scores = score_case("a", prediction, reference, {"background": 0, "one": 1, "two": 2}).labels

    assert list(scores) == ["one", "two"]
    one, two = scores["one"], scores["two"]
    assert (one.true_positives, one.false_positives, one.false_negatives) == (1, 1, 1)
    assert (one.predicted_voxels, one.reference_voxels) == (2, 2)
    assert one.dice == 0.5
    assert one.iou == pytest.approx(1 / 3)
    assert (two.true_positives, two.false_positives, two.false_negatives) == (2, 0, 1)
    assert two.dice == pytest.approx(4 / 5)
    assert two.iou == pytest.approx(2 / 3)


def test_ignored_voxels_leave_every_count_of_every_label():
    reference = np.array([[[1, 1, 9, 9, 9, 0]]], dtype=np.uint8)
    prediction = np.array([[[1, 0, 1, 1, 0, 1]]], dtype=np.int16)

    scores = score_case("a", prediction, reference, {"background": 0, "one": 1, "ignore": 9}).labels

    assert list(scores) == ["one"]
    assert (scores["one"].true_positives, scores["one"].false_positives) == (1, 1)
    assert (scores["one"].false_negatives, scores["one"].predicted_voxels) == (1, 2)


def test_regions_are_unions_and_may_overlap():
    reference = np.array([[[1, 2, 3, 0, 0]]])
    prediction = np.array([[[2, 2, 0, 3, 0]]])

    scores = score_case("a", prediction, reference, {"background": 0, "whole": (1, 2, 3), "core": (2, 3)}).labels

    assert (scores["whole"].true_positives, scores["whole"].predicted_voxels) == (2, 3)
    assert scores["whole"].dice == pytest.approx(4 / 6)
    assert (scores["core"].true_positives, scores["core"].false_positives) == (1, 2)
    assert scores["core"].false_negatives == 1


@pytest.mark.parametrize(
    ("predicted", "true", "dice"), [(0, 0, None), (1, 0, 0.0), (0, 1, 0.0)], ids=["both empty", "false alarm", "missed"]
)
def test_empty_structures(predicted, true, dice):
    scores = score_case("a", np.full((1, 2, 3), predicted), np.full((1, 2, 3), true), {"background": 0, "one": 1})
    assert scores.labels["one"].dice == dice
    assert scores.labels["one"].iou == dice


def test_values_that_no_label_declares_count_as_background():
    reference = np.array([[[1, 7, 0, 300]]])
    prediction = np.array([[[1, 1, -5, 300]]])
    scores = score_case("a", prediction, reference, {"one": 1}).labels["one"]
    assert (scores.true_positives, scores.false_positives, scores.false_negatives) == (1, 1, 0)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"case a: .*\(2, 3, 5\).*\(2, 5, 3\)"):
        score_case("a", np.zeros((2, 3, 5)), np.zeros((2, 5, 3)), {"one": 1})


maps = arrays(np.uint8, (3, 5, 7), elements=st.sampled_from([0, 2, 5, 9, 200]))


@given(prediction=maps, reference=maps)
@settings(deadline=None, max_examples=50)
def test_equals_counting_with_boolean_masks(prediction, reference):
    labels: dict[str, LabelValues] = {"background": 0, "two": 2, "five": 5, "both": (2, 5), "ignore": 9}
    scores = score_case("a", prediction, reference, labels).labels
    counted = reference != 9
    for name, values in {"two": [2], "five": [5], "both": [2, 5]}.items():
        predicted = np.isin(prediction, values) & counted
        true = np.isin(reference, values) & counted
        assert scores[name].true_positives == (predicted & true).sum()
        assert scores[name].false_positives == (predicted & ~true).sum()
        assert scores[name].false_negatives == (~predicted & true).sum()
