import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autoseg.training.losses.boundary import signed_distance
from tests.training.losses.oracle import brute_force_distance


def test_the_boundary_lies_halfway_between_two_voxels():
    inside = np.array([[False, True, True, False, False]])
    assert signed_distance(inside, ~inside).tolist() == [[0.5, -0.5, -0.5, 0.5, 1.5]]


def test_what_borders_on_ignored_voxels_is_no_boundary():
    inside = np.array([[True, True, True, False, False]])
    outside = np.array([[False, False, False, False, True]])
    assert signed_distance(inside, outside)[0, [0, 1, 2, 4]].tolist() == [-3.5, -2.5, -1.5, 1.5]


def test_a_class_that_is_absent_or_everywhere_has_no_boundary():
    everywhere = np.ones((3, 4, 5), bool)
    assert not signed_distance(everywhere, ~everywhere).any()
    assert not signed_distance(~everywhere, everywhere).any()


@settings(deadline=None, max_examples=40)
@given(st.data(), array_shapes(min_dims=2, max_dims=3, max_side=5))
def test_every_voxel_measures_to_the_nearest_one_of_the_other_side(data, shape):
    labels = data.draw(arrays(np.int8, shape, elements=st.integers(0, 2)))  # 2: ignored
    inside, outside = labels == 1, labels == 0
    distances = signed_distance(inside, outside)
    assert distances.dtype == np.float32
    expected = brute_force_distance(inside, outside)
    assert np.allclose(distances[labels != 2], expected[labels != 2], atol=1e-6)
