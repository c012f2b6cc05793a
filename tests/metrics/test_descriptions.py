"""Descriptions of metrics agree with the records and with each other."""

import numpy as np
import pytest

from autoseg.metrics.descriptions import BY_NAME, METRICS, NAMES, StructurePair, metrics_of
from autoseg.records.evaluation import LabelScores

COUNTS = (
    "true_positives", "false_positives", "false_negatives", "predicted_voxels", "reference_voxels",
    "predicted_lesions", "reference_lesions", "matched_lesions",
)  # fmt: skip


def test_every_field_of_the_scores_is_a_described_metric_or_a_count():
    assert sorted(LabelScores.model_fields) == sorted([*NAMES, *COUNTS])
    assert len(METRICS) == len(BY_NAME) == len(NAMES) == 14


def test_units_are_in_the_names_and_titles_are_unique():
    for metric in METRICS:
        assert metric.name.endswith(f"_{metric.unit}") or not metric.unit
    assert len({metric.title for metric in METRICS}) == len({metric.column() for metric in METRICS}) == len(METRICS)


def test_a_distance_is_in_pixels_where_an_image_has_no_spacing():
    assert BY_NAME["hausdorff_95_mm"].describe() == "HD95 (mm)"
    assert BY_NAME["hausdorff_95_mm"].describe("pixels") == "HD95 (pixels)"
    assert BY_NAME["volume_error_ml"].describe("pixels") == "volume error (ml)"
    assert BY_NAME["dice"].describe("pixels") == "Dice"
    assert BY_NAME["lesion_f1"].column() == BY_NAME["lesion_f1"].describe() == "lesion F1"


def test_each_table_has_its_metrics_in_one_order():
    assert [metric.name for metric in metrics_of("comparison")] == [
        "dice", "iou", "hausdorff_95_mm", "average_surface_distance_mm", "surface_dice", "panoptic_quality",
    ]  # fmt: skip
    assert {metric.name for metric in METRICS} - {metric.name for metric in metrics_of("page")} == {
        "pixel_accuracy",
        "volume_overlap_error",
    }


def test_what_is_undefined_for_a_missed_structure_has_a_worst_value():
    """A missed structure, on a grid of 3, 5 and 7 voxels: whatever is None for it must say what it counts instead."""
    missed = np.zeros((3, 5, 7), dtype=bool)
    structure = missed.copy()
    structure[1, 2:4, 3] = True
    for pair in (
        StructurePair(missed, structure, None, (3.0, 0.9, 0.7), 1.0),
        StructurePair(structure, missed, None, (3.0, 0.9, 0.7), 1.0),
    ):
        for metric in METRICS:
            if metric.measure is not None:
                assert (metric.measure(pair) is None) == (metric.miss == "worst")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_worst_value_is_a_zero_or_a_distance(metric):
    assert metric.miss == "scored" or metric.better == "higher" or metric.unit == "mm"


def test_distances_have_the_unit_of_the_files():
    distance, volume = BY_NAME["hausdorff_95_mm"], BY_NAME["volume_error_ml"]
    assert (distance.column(), distance.column("pixels")) == ("HD95 mm", "HD95 pixels")
    assert volume.column() == volume.column("pixels")
