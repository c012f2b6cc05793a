"""Resampling against scikit-image and scipy, by hand, and on nnU-Net's own outputs (in tests of preprocessing)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.resampling import (
    axis_operator,
    preprocessed_grid,
    resample_image,
    resample_labels,
    separate_axis,
)
from autoseg.records.network import ResamplingSpec

SPEC = ResamplingSpec()
CUBE = (1.0, 1.0, 1.0)
THICK = (5.0, 1.0, 1.0)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(2, 14))


def resized_by_skimage(array, shape, order):
    return resize(array.astype(np.float64), shape, order, mode="edge", clip=True, anti_aliasing=False)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((5, 1, 1), CUBE, 0),
        (CUBE, (4, 1, 1), 0),
        ((1, 1, 5), CUBE, 2),
        ((5, 5, 1), CUBE, None),
        ((3, 1, 1), CUBE, None),
        ((5, 5, 1), (1, 9, 1), None),
        ((2, 1, 1), (1, 4, 1), 1),
        (CUBE, CUBE, None),
    ],
)
def test_separate_axis(spacing, target, axis):
    assert separate_axis(spacing, target, SPEC) == axis


def test_separate_axis_when_the_plan_insists():
    always = ResamplingSpec(separate_through_plane="always")
    never = ResamplingSpec(separate_through_plane="never")
    assert separate_axis((1.0, 2.0, 1.0), CUBE, always) == 1
    assert separate_axis(CUBE, (9.0, 1.0, 1.0), always) is None
    assert separate_axis((9.0, 1.0, 1.0), CUBE, never) is None


@settings(deadline=None, max_examples=40)
@given(shapes, shapes, st.sampled_from([0, 1, 3]), st.integers(0, 99))
def test_image_equals_skimage(shape, new_shape, order, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    spec = ResamplingSpec(image_order=order)
    resampled = resample_image(image, new_shape, CUBE, CUBE, spec)
    assert resampled.dtype == np.float32
    expected = np.stack([resized_by_skimage(channel, new_shape, order) for channel in image])
    np.testing.assert_allclose(resampled, expected, atol=1e-5 * float(np.ptp(image)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("new_size", [3, 7, 10, 14])
def test_separate_axis_is_resized_slice_by_slice_then_nearest(axis, new_size):
    shape, new_shape = np.array([11, 8, 9]), np.array([6, 13, 12])
    shape[axis], new_shape[axis] = 7, new_size
    spacing = (5.0 if axis == 0 else 1.0, 5.0 if axis == 1 else 1.0, 5.0 if axis == 2 else 1.0)
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    in_plane = np.delete(new_shape, axis)
    slices = np.stack([resized_by_skimage(plane, in_plane, 3) for plane in np.moveaxis(image[0], axis, 0)], axis)
    coordinates = np.array(np.meshgrid(*(np.arange(size, dtype=float) for size in new_shape), indexing="ij"))
    coordinates[axis] = 7 / new_size * (coordinates[axis] + 0.5) - 0.5
    expected = ndimage.map_coordinates(slices, coordinates, order=0, mode="nearest")
    resampled = resample_image(image, (new_shape[0], new_shape[1], new_shape[2]), spacing, CUBE, SPEC)
    np.testing.assert_allclose(resampled[0], expected, atol=1e-5 * float(np.ptp(image)))


def test_through_plane_order_one_is_linear_between_slices():
    image = np.zeros((1, 2, 3, 5), dtype=np.float32)
    image[0, 1] = 4.0
    resampled = resample_image(image, (4, 3, 5), THICK, CUBE, ResamplingSpec(through_plane_order=1))
    np.testing.assert_allclose(resampled[0, :, 1, 2], [0, 1, 3, 4], atol=1e-6)


def test_equal_shapes_are_returned_untouched():
    image, labels = np.ones((1, 3, 5, 7), dtype=np.float32), np.ones((3, 5, 7), dtype=np.int16)
    assert resample_image(image, (3, 5, 7), THICK, CUBE, SPEC) is image
    assert resample_labels(labels, (3, 5, 7), THICK, CUBE, SPEC) is labels


def test_cubic_overshoot_is_clipped_per_channel_and_per_slice():
    image = np.zeros((2, 4, 9, 11), dtype=np.float32)
    image[0, :, 4:, 5:] = 1.0
    image[1] = 100 * image[0]
    image[0, 2] *= 0.5
    resampled = resample_image(image, (4, 20, 25), THICK, CUBE, SPEC)
    assert resampled.min() == 0.0
    assert resampled[0, 2].max() == 0.5
    assert resampled[0, 1].max() == 1.0
    assert resampled[1].max() == 100.0


def test_operator_keeps_constants_and_is_protected():
    for order in (0, 1, 3):
        operator = axis_operator(7, 17, order)
        assert operator.shape == (17, 7)
        np.testing.assert_allclose(operator.sum(axis=1), 1.0, atol=1e-12)
        with pytest.raises(ValueError, match="read-only"):
            operator[0, 0] = 2.0


def test_linear_operator_by_hand():
    # Halving pixels: new centres at -0.25, 0.25, 0.75, 1.25; beyond the border the border's value goes on.
    by_hand = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(axis_operator(2, 4, 1), by_hand, atol=1e-12)


def shares_by_skimage(labels, new_shape):
    values = np.unique(labels)
    return values, np.stack([resized_by_skimage(labels == value, new_shape, 1) for value in values])


@settings(deadline=None, max_examples=40)
@given(shapes, shapes, st.integers(0, 99))
def test_labels_take_the_largest_share(shape, new_shape, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([-1, 0, 1, 2, 5], dtype=np.int16), size=shape, p=[0.1, 0.4, 0.2, 0.2, 0.1])
    resampled = resample_labels(labels, new_shape, CUBE, CUBE, SPEC)
    assert resampled.dtype == np.int16
    values, shares = shares_by_skimage(labels, new_shape)
    assert set(np.unique(resampled)) <= set(values)
    won = np.take_along_axis(shares, np.searchsorted(values, resampled)[None], axis=0)[0]
    np.testing.assert_allclose(won, shares.max(axis=0), atol=3e-6)


def test_equal_shares_go_to_the_smaller_label():
    labels = np.array([2, 1, 1, 3, 3, -1], dtype=np.int16).reshape(1, 1, 6)
    # Halving the size takes the middle between two neighbours: 2|1, 1|3, 3|-1.
    assert resample_labels(labels, (1, 1, 3), CUBE, CUBE, SPEC).ravel().tolist() == [1, 1, -1]


def test_where_no_label_has_half_the_largest_still_wins():
    labels = np.array([[1, 2], [3, 3]], dtype=np.int16).reshape(1, 2, 2)
    resampled = resample_labels(labels, (1, 10, 3), CUBE, CUBE, SPEC)
    # Row 4 of 10 lies 0.4 of the way from the upper to the lower row: shares 0.3, 0.3 and 0.4 in the middle.
    assert resampled[0, 4, 1] == 3


@pytest.mark.parametrize("new_size", [2, 5, 8])
def test_labels_with_a_separate_axis_are_decided_in_the_slice(new_size):
    labels = np.random.default_rng(5).integers(-1, 4, size=(4, 9, 11)).astype(np.int16)
    in_plane = np.stack([resample_labels(plane[None], (1, 13, 7), CUBE, CUBE, SPEC)[0] for plane in labels])
    nearest = ndimage.map_coordinates(
        np.arange(4), [4 / new_size * (np.arange(new_size) + 0.5) - 0.5], order=0, mode="nearest"
    )
    resampled = resample_labels(labels, (new_size, 13, 7), THICK, CUBE, SPEC)
    np.testing.assert_array_equal(resampled, in_plane[nearest])


def test_labels_through_plane_with_order_one():
    labels = np.zeros((3, 2, 2), dtype=np.int16)
    labels[1:] = 4
    resampled = resample_labels(labels, (9, 2, 2), THICK, CUBE, ResamplingSpec(through_plane_order=1))
    assert resampled[:, 0, 0].tolist() == [0, 0, 0, 4, 4, 4, 4, 4, 4]


def test_many_labels_come_back_where_they_were():
    labels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    enlarged = resample_labels(labels, (6, 9, 12), CUBE, CUBE, SPEC)
    np.testing.assert_array_equal(enlarged[1::3, 1::3, 1::3], labels)


def test_the_grid_of_a_preprocessed_case():
    assert preprocessed_grid((20, 28, 24), (2.0, 1.0, 1.0), (1.0, 0.5, 2.0)) == ((1.0, 0.5, 2.0), (40, 56, 12))
    assert preprocessed_grid((20, 28, 24), (2.0, 1.0, 1.0), (0.5, 2.0)) == ((2.0, 0.5, 2.0), (20, 56, 12))


@pytest.mark.parametrize(
    ("spacing", "becomes"),
    [((1000.0, 500.0, 500.0), "20000 x 14000 x 12000"), ((0.002, 0.001, 0.001), "1 x 1 x 1")],
)
def test_a_wrong_unit_is_refused_before_an_image_is_blown_up_or_lost(spacing, becomes):
    with pytest.raises(DatasetError, match=rf"20 x 28 x 24 voxels would become {becomes}\. Correct the voxel sizes"):
        preprocessed_grid((20, 28, 24), spacing, (1.0, 1.0, 1.0))


def test_tenfold_thick_and_tiny_images_are_resampled():
    assert preprocessed_grid((20, 28, 24), (10.0, 9.0, 9.0), CUBE)[1] == (200, 252, 216)
    assert preprocessed_grid((2, 2, 2), (0.3, 0.3, 0.3), CUBE)[1] == (1, 1, 1)
