"""Means over cases and the policy for empty structures, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.summary import case_dice, summarize
from autoseg.records.evaluation import CaseScores, LabelScores


def scores(true_positives, false_positives=0, false_negatives=0):
    union = true_positives + false_positives + false_negatives
    return LabelScores(
        dice=2 * true_positives / (union + true_positives) if union else None,
        iou=true_positives / union if union else None,
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=false_negatives,
        predicted_voxels=true_positives + false_positives,
        reference_voxels=true_positives + false_negatives,
    )


PERFECT, HALF, EMPTY = scores(4), scores(1, 1, 1), scores(0)
MISSED, FALSE_ALARM = scores(0, 0, 3), scores(0, 3, 0)


def test_means_leave_out_empty_cases_and_count_them():
    cases = [
        CaseScores(case="a", labels={"liver": PERFECT, "tumour": EMPTY}),
        CaseScores(case="b", labels={"liver": HALF, "tumour": FALSE_ALARM}),
        CaseScores(case="c", labels={"liver": HALF, "tumour": MISSED}),
        CaseScores(case="d", labels={"liver": EMPTY, "tumour": PERFECT}),
        CaseScores(case="f", labels={"liver": EMPTY, "tumour": MISSED}),
    ]

    evaluation = summarize(cases, ["liver", "tumour"], missing=["e"])

    liver, tumour = evaluation.labels["liver"], evaluation.labels["tumour"]
    assert liver.dice == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert liver.num_cases == 3
    assert liver.dice_std == pytest.approx(((1 / 9 + 1 / 36 + 1 / 36) / 2) ** 0.5)
    assert tumour.dice == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert liver.iou == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert evaluation.mean_foreground_dice == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert evaluation.counts["liver"].model_dump() == {"both_empty": 2, "missed": 0, "false_alarm": 0}
    assert evaluation.counts["tumour"].model_dump() == {"both_empty": 1, "missed": 2, "false_alarm": 1}
    assert evaluation.missing_predictions == ("e",)


def test_every_label_counts_the_same_however_many_cases_have_it():
    cases = [
        CaseScores(case="a", labels={"often": PERFECT, "rare": EMPTY}),
        CaseScores(case="b", labels={"often": PERFECT, "rare": HALF}),
    ]
    assert summarize(cases, ["often", "rare"]).mean_foreground_dice == pytest.approx((1 + 0.5) / 2)


def test_a_label_that_occurs_nowhere_does_not_spoil_the_mean():
    evaluation = summarize([CaseScores(case="a", labels={"liver": HALF, "never": EMPTY})], ["liver", "never"])
    assert evaluation.labels["never"].dice is None
    assert evaluation.labels["never"].num_cases == 0
    assert evaluation.mean_foreground_dice == pytest.approx(0.5)
    assert evaluation.labels["liver"].dice_std is None


@pytest.mark.parametrize("cases", [[], [CaseScores(case="a", labels={"liver": EMPTY})]])
def test_no_score_at_all_gives_none(cases):
    assert summarize(cases, ["liver"]).mean_foreground_dice is None


def test_a_case_without_one_of_the_labels_is_refused():
    with pytest.raises(ValueError, match="case a was not scored for label 'tumour'"):
        summarize([CaseScores(case="a", labels={"liver": HALF})], ["liver", "tumour"])


def test_dice_of_a_case_leaves_out_empty_labels():
    assert case_dice(CaseScores(case="a", labels={"x": PERFECT, "y": HALF, "z": EMPTY})) == pytest.approx(0.75)
    assert case_dice(CaseScores(case="a", labels={"z": EMPTY})) is None


def measured(hausdorff=None, *, predicted=4, reference=4, precision=None, recall=None):
    """Scores with distances, as `measure_case` gives them."""
    is_hit = predicted > 0 and reference > 0
    dice = None if predicted == reference == 0 else 0.75 if is_hit else 0.0
    return LabelScores(
        dice=dice,
        iou=dice,
        true_positives=0,
        false_positives=predicted,
        false_negatives=reference,
        predicted_voxels=predicted,
        reference_voxels=reference,
        precision=precision,
        recall=recall,
        hausdorff_mm=hausdorff,
        surface_dice=dice,
        volume_error_ml=None if dice is None else float(predicted - reference),
    )


def case_of(name, of_liver, diagonal=100.0, tolerance=1.0):
    return CaseScores(
        case=name, labels={"liver": of_liver}, largest_distance_mm=diagonal, surface_tolerance_mm=tolerance
    )


def test_misses_and_false_alarms_enter_with_the_diagonal_of_their_own_image():
    cases = [
        case_of("a", measured(3.0, precision=0.5, recall=0.75)),
        case_of("b", measured(5.0, precision=1.0, recall=0.25)),
        case_of("missed", measured(predicted=0, recall=0.0), diagonal=80.0),
        case_of("false alarm", measured(reference=0, precision=0.0), diagonal=60.0),
        case_of("empty", measured(predicted=0, reference=0)),
    ]
    evaluation = summarize(cases, ["liver"])
    metrics = evaluation.labels["liver"].metrics
    hausdorff = metrics["hausdorff_mm"]
    assert (hausdorff.mean, hausdorff.num_cases) == (4.0, 2)
    assert hausdorff.mean_with_misses == pytest.approx((3 + 5 + 80 + 60) / 4)
    assert metrics["precision"].mean == pytest.approx(0.5)
    assert metrics["precision"].mean_with_misses == pytest.approx(1.5 / 4)
    assert metrics["recall"].mean == pytest.approx(1 / 3)
    assert metrics["recall"].mean_with_misses == pytest.approx(1 / 4)
    assert metrics["surface_dice"].mean == pytest.approx(1.5 / 4)
    assert metrics["surface_dice"].mean_with_misses is None
    assert metrics["volume_error_ml"].mean == 0.0
    assert "lesion_f1" not in metrics  # was not computed
    assert evaluation.surface_tolerance_mm == 1.0
    assert evaluation.counts["liver"].model_dump() == {"both_empty": 1, "missed": 1, "false_alarm": 1}


def test_a_miss_of_unknown_worth_leaves_no_mean_with_misses():
    cases = [case_of("a", measured(3.0)), CaseScores(case="b", labels={"liver": measured(predicted=0)})]
    hausdorff = summarize(cases, ["liver"]).labels["liver"].metrics["hausdorff_mm"]
    assert (hausdorff.mean, hausdorff.mean_with_misses) == (3.0, None)


def test_every_structure_missed_still_has_a_distance():
    hausdorff = summarize([case_of("a", measured(predicted=0))], ["liver"]).labels["liver"].metrics["hausdorff_mm"]
    assert (hausdorff.mean, hausdorff.num_cases, hausdorff.mean_with_misses) == (None, 0, 100.0)


def test_surface_dice_of_different_tolerances_has_no_mean():
    evaluation = summarize([case_of("a", measured(3.0)), case_of("b", measured(3.0), tolerance=2.0)], ["liver"])
    assert evaluation.surface_tolerance_mm is None
    assert "surface_dice" not in evaluation.labels["liver"].metrics
    assert "hausdorff_mm" in evaluation.labels["liver"].metrics


def test_intervals_belong_to_their_own_metric():
    cases = [case_of(str(number), measured(float(number))) for number in range(10)]
    evaluation = summarize(cases, ["liver"])
    metrics = evaluation.labels["liver"].metrics
    low, high = metrics["hausdorff_mm"].interval or (0.0, 0.0)
    assert 2.0 < low < 4.5 < high < 7.0
    assert metrics["dice"].interval == (0.75, 0.75)
    assert metrics["dice"].mean == evaluation.labels["liver"].dice
    assert evaluation.mean_foreground_dice_interval == (0.75, 0.75)
    assert summarize(cases[:1], ["liver"]).mean_foreground_dice_interval is None


HIGHER_IS_BETTER = ("dice", "iou", "precision", "recall", "surface_dice", "lesion_f1", "panoptic_quality")
LOWER_IS_BETTER = ("volume_overlap_error", "average_surface_distance_mm", "hausdorff_mm", "hausdorff_95_mm")
masks = arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 0, 1]))


@given(pairs=st.lists(st.tuples(masks, masks), min_size=1, max_size=4), spacing=st.sampled_from([(3.0, 0.5, 1.0)]))
@settings(deadline=None, max_examples=30)
def test_a_missed_structure_never_improves_a_score(pairs, spacing):
    """Emptying the prediction of the first case, whatever it was, makes no mean better."""
    cases = [
        measure_case(str(number), prediction, reference | np.eye(4, 5, dtype=np.uint8), {"one": 1}, spacing)
        for number, (prediction, reference) in enumerate(pairs)
    ]
    empty = measure_case("0", pairs[0][0] * 0, pairs[0][1] | np.eye(4, 5, dtype=np.uint8), {"one": 1}, spacing)
    before, after = (summarize(of, ["one"]).labels["one"].metrics for of in (cases, [empty, *cases[1:]]))
    for sign, names in ((1, HIGHER_IS_BETTER), (-1, LOWER_IS_BETTER)):
        for name in names:
            old, new = (_honest(metrics[name]) for metrics in (before, after))
            assert sign * new <= sign * old + 1e-12, name


def _honest(metric):
    return metric.mean if metric.mean_with_misses is None else metric.mean_with_misses
