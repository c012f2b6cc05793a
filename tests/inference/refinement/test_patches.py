"""Where patches lie along a surface, and how they are cut out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.inference.refinement.patches import (
    choose_centres,
    cut_patch,
    find_surface,
    patch_box,
    plan_patches,
    plan_refiner,
)


def test_surface_of_a_box_by_hand():
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1:4, 1:5, 1:6] = True  # 3 x 4 x 5 voxels around a core of 1 x 2 x 3
    surface = find_surface(mask, flat=False)
    assert surface.sum() == 3 * 4 * 5 - 1 * 2 * 3
    assert not surface[2, 2:4, 2:5].any()
    flat = find_surface(mask, flat=True)
    assert flat.sum() == 3 * (4 * 5 - 2 * 3)


def test_the_border_of_the_image_is_no_surface():
    mask = np.zeros((4, 5, 6), dtype=bool)
    mask[:, :, :3] = True
    surface = find_surface(mask, flat=False)
    assert surface[:, :, 2].all()
    assert surface.sum() == 4 * 5


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    distance=st.tuples(*[st.integers(1, 6)] * 3),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_centres_are_far_apart_and_near_every_surface_voxel(shape, distance, share, seed):
    surface = np.random.default_rng(seed).random(shape) < share
    centres = np.array(choose_centres(surface, distance), dtype=int).reshape(-1, 3)
    points = np.argwhere(surface)
    assert surface[tuple(centres.T)].all()
    between = np.abs(centres[:, None] - centres[None]) >= distance
    assert between.any(axis=-1)[~np.eye(len(centres), dtype=bool)].all()
    near = (np.abs(points[:, None] - centres[None]) < distance).all(axis=-1)
    assert near.any(axis=1).all()


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 9)] * 3), size=st.tuples(*[st.integers(1, 8)] * 3), seed=st.integers(0, 99))
def test_patches_repeat_the_border_and_know_what_is_inside(shape, size, seed):
    generator = np.random.default_rng(seed)
    array = generator.random((2, *shape))
    z, y, x = (int(generator.integers(edge)) for edge in shape)
    centre = (z, y, x)
    padded = np.pad(array, ((0, 0), *((edge, edge) for edge in size)), mode="edge")
    starts = [at - edge // 2 + edge for at, edge in zip(centre, size, strict=True)]
    expected = padded[:, *(slice(start, start + edge) for start, edge in zip(starts, size, strict=True))]
    patch = cut_patch(array, centre, size)
    np.testing.assert_array_equal(patch, expected)
    inside, own = patch_box(centre, size, shape)
    np.testing.assert_array_equal(patch[:, *own], array[:, *inside])
    assert (
        patch[:, *own].size
        == np.pad(np.ones(shape), [(edge, edge) for edge in size])[
            tuple(slice(start, start + edge) for start, edge in zip(starts, size, strict=True))
        ].sum()
        * 2
    )  # all that lies within the image


@pytest.mark.parametrize(
    ("shape", "spacing", "size", "strides", "first_kernel"),
    [
        ((40, 50, 35), (1.0, 1.0, 1.0), (24, 24, 24), ((2, 2, 2), (2, 2, 2)), (3, 3, 3)),
        ((20, 256, 256), (3.0, 1.0, 1.0), (8, 24, 24), ((2, 2, 2), (1, 2, 2)), (3, 3, 3)),
        ((20, 256, 256), (5.5, 1.0, 1.0), (4, 24, 24), ((1, 2, 2), (1, 2, 2)), (1, 3, 3)),
        ((10, 256, 256), (8.0, 1.0, 1.0), (1, 48, 48), ((2, 2), (2, 2)), (3, 3)),
        ((1, 500, 600), (999.0, 1.0, 1.0), (1, 48, 48), ((2, 2), (2, 2)), (3, 3)),
        ((300, 60, 50), (1.0, 2.0, 2.0), (24, 12, 12), ((2, 2, 2), (2, 1, 1)), (3, 3, 3)),
    ],
)
def test_patches_are_cubes_in_mm_or_flat(shape, spacing, size, strides, first_kernel):
    patches = plan_patches([shape] * 3, [spacing] * 3)
    assert patches.size == size
    assert all(2 * distance <= max(edge, 2) for distance, edge in zip(patches.prediction_distance, size, strict=True))
    network = plan_refiner(patches, channels=2)
    assert network.strides[1:] == strides
    assert network.kernel_sizes[0] == first_kernel
    assert (network.dimensions, network.input_channels, network.output_channels) == (len(strides[0]), 3, 1)
