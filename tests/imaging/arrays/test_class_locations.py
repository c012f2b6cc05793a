"""Class locations: every voxel when there are few, an even draw when there are many."""

import numpy as np
import pytest

from autoseg.imaging.arrays.class_locations import (
    MAX_LOCATIONS,
    draw_class_locations,
    label_boxes,
)
from autoseg.imaging.arrays.labels import foreground_heads, make_encoding
from autoseg.records.dataset import Head, LabelEncoding


def softmax(num_labels, ignore_value=None):
    return LabelEncoding(
        values=tuple(range(num_labels + 1)),
        ignore_value=ignore_value,
        activation="softmax",
        heads=tuple(
            Head(name=f"label {index}" if index else "background", indices=(index,), painted_index=index)
            for index in range(num_labels + 1)
        ),
    )


REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))


def test_few_voxels_are_all_kept():
    labels = np.full((5, 7, 11), -1, dtype=np.int16)
    labels[1:, 2:, 3:] = 0
    labels[2, 3, 4] = labels[4, 6, 10] = 1
    labels[3, 3, 5] = 3
    locations, annotated = draw_class_locations(labels, softmax(3), "a")
    assert annotated is None
    assert sorted(locations) == [1, 2, 3]
    assert locations[1].tolist() == [[2, 3, 4], [4, 6, 10]]
    assert locations[2].shape == (0, 3)
    assert locations[3].tolist() == [[3, 3, 5]]
    assert all(voxels.dtype == np.int32 for voxels in locations.values())


def test_regions_join_their_labels():
    labels = np.zeros((3, 5, 7), dtype=np.int16)
    labels[0, 1, 2] = 1
    labels[2, 4, 6] = 2
    locations, _ = draw_class_locations(labels, REGIONS, "a")
    assert locations[0].tolist() == [[0, 1, 2], [2, 4, 6]]
    assert locations[1].tolist() == [[2, 4, 6]]


def test_many_voxels_are_drawn_evenly_and_once():
    labels = np.zeros((21, 43, 57), dtype=np.int16)
    labels[3:20, 2:40, 5:55] = 1  # 32,300 voxels
    drawn = draw_class_locations(labels, softmax(1), "case é")[0][1]
    assert drawn.shape == (MAX_LOCATIONS, 3)
    assert len(np.unique(drawn, axis=0)) == MAX_LOCATIONS
    assert (labels[tuple(drawn.T)] == 1).all()
    np.testing.assert_allclose(drawn.mean(axis=0), [11, 20.5, 29.5], atol=0.5)
    per_plane = np.bincount(drawn[:, 0], minlength=21)[3:20]
    np.testing.assert_allclose(per_plane / MAX_LOCATIONS, 1 / 17, atol=0.012)


def test_the_draw_depends_on_the_case_alone():
    labels = np.ones((30, 30, 30), dtype=np.int16)
    first = draw_class_locations(labels, softmax(1), "a")[0][1]
    draw_class_locations(labels, softmax(1), "b")
    np.testing.assert_array_equal(draw_class_locations(labels, softmax(1), "a")[0][1], first)
    assert not np.array_equal(draw_class_locations(labels, softmax(1), "b")[0][1], first)


def test_annotated_leaves_out_the_ignore_label_only():
    labels = np.full((2, 3, 5), 2, dtype=np.int16)
    labels[0, 0, :3] = [-1, 0, 1]
    locations, annotated = draw_class_locations(labels, softmax(1, ignore_value=255), "a")
    assert annotated is not None
    assert annotated.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    assert locations[1].tolist() == [[0, 0, 2]]


def test_a_region_with_the_background_is_found():
    encoding = make_encoding({"background": 0, "all": (0, 1)}, (1,))
    labels = np.array([-1, 0, 1], dtype=np.int16).reshape(1, 1, 3)
    assert draw_class_locations(labels, encoding, "a")[0][0].tolist() == [[0, 0, 1], [0, 0, 2]]


def test_boxes_and_heads():
    labels = np.zeros((3, 5, 7), dtype=np.int16)
    labels[1, 2:4, 3] = 2
    assert label_boxes(labels, softmax(2)) == [None, (slice(1, 2), slice(2, 4), slice(3, 4))]
    assert [index for index, _ in foreground_heads(softmax(2))] == [1, 2]
    assert [index for index, _ in foreground_heads(REGIONS)] == [0, 1]


@pytest.mark.parametrize("num_voxels", [MAX_LOCATIONS, MAX_LOCATIONS + 1])
def test_the_cap(num_voxels):
    labels = np.zeros((3, 50, 100), dtype=np.int16)
    labels.reshape(-1)[:num_voxels] = 1
    assert len(draw_class_locations(labels, softmax(1), "a")[0][1]) == MAX_LOCATIONS
