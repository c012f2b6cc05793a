"""Every metric of a case, worked out by hand, and what is left out of it."""

import numpy as np
import pytest

from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.descriptions import NAMES
from autoseg.metrics.overlap import score_case
from autoseg.records.dataset import LabelValues

SPACING = (5.0, 0.5, 2.0)
LABELS: dict[str, LabelValues] = {"background": 0, "liver": 1, "lesion": 7, "both": (1, 7)}


def boxes(*parts, shape=(6, 8, 11)):
    """Boxes ((z, z), (y, y), (x, x), value), later ones over earlier ones."""
    values = np.zeros(shape, dtype=np.int16)
    for z, y, x, value in parts:
        values[slice(*z), slice(*y), slice(*x)] = value
    return values


REFERENCE = boxes(((1, 4), (2, 6), (1, 6), 1), ((1, 3), (0, 2), (8, 10), 7), ((5, 6), (6, 8), (9, 11), 7))
PREDICTION = boxes(((1, 4), (2, 6), (2, 6), 1), ((1, 3), (0, 2), (8, 10), 7), ((5, 6), (0, 1), (0, 1), 7))


def test_all_metrics_of_one_label_worked_out_by_hand():
    liver = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING, tolerance_mm=1.9).labels["liver"]
    assert (liver.true_positives, liver.false_positives, liver.false_negatives) == (48, 0, 12)
    assert liver.dice == pytest.approx(96 / 108)
    assert liver.iou == pytest.approx(0.8)
    assert liver.volume_overlap_error == pytest.approx(0.2)
    assert liver.precision == 1.0
    assert liver.recall == pytest.approx(0.8)
    assert liver.relative_volume_difference == pytest.approx(-0.2)
    assert liver.volume_error_ml == pytest.approx(-12 * 5 * 0.5 * 2 / 1000)
    assert liver.pixel_accuracy == pytest.approx(1 - 12 / (6 * 8 * 11))
    assert liver.hausdorff_mm == pytest.approx(2.0)
    assert liver.hausdorff_95_mm == pytest.approx(2.0)
    assert liver.average_surface_distance_mm == pytest.approx(0.0, abs=1.0)
    assert liver.surface_dice == pytest.approx(0.8, abs=0.19)  # all but the shifted face
    assert (liver.predicted_lesions, liver.reference_lesions, liver.matched_lesions) == (1, 1, 1)
    assert liver.lesion_f1 == 1.0
    assert liver.panoptic_quality == pytest.approx(0.8)


def test_lesions_are_matched_one_by_one():
    lesion = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING).labels["lesion"]
    assert (lesion.predicted_lesions, lesion.reference_lesions, lesion.matched_lesions) == (2, 2, 1)
    assert lesion.lesion_f1 == pytest.approx(0.5)
    assert lesion.panoptic_quality == pytest.approx(0.5)


def test_the_case_knows_its_tolerance_and_its_worst_distance():
    case = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING, 2.5)
    assert list(case.labels) == ["liver", "lesion", "both"]
    assert case.surface_tolerance_mm == 2.5
    assert case.largest_distance_mm == pytest.approx(np.linalg.norm([6 * 5.0, 8 * 0.5, 11 * 2.0]))


def test_regions_are_measured_as_unions():
    both = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING).labels["both"]
    prediction, reference = ((values > 0).astype(np.uint8) for values in (PREDICTION, REFERENCE))
    assert measure_case("a", prediction, reference, {"both": 1}, SPACING).labels["both"] == both


def test_labels_may_have_any_values():
    other = {0: 0, 1: 40000, 7: -3}
    prediction, reference = (np.vectorize(other.get)(one) for one in (PREDICTION, REFERENCE))
    labels: dict[str, LabelValues] = {"background": 0, "liver": 40000, "lesion": -3, "both": (40000, -3)}
    assert measure_case("a", prediction, reference, labels, SPACING) == measure_case(
        "a", PREDICTION, REFERENCE, LABELS, SPACING
    )


def test_without_tolerance_only_counts_are_used():
    case = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING, tolerance_mm=None)
    full = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING)
    assert case.surface_tolerance_mm is None
    assert case.largest_distance_mm is None
    for name, scores in case.labels.items():
        assert (scores.hausdorff_mm, scores.surface_dice, scores.lesion_f1) == (None, None, None)
        known = {field: value for field, value in scores.model_dump().items() if value is not None}
        assert known.items() <= full.labels[name].model_dump().items()
        assert {"volume_error_ml", "pixel_accuracy", "recall"} <= known.keys()


@pytest.mark.parametrize(("predicted", "true"), [(False, False), (True, False), (False, True)])
def test_empty_structures_follow_the_policy(predicted, true):
    scores = measure_case("a", PREDICTION * predicted, REFERENCE * true, LABELS, SPACING).labels["liver"]
    zero = ("dice", "iou", "surface_dice", "lesion_f1", "panoptic_quality")
    for name in zero:
        assert getattr(scores, name) == (0.0 if predicted or true else None)
    assert scores.volume_overlap_error == (1.0 if predicted or true else None)
    assert scores.precision == (0.0 if predicted else None)
    assert scores.recall == (0.0 if true else None)
    assert scores.relative_volume_difference == (-1.0 if true else None)
    assert scores.volume_error_ml == (
        pytest.approx((48 * predicted - 60 * true) * 0.005) if predicted or true else None
    )
    assert (scores.average_surface_distance_mm, scores.hausdorff_mm, scores.hausdorff_95_mm) == (None, None, None)
    if not predicted and not true:
        assert all(getattr(scores, name) is None for name in NAMES)


def test_ignored_voxels_are_left_out_of_everything():
    ignored = boxes(((0, 6), (0, 8), (6, 11), 1)).astype(bool)
    ignored[:, :, 2] = True  # the only column in which liver differs from what is left
    reference = np.where(ignored, 9, REFERENCE)
    prediction = np.where(ignored, 1, PREDICTION)
    labels = {**LABELS, "ignore": 9}
    case = measure_case("a", prediction, reference, labels, SPACING)
    assert list(case.labels) == ["liver", "lesion", "both"]
    lesion = case.labels["lesion"]
    assert (lesion.predicted_voxels, lesion.reference_voxels) == (1, 0)
    liver = case.labels["liver"]
    assert (liver.true_positives, liver.false_positives, liver.false_negatives) == (36, 0, 12)
    assert liver.pixel_accuracy == pytest.approx(1 - 12 / (6 * 8 * 5))
    assert liver.reference_lesions == 2  # cut in two by what is ignored
    filled = prediction.copy()
    filled[ignored] = 7
    assert measure_case("a", filled, reference, labels, SPACING) == case


def test_a_picture_has_no_volume_and_counts_pixels():
    reference, prediction = (values[2:3] for values in (REFERENCE, PREDICTION))
    picture = measure_case("a", prediction, reference, LABELS, (999.0, 1.0, 1.0))
    liver = picture.labels["liver"]
    assert liver.volume_error_ml is None
    assert liver.relative_volume_difference == pytest.approx(-0.2)
    assert liver.hausdorff_mm == pytest.approx(1.0)
    assert picture.largest_distance_mm == pytest.approx(np.hypot(8, 11))


def test_counts_are_those_of_the_cheap_scores():
    full = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING).labels
    for name, scores in score_case("a", PREDICTION, REFERENCE, LABELS).labels.items():
        known = {field: value for field, value in scores.model_dump().items() if value is not None}
        assert known.items() <= full[name].model_dump().items()
        assert scores.pixel_accuracy is None  # needs the whole image, which a cut-out is not


def test_every_metric_has_a_field_that_is_filled():
    liver = measure_case("a", PREDICTION, REFERENCE, LABELS, SPACING).labels["liver"]
    assert all(getattr(liver, name) is not None for name in NAMES)
    assert None not in liver.model_dump().values()


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"case a: .*\(2, 3, 5\).*\(2, 5, 3\)"):
        measure_case("a", np.zeros((2, 3, 5), int), np.zeros((2, 5, 3), int), {"one": 1}, SPACING)
