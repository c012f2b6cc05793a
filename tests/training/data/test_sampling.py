"""Placement of patches."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.training.data.sampling import (
    corner_range,
    cut_box,
    cut_label_box,
    draw_case_of_sets,
    draw_case_with_foreground,
    draw_centre_voxel,
    draw_patch_corner,
    group_cases_by_set,
    is_forced_foreground,
    list_cases_by_head,
)

sizes = st.tuples(*[st.integers(1, 14)] * 3)


@pytest.mark.parametrize(("batch_size", "expected"), [(2, 1), (3, 1), (4, 1), (5, 2), (8, 3), (12, 4), (32, 11)])
def test_share_of_forced_samples_is_nnunets(batch_size, expected):
    forced = [is_forced_foreground(sample, batch_size, 0.33) for sample in range(batch_size)]

    assert sum(forced) == expected
    assert forced == sorted(forced)  # the last ones


def test_corner_range_by_hand():
    assert corner_range((5, 7, 11), (4, 9, 11)) == ((0, -1, 0), (1, -1, 0))
    # 3 voxels are missing: one more on either side
    assert corner_range((5, 7, 11), (8, 7, 2)) == ((-2, 0, 0), (-1, 0, 9))


@given(shape=sizes, patch=sizes, seed=st.integers(0, 99), fractions=st.tuples(*[st.floats(0, 0.999)] * 3))
def test_patch_is_inside_the_volume_or_contains_it_and_shows_its_voxel(shape, patch, seed, fractions):
    generator = np.random.default_rng(seed)
    voxel = np.array([int(f * edge) for f, edge in zip(fractions, shape, strict=True)])

    around_voxel = draw_patch_corner(shape, patch, voxel, generator)

    assert (np.asarray(around_voxel) <= voxel).all()
    assert (voxel < np.asarray(around_voxel) + patch).all()
    for corner in (around_voxel, draw_patch_corner(shape, patch, None, generator)):
        for low, edge, size in zip(corner, patch, shape, strict=True):
            if edge <= size:
                assert 0 <= low <= size - edge
            else:
                assert low <= 0
                assert low + edge >= size
                assert abs((-low) - (low + edge - size)) <= 1


def test_patch_around_a_voxel_far_from_the_border_has_it_in_the_centre():
    corner = draw_patch_corner((50, 60, 70), (5, 8, 1), np.array([20, 30, 40]), np.random.default_rng(0))

    assert corner == (18, 26, 40)


def test_random_corners_reach_both_ends_evenly():
    generator = np.random.default_rng(0)
    corners = Counter(draw_patch_corner((9, 4, 4), (5, 4, 4), None, generator)[0] for _ in range(5000))

    assert sorted(corners) == [0, 1, 2, 3, 4]
    assert min(corners.values()) > 850


def test_classes_are_equally_likely_whatever_their_size():
    locations = {1: np.array([[1, 2, 3]]), 2: np.array([[4, 5, z] for z in range(99)]), 7: np.zeros((0, 3), int)}
    generator = np.random.default_rng(0)

    drawn = [
        tuple(np.asarray(draw_centre_voxel(locations, None, forced=True, generator=generator)).tolist())
        for _ in range(2000)
    ]

    assert 900 < drawn.count((1, 2, 3)) < 1100
    assert len(set(drawn)) == 100


def test_annotated_voxels_are_used_when_nothing_is_forced_or_nothing_is_there_to_force():
    generator = np.random.default_rng(0)
    locations, annotated = {1: np.array([[9, 9, 9]])}, np.array([[1, 2, 3]])

    def draw(locations, annotated, *, forced):
        return draw_centre_voxel(locations, annotated, forced=forced, generator=generator)

    assert draw(locations, annotated, forced=False).tolist() == [1, 2, 3]
    assert draw(locations, annotated, forced=True).tolist() == [9, 9, 9]
    assert draw({}, annotated, forced=True).tolist() == [1, 2, 3]
    assert draw(locations, None, forced=False) is None
    assert draw({}, None, forced=True) is None
    assert draw({}, np.zeros((0, 3), int), forced=False) is None


@settings(max_examples=60)
@given(corner=st.tuples(*[st.integers(-9, 9)] * 3), size=sizes)
def test_box_equals_the_padded_volume(corner, size):
    array = np.random.default_rng(0).random((3, 5, 7, 4), dtype=np.float32)
    pad = [(0, 0)] + [(30, 30)] * 3
    expected = np.concatenate([np.pad(array[:-1], pad), np.pad(array[-1:], pad, constant_values=-1)])
    window = tuple(slice(30 + low, 30 + low + edge) for low, edge in zip(corner, size, strict=True))

    np.testing.assert_array_equal(cut_box(array, corner, size), expected[(slice(None), *window)])
    labels = (array[-1] * 100).astype(np.int16)
    np.testing.assert_array_equal(cut_label_box(labels, corner, size), np.pad(labels, 30)[window])


def test_labels_are_equally_likely_however_many_cases_have_them():
    some, none = np.zeros((5, 3), dtype=np.int32), np.zeros((0, 3), dtype=np.int32)
    cases = [{1: some, 2: none}, {1: some}, {}, {1: some, 2: some}, {2: none}, {3: none}]
    by_head = list_cases_by_head(cases)
    assert by_head == {1: [0, 1, 3], 2: [3]}
    generator = np.random.default_rng(0)
    drawn = Counter(draw_case_with_foreground(by_head, generator) for _ in range(3000))
    assert drawn.keys() == {(1, 0), (1, 1), (1, 3), (2, 3)}
    assert drawn[2, 3] == pytest.approx(1500, abs=100)
    assert drawn[1, 0] == pytest.approx(500, abs=80)


def test_without_foreground_there_is_no_case_with_it():
    assert list_cases_by_head([{}, {1: np.zeros((0, 3), dtype=np.int32)}]) == {}


def test_cases_are_grouped_by_what_was_looked_for():
    targets = [None, np.array([4, 5, -1]), None, np.array([8, 9, -1]), np.array([4, 5, -1])]
    assert group_cases_by_set(targets) == [[0, 2], [1, 4], [3]]


def test_small_sets_are_drawn_more_often_than_their_cases_alone_would_be():
    groups, generator = [list(range(9)), [9]], np.random.default_rng(0)
    drawn = np.bincount([draw_case_of_sets(groups, generator) for _ in range(8000)], minlength=10)
    assert drawn[9] / 8000 == pytest.approx(1 / 4, abs=0.02)  # roots of 9 and 1
    assert drawn[:9] / 8000 == pytest.approx(np.full(9, 3 / 4 / 9), abs=0.02)
