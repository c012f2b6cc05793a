"""Schemes by channel name."""

import pytest

from autoseg.records.fingerprint import IntensityStatistics
from planners.rules.normalization import choose_masks, choose_normalization

STATISTICS = IntensityStatistics(
    mean=99.0, median=101.0, std=39.0, minimum=-1000.0, maximum=3000.0, percentile_00_5=-15.0, percentile_99_5=197.0
)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "none"),
        ("zscore", "zscore"),
        ("rescale_to_0_1", "rescale_0_1"),
        ("RGB_to_0_1", "rgb_0_1"),
        ("R", "zscore"),
        ("MRI", "zscore"),
        ("CT contrast", "zscore"),
    ],
)
def test_scheme(name, scheme):
    [spec] = choose_normalization([name], [STATISTICS], 0.5).value
    assert spec.scheme == scheme
    assert spec.use_mask is (scheme == "zscore")
    assert (spec.mean, spec.std, spec.lower, spec.upper) == (99.0, 39.0, -15.0, 197.0)


@pytest.mark.parametrize(("fraction", "mask"), [(0.7499, True), (0.75, False), (1.0, False)])
def test_mask_below_three_quarters(fraction, mask):
    specs = choose_normalization(["MRI", "CT"], [STATISTICS, STATISTICS], fraction).value
    assert choose_masks(specs, fraction).value == (mask, False)


def test_explanations():
    specs, reason = choose_normalization(["CT", "MRI", "PET"], [STATISTICS] * 3, 0.6)
    assert reason.count("zscore:") == 1
    assert "CT numbers mean the same" in reason
    assert "60% of the voxels, less than 75%" in choose_masks(specs, 0.6).reason
    assert "whole image" in choose_masks(choose_normalization(["T1"], [STATISTICS], 0.9).value, 0.9).reason
    [ct] = choose_normalization(["CT"], [STATISTICS], 0.6).value
    assert choose_masks([ct], 0.6) == ((False,), "Only a z-score could use the mask.")
