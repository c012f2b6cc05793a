"""Memory of preprocessing and time of resampling, against products by hand."""

import pytest

from autoseg.costs.preprocessing import preprocessing_memory_bytes, resampling_seconds
from tests.builders import make_case_fingerprint, make_fingerprint, make_plan


def test_memory_of_preprocessing_is_that_of_the_larger_grid_of_the_largest_case():
    plan = make_plan({"3d_fullres": (2.0, 1.0, 2.0)}, transpose=(1, 0, 2))
    small = make_case_fingerprint("a", (4, 6, 10), cropped_shape=(2, 5, 8), spacing=(2.0, 1.0, 2.0))
    fine = make_case_fingerprint("b", (4, 6, 10), cropped_shape=(2, 5, 8), spacing=(8.0, 4.0, 2.0))
    channels = len(plan.channel_names) + 1
    assert preprocessing_memory_bytes(plan, make_fingerprint([small], plan)) == 240 * channels * 14
    assert preprocessing_memory_bytes(plan, make_fingerprint([small, fine], plan)) == 80 * 16 * channels * 14


def test_time_of_resampling_counts_the_products_along_every_axis_that_changes():
    plan = make_plan({"3d_fullres": (2.0, 1.0, 2.0)}, transpose=(1, 0, 2))  # working axes (y, z, x)
    case = make_case_fingerprint("a", (4, 6, 10), cropped_shape=(2, 5, 8), spacing=(4.0, 1.0, 2.0))
    # axis 1 (target 2.0) shrinks by half and comes first: 2 x 2.5 x 8 from 5; axis 0 (target 1.0) grows 4 times: from 2
    macs = 2 * 2.5 * 8 * 5 + 8 * 2.5 * 8 * 2
    expected = len(plan.channel_names) * macs / 11e9
    assert resampling_seconds(plan, make_fingerprint([case], plan)) == pytest.approx(expected)


def test_the_slices_of_a_2d_configuration_cost_nothing():
    plan = make_plan({"2d": (1.0, 1.0)})
    case = make_case_fingerprint("a", (4, 6, 10), cropped_shape=(2, 5, 8), spacing=(4.0, 1.0, 2.0))
    expected = len(plan.channel_names) * (2 * 5 * 16 * 8) / 11e9
    assert resampling_seconds(plan, make_fingerprint([case], plan)) == pytest.approx(expected)
