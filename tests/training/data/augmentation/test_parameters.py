"""Golden values of nnU-Net's augmentation rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.training.data.augmentation.parameters import (
    AugmentationRules,
    enlarged_patch_size,
    is_dummy_2d,
    rotation_range_degrees,
    spatial_dimensions,
)


@pytest.mark.parametrize(
    ("patch_size", "degrees", "expected"),
    [
        ((128, 128, 128), 30, (205, 205, 205)),
        ((64, 160, 160), 30, (159, 257, 200)),
        ((80, 192, 160), 30, (194, 289, 210)),
        ((20, 256, 224), 180, (20, 301, 301)),
        ((320, 256), 180, (376, 376)),
        ((512, 512), 180, (602, 602)),
        ((640, 320), 15, (824, 376)),
    ],
)
def test_enlarged_patch_and_angles_are_nnunets(patch_size, degrees, expected):
    assert rotation_range_degrees(patch_size) == degrees
    assert enlarged_patch_size(patch_size) == expected


@pytest.mark.parametrize(
    ("patch_size", "expected"),
    [((20, 256, 224), True), ((48, 144, 100), False), ((47, 144, 100), True), ((320, 64), False)],
)
def test_dummy_2d_needs_three_axes_and_a_ratio_above_three(patch_size, expected):
    assert is_dummy_2d(patch_size) is expected


def test_axes_that_are_rotated():
    assert spatial_dimensions((20, 256, 224)) == 2
    assert spatial_dimensions((64, 160, 160)) == 3
    assert spatial_dimensions((320, 256)) == 2


@given(patch_size=st.lists(st.integers(4, 600), min_size=2, max_size=3))
def test_enlarged_patch_is_never_smaller(patch_size):
    assert all(a >= b for a, b in zip(enlarged_patch_size(patch_size), patch_size, strict=True))


def test_probabilities_are_nnunets():
    rules = AugmentationRules()

    assert (rules.rotation_probability, rules.scaling_probability, rules.scaling_range) == (0.2, 0.2, (0.7, 1.4))
    assert (rules.noise_probability, rules.noise_std_range) == (0.1, (0.0, 0.1))
    assert (rules.blur_probability, rules.blur_channel_probability) == (0.2, 0.5)
    assert rules.blur_sigma_range == (0.5, 1.0)
    assert (rules.brightness_probability, rules.brightness_range) == (0.15, (0.75, 1.25))
    assert (rules.contrast_probability, rules.contrast_range) == (0.15, (0.75, 1.25))
    assert (rules.low_resolution_probability, rules.low_resolution_channel_probability) == (0.25, 0.5)
    assert rules.low_resolution_range == (0.5, 1.0)
    assert (rules.inverted_gamma_probability, rules.gamma_probability) == (0.1, 0.3)
    assert rules.gamma_range == (0.7, 1.5)
    assert rules.mirror_axis_probability == 0.5
