"""Rotation, scaling, mirroring."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.records.sides import SideSwap
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.augmentation.spatial import (
    Mirror,
    draw_affine,
    read_label_patch,
    read_patch,
    rotation_matrix,
)


def make_volume(shape, *, num_labels=3, channels=2, seed=0):
    """Smooth blobs of labels with -1 among them, and noise."""
    generator = np.random.default_rng(seed)
    array = generator.random((channels + 1, *shape), dtype=np.float32)
    blobs = ndimage.gaussian_filter(generator.standard_normal((num_labels + 1, *shape)), (0, 2, 2, 2))
    array[-1] = blobs.argmax(axis=0) - 1
    return array


def read(array, corner, patch, matrix):
    image = np.full((len(array) - 1, *patch), np.nan, dtype=np.float32)
    labels = np.full(patch, 99, dtype=np.int16)
    read_patch(array, corner, matrix, image=image, labels=labels)
    return image, labels


@pytest.mark.parametrize("matrix", [None, np.eye(3), np.eye(2)])
@pytest.mark.parametrize("corner", [(2, 3, 1), (-1, -3, 6)])
def test_identity_only_cuts_the_patch_out(matrix, corner):
    array, patch = make_volume((9, 12, 11)), (5, 7, 6)
    padded = np.pad(array[:-1], [(0, 0)] + [(10, 10)] * 3)
    padded_labels = np.pad(array[-1], 10, constant_values=-1)
    window = tuple(slice(10 + low, 10 + low + edge) for low, edge in zip(corner, patch, strict=True))

    image, labels = read(array, corner, patch, matrix)

    np.testing.assert_allclose(image, padded[(slice(None), *window)], atol=2e-6)
    np.testing.assert_array_equal(labels, padded_labels[window])
    if matrix is None:
        np.testing.assert_array_equal(image, padded[(slice(None), *window)])


@pytest.mark.parametrize(("position", "plane"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_right_angle_about_each_axis_is_rot90(position, plane):
    array = make_volume((9, 9, 9))
    angles = np.zeros(3)
    angles[position] = math.pi / 2

    image, labels = read(array, (0, 0, 0), (9, 9, 9), rotation_matrix(angles))

    # numpy turns the first axis of the plane towards the second
    expected = np.rot90(array, 1, axes=(plane[1] + 1, plane[0] + 1))
    np.testing.assert_allclose(image, expected[:-1], atol=1e-4)
    np.testing.assert_array_equal(labels, expected[-1])


@pytest.mark.parametrize("patch", [(3, 9, 9), (1, 9, 9)])
def test_right_angle_within_slices_is_rot90_and_does_not_mix_slices(patch):
    array = make_volume((3, 9, 9))

    image, labels = read(array, (0, 0, 0), patch, rotation_matrix([math.pi / 2]))

    expected = np.rot90(array[:, : patch[0]], 1, axes=(3, 2))
    np.testing.assert_allclose(image, expected[:-1], atol=1e-4)
    np.testing.assert_array_equal(labels, expected[-1])


@pytest.mark.parametrize(("factor", "expected_radius"), [(1.25, 8.0), (0.8, 12.5)])
def test_factor_above_one_makes_objects_smaller(factor, expected_radius):
    z, y, x = np.ogrid[-20:21, -20:21, -20:21]
    ball = (z**2 + y**2 + x**2 <= 10**2).astype(np.float32)

    image, labels = read(np.stack([ball, ball]), (0, 0, 0), (41, 41, 41), np.eye(3) * factor)

    radius = (labels.clip(0).sum() * 3 / (4 * math.pi)) ** (1 / 3)
    assert radius == pytest.approx(expected_radius, abs=0.25)
    assert image.sum() == pytest.approx(ball.sum() / factor**3, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    factor=st.floats(0.7, 1.4),
    corner=st.tuples(*[st.integers(-4, 8)] * 3),
    seed=st.integers(0, 20),
)
def test_agrees_with_scipy_on_image_and_per_label_masks(angles, factor, corner, seed):
    array, patch = make_volume((11, 13, 17), seed=seed), (7, 6, 9)
    matrix = rotation_matrix(angles) * factor
    margin = 30
    padded = np.pad(array[:-1], [(0, 0)] + [(margin, margin)] * 3)
    padded_labels = np.pad(array[-1], margin, constant_values=-1)
    half = (np.array(patch) - 1) / 2
    source = np.einsum("ij,jzyx->izyx", matrix, np.indices(patch) - half[:, None, None, None])
    source += (np.array(corner) + half + margin)[:, None, None, None]

    image, labels = read(array, corner, patch, matrix)

    for channel in range(2):
        expected = ndimage.map_coordinates(padded[channel], source, order=1)
        np.testing.assert_allclose(image[channel], expected, atol=1e-4)
    present = np.unique(padded_labels)
    weights = np.stack(
        [ndimage.map_coordinates((padded_labels == label).astype(float), source, order=1) for label in present]
    )
    ordered = np.sort(weights, axis=0)
    is_clear = ordered[-1] - ordered[-2] > 1e-3
    np.testing.assert_array_equal(labels[is_clear], present[weights.argmax(axis=0)][is_clear])
    assert is_clear.mean() > 0.9
    assert np.isin(labels, present).all()


@pytest.mark.parametrize("matrix", [None, rotation_matrix([0.3, -0.2, 0.4]) * 0.9, rotation_matrix([1.2])])
@pytest.mark.parametrize("corner", [(2, 3, 1), (-3, -2, 7), (50, 0, 0)])
def test_label_map_is_read_with_the_box_and_the_map_of_the_labels(matrix, corner):
    array, patch = make_volume((9, 12, 11)).clip(0), (5, 7, 6)
    margin = 60
    padded = np.pad(array, [(0, 0)] + [(margin, margin)] * 3)  # outside: background, not -1
    z, y, x = corner
    _, expected = read(padded, (z + margin, y + margin, x + margin), patch, matrix)

    previous = read_label_patch(array[-1].astype(np.int16), corner, matrix, patch)

    assert previous.dtype == np.int16
    np.testing.assert_array_equal(previous, expected)


def test_source_outside_the_volume_is_zero_and_minus_one():
    array = np.ones((2, 4, 5, 6), dtype=np.float32)

    image, labels = read(array, (40, 0, 0), (3, 3, 3), np.eye(3) * 1.1)

    assert (image == 0).all()
    assert (labels == -1).all()


def test_share_of_samples_that_are_mapped_and_ranges():
    generator = np.random.default_rng(0)
    rules = AugmentationRules()
    drawn = [draw_affine((64, 160, 160), rules, generator) for _ in range(4000)]
    mapped = [matrix for matrix in drawn if matrix is not None]

    assert len(mapped) / 4000 == pytest.approx(0.36, abs=0.025)
    factors = np.array([np.linalg.det(matrix) ** (1 / 3) for matrix in mapped])
    assert ((factors > 0.7) & (factors < 1.4)).all()
    assert np.isclose(factors, 1).mean() == pytest.approx(0.16 / 0.36, abs=0.04)
    pure_scaling = [np.count_nonzero(matrix) == 3 for matrix in mapped]
    assert np.mean(pure_scaling) == pytest.approx(0.16 / 0.36, abs=0.04)


def test_angles_stay_in_range_and_flat_patches_are_mapped_within_slices():
    generator = np.random.default_rng(0)
    rules = AugmentationRules(rotation_probability=1, scaling_probability=0)
    elongated = [draw_affine((640, 320), rules, generator) for _ in range(300)]
    flat = [draw_affine((20, 256, 224), rules, generator) for _ in range(300)]

    def degrees(matrices):
        return np.degrees([math.atan2(matrix[1, 0], matrix[0, 0]) for matrix in matrices])

    assert all(np.asarray(matrix).shape == (2, 2) for matrix in elongated + flat)
    assert 14 < np.abs(degrees(elongated)).max() <= 15
    assert 170 < np.abs(degrees(flat)).max() <= 180


def test_mirror_flips_image_and_labels_alike_along_allowed_axes_half_of_the_time():
    generator = np.random.default_rng(0)
    image = np.tile(np.arange(24, dtype=np.float32).reshape(1, 1, 2, 3, 4), (1000, 2, 1, 1, 1))
    target = image[:, 0].astype(np.int16)

    previous = target + np.int16(100)

    Mirror((0, 2), probability=0.5)(
        image=image, target=target, previous=previous, cases=[], generators=[generator] * 1000
    )

    np.testing.assert_array_equal(previous, target + 100)
    np.testing.assert_array_equal(image[:, 0], target)
    np.testing.assert_array_equal(image[:, 1], target)
    first = target[:, 0, 0, 0]
    # corners of the original reached by flipping z (12) and x (3); y, 4 apart, is never flipped
    assert set(first.tolist()) == {0, 3, 12, 15}
    assert (target[:, 0, 1, 0] == first + 4).all()
    assert np.mean(np.isin(first, (3, 15))) == pytest.approx(0.5, abs=0.06)
    assert np.mean(first >= 12) == pytest.approx(0.5, abs=0.06)


def test_labels_of_two_sides_change_places_where_their_axis_is_mirrored():
    swap = SideSwap(axis=1, labels=(0, 2, 1, 3), heads=(0, 2, 1))
    generators = [np.random.default_rng(seed) for seed in range(40)]
    target = np.tile(np.array([[-1, 0, 1], [2, 3, 1]], dtype=np.int16), (40, 1, 1))
    image = target[:, None].astype(np.float32)
    made = Mirror((0, 1), probability=0.5, swap=swap)(
        image=image.copy(), target=target.copy(), previous=np.maximum(target, 0), cases=[""] * 40,
        generators=generators,
    )  # fmt: skip
    after = {-1: -1, 0: 0, 1: 2, 2: 1, 3: 3}
    kinds = set()
    for sample in range(40):
        shown = made["image"][sample, 0]  # tells how it was mirrored
        is_mirrored = np.array_equal(shown, target[0][:, ::-1]) or np.array_equal(shown, target[0][::-1, ::-1])
        expected = np.vectorize(lambda value: after[value])(shown.astype(int)) if is_mirrored else shown
        np.testing.assert_array_equal(made["target"][sample], expected)
        np.testing.assert_array_equal(made["previous"][sample], np.maximum(expected, 0))
        kinds.add(is_mirrored)
    assert kinds == {False, True}
    assert made["target"].dtype == np.int16
