"""The rule by which label files are read, from options and labels."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import UsageError
from autoseg.imaging.datasets.labels.label_colors import parse_label_colors
from autoseg.imaging.datasets.labels.label_reading import (
    ReadingOptions,
    has_mixed_scales,
    resolve_reading,
    suggest_colors,
)
from autoseg.imaging.formats.label_values import read_values
from autoseg.records.dataset import LabelReading


def test_a_threshold_makes_the_only_label():
    assert resolve_reading(ReadingOptions(), {"a": 1}) == (None, {"a": 1})
    assert resolve_reading(ReadingOptions(threshold=128), None) == (LabelReading(threshold=128), None)
    reading, _ = resolve_reading(ReadingOptions(threshold=128), {"background": 0, "vessel": 5})
    assert reading == LabelReading(threshold=128, threshold_value=5)


@pytest.mark.parametrize("labels", [{"a": 1, "b": 2}, {"a": 1, "ignore": 2}, {"whole": (1, 2)}])
def test_a_threshold_does_not_fit_other_labels(labels):
    with pytest.raises(UsageError, match="--label-threshold makes one label of everything from 128 on, but the labels"):
        resolve_reading(ReadingOptions(threshold=128), labels)


def test_numbers_of_objects_make_the_only_label():
    reading, labels = resolve_reading(ReadingOptions(are_ids=True), {"background": 0, "cell": 5})
    assert reading == LabelReading(threshold=1.0, threshold_value=5, are_ids=True)
    assert labels == {"background": 0, "cell": 5}
    values, _ = read_values(np.array([[[[0, 5, 70_000, 1]]]]), reading, Path("a.png"))
    assert values.tolist() == [[[[0, 5, 5, 5]]]]
    with pytest.raises(
        UsageError, match="--label-ids makes one label of everything from 1 on, but the labels are a, b"
    ):
        resolve_reading(ReadingOptions(are_ids=True), {"a": 1, "b": 2})
    with pytest.raises(UsageError, match="--label-threshold and --label-ids contradict each other"):
        resolve_reading(ReadingOptions(threshold=3, are_ids=True), None)
    assert "are_ids" not in LabelReading(threshold=128).model_dump_json()


def test_colours_and_threshold_contradict_each_other():
    with pytest.raises(UsageError, match="contradict each other"):
        resolve_reading(ReadingOptions(colors=parse_label_colors("red=a"), threshold=1), None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{0, 1}, {0, 255}], True),
        ([{0, 1}, {0, 65535}, {0, 255}, {0}, set()], True),
        ([{0, 1}, {0, 1}], False),
        ([{0, 255}, {0, 255}], False),
        ([{0, 1, 255}, {0, 1}], False),
        ([{0, 1}, {0, 2}], False),
        ([{0, 1}, {0, 254}], False),
        ([], False),
    ],
)
def test_masks_of_two_scales(values, expected: bool):
    assert has_mixed_scales(values) == expected


def test_suggested_colours_can_be_given_back():
    found = {(254, 1, 0): 30, (0, 0, 0): 500, (255, 0, 0): 70, (0, 200, 0): 60}
    assert suggest_colors(found) == "255,0,0=label_1, 0,200,0=label_2"
    assert parse_label_colors(suggest_colors(found)) == (((255, 0, 0), "label_1"), ((0, 200, 0), "label_2"))
    assert suggest_colors({(255, 255, 255): 9, (255, 0, 0): 1}) == "255,255,255=background, 255,0,0=label_1"
