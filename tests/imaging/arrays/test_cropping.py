"""Cropping against scipy's hole filling and boxes worked out by hand."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.imaging.arrays.cropping import find_bounds, find_content_bounds, nonzero_mask, to_slices


def test_mask_is_nonzero_in_any_channel_and_negative_counts():
    image = np.zeros((2, 5, 7, 11), dtype=np.float32)
    image[0, 1, 2, 3] = -4.0
    image[1, 3, 5, 8] = 0.5
    mask = nonzero_mask(image)
    assert np.argwhere(mask).tolist() == [[1, 2, 3], [3, 5, 8]]
    assert find_bounds(mask) == ((1, 2, 3), (4, 6, 9))


def test_enclosed_hole_is_filled_but_a_tunnel_is_not():
    image = np.zeros((1, 7, 9, 11), dtype=np.float32)
    image[0, 1:6, 2:8, 3:10] = 1.0
    image[0, 3, 4, 5] = 0.0
    image[0, 2, 5, :] = 0.0
    mask = nonzero_mask(image)
    assert mask[3, 4, 5]
    assert not mask[2, 5, 6]


def test_holes_of_a_single_plane_stay_open_as_they_touch_the_border():
    image = np.ones((1, 1, 5, 7), dtype=np.float32)
    image[0, 0, 2, 3] = 0.0
    assert not nonzero_mask(image)[0, 2, 3]


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)))
def test_same_voxels_as_scipy(voxels):
    image = voxels[None].astype(np.float32)
    np.testing.assert_array_equal(nonzero_mask(image), ndimage.binary_fill_holes(voxels))


def test_same_voxels_as_scipy_on_a_sponge():
    sponge = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(25, 31, 37)), 1.2) > -0.1
    np.testing.assert_array_equal(nonzero_mask(sponge[None].astype(np.float32)), ndimage.binary_fill_holes(sponge))


def test_image_of_zeros_keeps_its_full_box():
    mask = nonzero_mask(np.zeros((2, 3, 5, 7), dtype=np.float32))
    assert not mask.any()
    assert find_bounds(mask) == ((0, 0, 0), (3, 5, 7))


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, (2, 4, 5, 6), elements=st.sampled_from([0.0, -1.0]), fill=st.just(0.0)),
    st.permutations((1, 2, 3)), st.tuples(*[st.sampled_from([1, -1])] * 3),
)  # fmt: skip
def test_content_box_is_the_box_of_the_mask_in_any_memory_order(image, order, steps):
    view = image.transpose(0, *order)[:, :: steps[0], :: steps[1], :: steps[2]]
    assert find_content_bounds(view) == find_bounds(nonzero_mask(view))


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.bool_, (5, 7, 11)))
def test_box_holds_all_and_touches_on_every_side(mask):
    box = find_bounds(mask)
    inside = mask[to_slices(box)]
    assert inside.sum() == mask.sum()
    if mask.any():
        for axis in range(3):
            assert inside.take(0, axis=axis).any()
            assert inside.take(-1, axis=axis).any()


@pytest.mark.parametrize("corner", [(0, 0, 0), (4, 6, 10)])
def test_box_of_one_voxel(corner):
    mask = np.zeros((5, 7, 11), dtype=bool)
    mask[corner] = True
    assert find_bounds(mask) == (corner, tuple(index + 1 for index in corner))
