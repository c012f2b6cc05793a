"""Levels, strides and kernels, by hand and by property."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planners.rules.topology import (
    Topology,
    compute_topology,
    describe_levels,
    features_per_level,
    pad_to_two_levels,
)


def test_isotropic():
    topology = compute_topology((1.0, 1.0, 1.0), (36, 50, 35))
    assert topology == Topology((40, 56, 40), ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 4, (8, 8, 8))


def test_anisotropic():
    topology = compute_topology((5.0, 1.5625, 1.5625), (17.0, 237.0, 208.0))
    assert topology.patch_size == (20, 256, 224)
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert topology.kernel_sizes == ((1, 3, 3), *((3, 3, 3),) * 5)
    assert topology.divisors == (4, 32, 32)


def test_an_axis_too_short_to_pool_still_gets_its_kernel():
    # 10 mm slices: 1 x 3 x 3 until in-plane spacing reaches more than 5 mm; edge 6 is never halved.
    topology = compute_topology((10.0, 1.5625, 1.5625), (6, 64, 64))
    assert topology.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert topology.strides[1:] == ((1, 2, 2),) * 4


def test_kernels_look_at_all_spacings_pooling_at_those_of_long_axes_only():
    # The fine axis is too short to be pooled, and the coarse one never comes near its spacing.
    topology = compute_topology((1.0, 5.0), (6, 64))
    assert topology.strides == ((1, 1), *((1, 2),) * 3)
    assert topology.kernel_sizes == ((3, 1), (3, 1), (3, 1), (3, 3))


@pytest.mark.parametrize(("edge", "pools"), [(11, 0), (12, 1), (13, 1), (22, 1), (23, 2)])
def test_a_single_axis_is_pooled_from_twelve_voxels_on(edge, pools):
    topology = compute_topology((1.0, 1.0), (5, edge))
    assert topology.levels == pools + 1


def test_factor_of_exactly_two_is_too_much():
    assert compute_topology((2.0, 1.0), (16, 32)).strides[1] == (1, 2)
    assert compute_topology((1.99, 1.0), (16, 32)).strides[1] == (2, 2)


def test_fractional_median_is_padded():
    assert compute_topology((1.0, 1.0), (48.5, 35.5)).patch_size == (56, 40)


@pytest.mark.parametrize(
    ("spacing", "patch", "padded"),
    [
        ((1.0, 1.0, 1.0), (5, 6, 7), (8, 8, 8)),
        ((3.0, 1.0, 1.0), (5, 6, 7), (5, 8, 8)),
        ((3.0, 3.0, 1.0), (5, 6, 7), (5, 6, 12)),
        ((1.0, 1.0), (40, 50), (40, 50)),
    ],
)
def test_tiny_patches_grow_until_two_levels_fit(spacing, patch, padded):
    assert pad_to_two_levels(spacing, patch) == padded
    assert compute_topology(spacing, padded).levels >= 2


def test_features_and_caps():
    assert features_per_level(7, 3) == (32, 64, 128, 256, 320, 320, 320)
    assert features_per_level(7, 2) == (32, 64, 128, 256, 512, 512, 512)
    assert features_per_level(5, 3, 8) == (8, 16, 32, 64, 80)
    assert features_per_level(6, 2, 24) == (24, 48, 96, 192, 384, 384)


def test_explanation_counts_halvings():
    topology = compute_topology((5.0, 1.5, 1.5), (17, 237, 208))
    assert "2, 5, 5 times, until the next halving" in describe_levels(topology, None).reason
    assert "finer spacing first" in describe_levels(topology, None).reason


def test_as_deep_as_the_network_is_meant_to_be():
    deep, shallow = compute_topology((1.0, 1.0), (512, 240)), compute_topology((1.0, 1.0), (512, 240), 4)
    assert (deep.levels, deep.patch_size) == (7, (512, 256))
    assert (shallow.levels, shallow.patch_size, shallow.divisors) == (4, (512, 240), (8, 8))
    assert describe_levels(shallow, 4) == (
        4,
        "The axes are halved 3, 3 times, which is as deep as this network is meant to be.",
    )
    assert "halved 6, 6 times, until" in describe_levels(deep, 8).reason


@given(
    st.integers(2, 3).flatmap(
        lambda dimensions: st.tuples(
            st.lists(st.floats(0.15, 50.0), min_size=dimensions, max_size=dimensions),
            st.lists(st.integers(1, 2000), min_size=dimensions, max_size=dimensions),
        )
    )
)
def test_patch_is_padded_to_the_total_stride_and_no_further(case):
    spacing, patch = case
    topology = compute_topology(spacing, patch)
    for axis, edge in enumerate(patch):
        total = math.prod(stride[axis] for stride in topology.strides)
        assert topology.patch_size[axis] % total == 0
        assert edge <= topology.patch_size[axis] < edge + total
        assert total == 1 or topology.patch_size[axis] // total >= 4
    assert len(topology.kernel_sizes) == topology.levels
    assert set(topology.strides[0]) == {1}
