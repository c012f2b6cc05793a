from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.training.losses.level import downsample_target, fractional_power, region_target


def test_a_power_below_one_has_a_finite_slope_at_zero():
    base = torch.tensor([0.0, -1e-8, 1e-4, 0.5], requires_grad=True)
    power = fractional_power(base, 0.3)
    power.sum().backward()
    assert power.tolist() == pytest.approx([0.0, 0.0, 1e-4**0.3, 0.5**0.3], abs=1e-7)
    assert base.grad is not None
    assert base.grad.tolist() == pytest.approx([0.0, 0.0, 0.3 * 1e-4**-0.7, 0.3 * 0.5**-0.7], rel=1e-4)


REGIONS = make_encoding({"background": 0, "whole": (1, 2, 7), "core": (1, 7), "rim": 7, "ignore": 9}, (2, 1, 7))


def test_halving_takes_the_odd_voxels():
    target = torch.arange(12, dtype=torch.int16).view(1, 2, 6)
    assert downsample_target(target, (2, 3)).tolist() == [[[1, 3, 5], [7, 9, 11]]]
    assert downsample_target(target, (1, 2)).tolist() == [[[7, 10]]]


def test_equal_shape_gives_the_target_itself():
    target = torch.zeros(2, 3, 5, dtype=torch.int64)
    assert downsample_target(target, (3, 5)) is target


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 17), min_size=3, max_size=3), st.lists(st.integers(1, 17), min_size=3, max_size=3))
def test_every_voxel_takes_the_one_that_contains_its_centre(sizes, new_sizes):
    target = torch.randint(0, 30000, (2, *sizes), dtype=torch.int16)
    result = downsample_target(target, new_sizes)
    indices = [
        [floor(Fraction(2 * i + 1, 2) * Fraction(size, new_size)) for i in range(new_size)]
        for size, new_size in zip(sizes, new_sizes, strict=True)
    ]
    assert result.dtype == torch.int16
    assert np.array_equal(result.numpy(), target.numpy()[np.ix_([0, 1], *indices)])


@pytest.mark.parametrize("factors", [(1, 2, 2), (4, 2, 1), (3, 1, 5), (8, 16, 32)])
def test_downsampling_by_whole_strides_is_torchs_nearest_exact(factors):
    target = torch.randint(0, 100, (2, *(3 * factor for factor in factors)))
    # torch knows no nearest-exact for integers
    expected = F.interpolate(target.double().unsqueeze(1), size=(3, 3, 3), mode="nearest-exact").squeeze(1)
    assert torch.equal(downsample_target(target, (3, 3, 3)).double(), expected)


def test_number_of_axes_must_agree():
    with pytest.raises(ValueError, match="numbers of axes differ"):
        downsample_target(torch.zeros(1, 4, 4), (2, 2, 2))


def test_regions_overlap_and_ignored_voxels_are_in_none():
    target = torch.tensor([[[0, 1, 2], [3, 4, 0]]], dtype=torch.int16)
    regions, annotated = region_target(target, REGIONS)
    assert regions.dtype == torch.float32
    assert regions.tolist() == [[[[0, 1, 1], [1, 0, 0]], [[0, 1, 0], [1, 0, 0]], [[0, 0, 0], [1, 0, 0]]]]
    assert annotated is not None
    assert annotated.tolist() == [[[[1, 1, 1], [1, 0, 1]]]]


def test_no_mask_without_ignore_label():
    regions, annotated = region_target(
        torch.zeros(2, 3, 4, 5, dtype=torch.int64), REGIONS.model_copy(update={"ignore_value": None})
    )
    assert regions.shape == (2, 3, 3, 4, 5)
    assert annotated is None
