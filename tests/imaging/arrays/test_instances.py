"""Instances by hand, and against skimage and SimpleITK."""

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoseg.components import label_components
from autoseg.imaging.arrays.border_core import divide_encoding
from autoseg.imaging.arrays.instances import find_instances, grow_cores
from autoseg.imaging.arrays.labels import make_encoding

TWO = make_encoding({"cell": 7, "nerve": 300})
DIVIDED = divide_encoding(make_encoding({"cell": 255}))


def test_components_of_each_label_by_hand():
    labels = np.array([[[1, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 1], [2, 2, 0, 0]]])
    ids, owners = find_instances(labels, TWO, (1.0, 1.0, 1.0))
    expected = [[[1, 0, 3, 0], [0, 1, 0, 0], [0, 0, 0, 2], [4, 4, 0, 0]]]
    np.testing.assert_array_equal(ids, expected)
    assert owners == (7, 7, 300, 300)
    assert ids.dtype == np.uint8


def test_an_empty_label_map():
    ids, owners = find_instances(np.zeros((2, 3, 4), dtype=np.uint8), TWO, (1.0, 1.0, 1.0))
    assert not ids.any()
    assert owners == ()


def test_numbers_get_the_type_that_they_need():
    labels = np.zeros((3, 41, 43), dtype=np.uint8)
    labels[::2, ::2, ::2] = 1
    ids, owners = find_instances(labels, TWO, (1.0, 1.0, 1.0))
    assert ids.max() == len(owners) == 2 * 21 * 22
    assert ids.dtype == np.uint16


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, (3, 6, 7), elements=st.integers(0, 2)))
def test_components_are_those_of_simpleitk(labels):
    ids, owners = find_instances(labels, TWO, (3.0, 1.0, 0.5))
    for index, value in ((1, 7), (2, 300)):
        mask = labels == index
        expected = SimpleITK.GetArrayFromImage(
            SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), True)
        )
        pairs = {*zip(ids[mask].tolist(), expected[mask].tolist(), strict=True)}
        assert len(pairs) == len(np.unique(expected[mask])) == owners.count(value)
        np.testing.assert_array_equal(np.isin(ids, 1 + np.flatnonzero(np.array(owners) == value)), mask)


def test_a_corner_joins_only_with_full_connectivity():
    diagonal = np.eye(3, dtype=bool)[None]
    assert label_components(diagonal, "full").max() == 1
    assert label_components(diagonal, "face").max() == 3


def test_cores_that_touch_at_a_corner_are_two():
    labels = np.array([[[2, 2, 2, 2], [2, 1, 2, 2], [2, 2, 1, 2], [2, 2, 2, 2]]])
    ids, owners = find_instances(labels, DIVIDED, (1.0, 1.0, 1.0))
    assert owners == (255, 255)
    assert ids[0, 1, 1] == ids[0, 0, 0] == ids[0, 0, 1] == 1
    assert ids[0, 2, 2] == ids[0, 3, 3] == ids[0, 3, 2] == 2
    assert (ids > 0).all()


def test_growth_goes_by_millimetres():
    """Between cores at both ends of a bent bar the parts meet in the middle of the way in mm, not in voxels."""
    core, mask = np.zeros((9, 1, 9), dtype=bool), np.zeros((9, 1, 9), dtype=bool)
    mask[:, 0, 0] = mask[0, 0, :] = True
    core[8, 0, 0] = core[0, 0, 8] = True
    for spacing in ((1.0, 1.0, 1.0), (3.0, 1.0, 1.0)):
        grown = grow_cores(core, mask, spacing)
        np.testing.assert_array_equal(grown > 0, mask)
        lower, right = grown[8, 0, 0], grown[0, 0, 8]
        assert lower != right
        distance_mm = np.array([[z * spacing[0], x * spacing[2]] for z, _, x in np.argwhere(mask)])
        to_lower = np.hypot(distance_mm[:, 0] - 8 * spacing[0], distance_mm[:, 1])
        to_right = np.hypot(distance_mm[:, 0], distance_mm[:, 1] - 8 * spacing[2])
        clear = np.abs(to_lower - to_right) > 1e-6
        expected = np.where(to_lower < to_right, lower, right)
        np.testing.assert_array_equal(grown[mask][clear], expected[clear])


def test_touching_discs_are_apart_by_their_cores_and_one_without():
    """Two discs of radius 9 that overlap a little; cores are the discs of radius 6."""
    rows, columns = np.ogrid[:24, :40]
    distances = [np.hypot(rows - 11, columns - center) for center in (11, 28)]
    discs = [distance <= 9 for distance in distances]
    labels = np.where(discs[0] | discs[1], 2, 0)
    for distance in distances:
        labels[distance <= 6] = 1
    ids, owners = find_instances(labels[None], DIVIDED, (1.0, 1.0, 1.0))
    assert len(owners) == 2
    nearer = np.where(distances[0] < distances[1], ids[0, 11, 11], ids[0, 11, 28])
    clear = (np.abs(distances[0] - distances[1]) > 1) & (labels > 0)
    np.testing.assert_array_equal(ids[0][clear], nearer[clear])
    plain, merged = find_instances((labels > 0).astype(np.uint8)[None], TWO, (1.0, 1.0, 1.0))
    assert merged == (7,)
    np.testing.assert_array_equal(plain[0] > 0, labels > 0)


def test_border_that_no_core_reaches_is_no_instance():
    labels = np.array([[[2, 1, 2, 0, 2, 2, 0, 2]]])
    ids, owners = find_instances(labels, DIVIDED, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(ids, [[[1, 1, 1, 0, 0, 0, 0, 0]]])
    assert owners == (255,)
    ids, owners = find_instances(np.array([[[0, 2, 2, 0, 2]]]), DIVIDED, (1.0, 1.0, 1.0))
    assert not ids.any()
    assert owners == ()


@pytest.mark.parametrize("encoding", [TWO, DIVIDED])
@settings(deadline=None, max_examples=60)
@given(labels=arrays.arrays(np.uint8, (3, 5, 6), elements=st.integers(0, 2)))
def test_every_foreground_voxel_that_a_core_reaches_is_in_one_instance_of_its_label(encoding, labels):
    ids, owners = find_instances(labels, encoding, (2.0, 1.0, 0.7))
    reached = labels > 0
    if encoding is DIVIDED:
        whole = label_components(reached, "face")
        reached &= np.isin(whole, np.unique(whole[labels == 1]))
    np.testing.assert_array_equal(ids > 0, reached)
    assert set(np.unique(ids[ids > 0])) == set(range(1, len(owners) + 1))
    np.testing.assert_array_equal(np.array([0, *owners])[ids], np.where(reached, np.array(encoding.values)[labels], 0))
