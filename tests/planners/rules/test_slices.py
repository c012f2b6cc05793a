"""Sizes of patches, networks and batches where slices are far apart."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.records.budget import Budget, Throughput
from autoseg.records.plan import Configuration
from autoseg.testing import synthetic_fingerprint
from planners.rules import Decided
from planners.rules.slices import (
    NARROW_STEPS,
    STEPS_BEFORE_CONTEXT,
    USUAL_FRACTION,
    Size,
    are_slices_far_apart,
    list_sizes_of_slices,
    shown_fraction,
    smaller_patches_in_plane,
)
from planners.rules.speed import MIN_STEPS, WANTED_STEPS
from planners.rules.topology import compute_topology
from planners.unet import WIDTHS, plan

HEART = ((10.0, 1.5625, 1.5625), (10.0, 256.0, 216.0))
SPEED = tuple(
    Throughput(dimensions=dimensions, base_features=width, macs_per_second=speed)
    for dimensions in (2, 3)
    for width, speed in ((8, 20e9), (32, 60e9))
)


def make(spacing, shape, seconds: float, **budget) -> dict[str, Configuration]:
    fingerprint = synthetic_fingerprint([spacing] * 40, [shape] * 40, label_values=range(4))
    limits: dict[str, Any] = {"device": "cpu", "time_per_fold_seconds": seconds, "throughput": SPEED}
    return plan(fingerprint, Budget(**(limits | budget))).configurations


def list_sizes(spacing, shape, batches=(12, 6, 3)) -> list[Size]:
    patch = Decided(compute_topology(spacing, shape), "Memory.")
    return list(list_sizes_of_slices(patch, WIDTHS, [Decided(size, "") for size in batches], spacing, shape, None))


@pytest.mark.parametrize(
    ("spacing", "shape", "expected"),
    [
        (*HEART, True),
        ((4.8, 1.5625, 1.0), (10, 256, 216), True),
        ((4.6, 1.5625, 1.0), (10, 256, 216), False),  # less than 3 times the coarser axis of the plane
        ((999.0, 1.0, 1.0), (1, 512, 512), False),  # a 2D image
        ((1.0, 1.0, 1.0), (36, 50, 35), False),
    ],
)
def test_where_slices_are_far_apart(spacing, shape, expected):
    assert are_slices_far_apart(spacing, shape) is expected


def test_the_plane_is_halved_and_the_slices_stay():
    spacing, shape = HEART
    patch = Decided(compute_topology(spacing, shape), "Memory.")
    patches = [each.value.patch_size for each in smaller_patches_in_plane(patch, spacing, shape, None)]
    assert patches == [(10, 256, 112), (10, 128, 112), (10, 128, 56)]
    assert [round(shown_fraction(each, shape), 3) for each in patches] == [0.519, 0.259, 0.13]
    flat = Decided(compute_topology(spacing[1:], shape[1:]), "Memory.")
    assert [each.value.patch_size for each in smaller_patches_in_plane(flat, spacing[1:], shape[1:], None)] == [
        (256, 112),
        (128, 112),
        (128, 56),
    ]


def test_a_patch_that_is_padded_shows_no_more_than_the_image():
    assert shown_fraction((16, 256, 224), (10, 256, 216)) == 1.0
    assert shown_fraction((16, 64, 224), (10, 256, 216)) == 0.25


def test_order_of_a_short_axis_scan():
    sizes = list_sizes((1.5625, 1.5625), (256.0, 216.0))
    assert [(patch.value.patch_size, width, batch.value, steps) for patch, width, batch, steps in sizes[:9]] == [
        ((256, 224), 32, 12, STEPS_BEFORE_CONTEXT),
        ((256, 112), 32, 12, STEPS_BEFORE_CONTEXT),
        ((128, 112), 32, 12, WANTED_STEPS),
        ((128, 112), 24, 12, WANTED_STEPS),
        ((128, 112), 16, 12, WANTED_STEPS),
        ((128, 112), 16, 6, WANTED_STEPS),
        ((128, 112), 16, 3, WANTED_STEPS),
        ((128, 112), 8, 3, NARROW_STEPS),
        ((128, 56), 8, 3, MIN_STEPS),
    ]
    assert all(width == 8 and batch.value == 3 for _, width, batch, _ in sizes[7:])


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(3.5, 12.0), st.floats(0.5, 1.1), st.floats(0.5, 1.1)),
    st.tuples(st.integers(2, 40), st.integers(12, 600), st.integers(12, 600)),
    st.sampled_from([(12, 6, 3), (2,)]),
    st.booleans(),
)
def test_no_size_is_larger_than_the_one_before(spacing, shape, batches, is_flat):
    axes = slice(1 if is_flat else 0, None)
    sizes = list_sizes(spacing[axes], tuple(map(float, shape[axes])), batches)
    assert sizes[0][1] == WIDTHS[0]
    assert sizes[-1][1] == WIDTHS[-1]
    for (patch, width, batch, _), (next_patch, next_width, next_batch, _) in itertools.pairwise(sizes):
        edges = zip(patch.value.patch_size, next_patch.value.patch_size, strict=True)
        assert all(after <= before for before, after in edges)
        assert next_width <= width
        assert next_batch.value <= batch.value
        assert (next_patch.value, next_width, next_batch.value) != (patch.value, width, batch.value)


@pytest.mark.parametrize("seconds", [120.0, 300.0, 600.0, 1200.0, 3600.0])
def test_context_is_given_up_before_width(seconds):
    made = make((10.0, 1.5625, 1.5625), (10, 256, 216), seconds)
    for configuration in made.values():
        shown = shown_fraction(configuration.patch_size, configuration.median_shape)
        steps = configuration.training.epochs * configuration.training.steps_per_epoch
        if shown > 2 * USUAL_FRACTION:
            assert steps > 0.9 * STEPS_BEFORE_CONTEXT  # the last epoch may not fit
        if configuration.network.features[0] > 8:
            assert shown >= USUAL_FRACTION
            assert steps > 0.9 * WANTED_STEPS
        if len(configuration.patch_size) == 3 and configuration.network.features[0] > 8:
            assert configuration.patch_size[0] == 10


def test_other_images_keep_their_order():
    """The whole image at the narrowest width, as without the rule for slices."""
    made = make((1.0, 1.0, 1.0), (36, 50, 35), 120.0)["3d_fullres"]
    assert made.patch_size == (40, 56, 40)
    assert made.network.features[0] == 8


def test_an_assumed_speed_says_nothing_about_steps():
    made = make((10.0, 1.5625, 1.5625), (10, 256, 216), 3600.0, throughput=())
    assert made["2d"].patch_size == (256, 224)
    assert made["2d"].network.features[0] == 8


def test_what_the_user_chose_stays():
    made = make((10.0, 1.5625, 1.5625), (10, 256, 216), 600.0, overrides={"patch_size": (10, 256, 224)})["3d_fullres"]
    assert made.patch_size == (10, 256, 224)
    made = make((10.0, 1.5625, 1.5625), (10, 256, 216), 600.0, overrides={"options": {"base_features": "20"}})["2d"]
    assert made.network.features[0] == 20
    assert math.prod(made.patch_size) < 256 * 224


def test_the_reason_says_what_is_shown():
    fingerprint = synthetic_fingerprint([(10.0, 1.5625, 1.5625)] * 40, [(10, 256, 216)] * 40, label_values=range(4))
    made = plan(fingerprint, Budget(device="cpu", time_per_fold_seconds=1200.0, throughput=SPEED))
    [decision] = [decision for decision in made.decisions if decision.what == "3d_fullres.patch_size"]
    assert decision.reason.startswith("Memory allows (10, 256, 224), halved in plane: slices are far apart, 26% of")
