"""Temperatures of made-up voxels whose true probabilities are known."""

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.selection.temperature import (
    MAX_TEMPERATURE,
    Voxels,
    calibrate,
    fit_temperatures,
    learn_temperatures,
    measure_calibration,
)

LABELS = make_encoding({"background": 0, "a": 3, "b": 7})
REGIONS = make_encoding({"background": 0, "whole": (3, 7), "core": 7}, (3, 7))


def draw_labels(count, sharpness, seed=0):
    """Labels drawn from a softmax, and the probabilities of a network whose logits are `sharpness` times as large."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (count, 3))
    true = softmax(logits, axis=1)
    indices = (generator.random((count, 1)) > true.cumsum(axis=1)).sum(axis=1)
    claimed = softmax(sharpness * logits, axis=1).astype(np.float32)
    return Voxels(claimed, indices.astype(np.int16), np.ones(count, dtype=np.float32))


def draw_regions(count, sharpness, seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (count, 2))
    is_core = generator.random(count) < expit(logits[:, 1])
    is_rim = generator.random(count) < expit(logits[:, 0])
    indices = np.where(is_core, 2, np.where(is_rim, 1, 0)).astype(np.int16)
    claimed = expit(np.array(sharpness) * logits).astype(np.float32)
    return Voxels(claimed, indices, np.ones(count, dtype=np.float32))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_what_made_the_network_too_sure(sharpness):
    voxels = draw_labels(20000, sharpness)
    fitted = fit_temperatures(voxels, LABELS)
    assert fitted == dict.fromkeys(("background", "a", "b"), fitted["a"])
    assert fitted["a"] == pytest.approx(sharpness, rel=0.05)
    errors = measure_calibration(voxels, calibrate(voxels, fitted, LABELS), LABELS)
    assert list(errors) == ["a", "b"]
    assert all(error.error_after < 0.02 for error in errors.values())


def test_each_region_has_its_own_temperature():
    voxels = draw_regions(20000, (1.0, 3.0))
    fitted = fit_temperatures(voxels, REGIONS)
    assert fitted["core"] == pytest.approx(3.0, rel=0.07)
    # the core is part of the whole, so that even its logits are too sure: the best of a grid
    claimed = voxels.probabilities[:, 0].astype(np.float64)
    likely, is_whole = claimed >= 0.05, voxels.indices > 0
    grid = np.arange(0.5, 4, 0.01)
    tempered = expit(logit(claimed[likely]) / grid[:, None])
    losses = -np.log(np.where(is_whole[likely], tempered, 1 - tempered)).mean(axis=1)
    assert fitted["whole"] == pytest.approx(grid[losses.argmin()], abs=0.02)


def test_voxels_count_as_often_as_they_stand_for():
    few, many = draw_labels(3000, 2.0, 1), draw_labels(3000, 0.5, 2)
    heavy = Voxels(many.probabilities, many.indices, np.full(3000, 4.0, dtype=np.float32))
    joined = [
        Voxels(*(np.concatenate([getattr(part, field) for part in parts]) for field in Voxels.__dataclass_fields__))
        for parts in ((few, heavy), (few, many, many, many, many))
    ]
    one, other = (fit_temperatures(voxels, LABELS)["a"] for voxels in joined)
    assert one == pytest.approx(other, rel=1e-3)


def test_errors_are_those_of_a_loop_over_bins():
    before = draw_labels(500, 3.0)
    after = calibrate(before, {"background": 3.0, "a": 3.0, "b": 3.0}, LABELS)
    found = measure_calibration(before, after, LABELS)["b"]
    kept = [place for place in range(500) if before.probabilities[place, 2] >= 0.05]
    for voxels, error, brier in (
        (before, found.error_before, found.brier_before),
        (after, found.error_after, found.brier_after),
    ):
        gap = 0.0
        for number in range(20):
            members = [place for place in kept if int(voxels.probabilities[place, 2] * 20) == number]
            gap += abs(sum(float(voxels.probabilities[place, 2]) - (voxels.indices[place] == 2) for place in members))
        assert error == pytest.approx(gap / len(kept), abs=1e-6)
        squares = [(float(voxels.probabilities[place, 2]) - (voxels.indices[place] == 2)) ** 2 for place in kept]
        assert brier == pytest.approx(float(np.mean(np.array(squares))), rel=1e-5)
    assert found.voxels == len(kept)


def test_a_temperature_is_kept_only_if_it_helps_on_other_folds():
    helps = learn_temperatures([draw_labels(2000, 2.0, seed) for seed in range(4)], ["0", "0", "1", "1"], LABELS)
    assert helps.temperatures["a"] == pytest.approx(2.0, rel=0.1)
    assert helps.reason.startswith(f"Temperature {helps.temperatures['a']:.2f}: yes, calibration error ")
    contrary = learn_temperatures(
        [draw_labels(2000, sharp, 9) for sharp in (3.0, 3.0, 0.4, 0.4)], ["0", "0", "1", "1"], LABELS
    )
    assert contrary.temperatures == {"background": 1.0, "a": 1.0, "b": 1.0}
    assert ": no, calibration error" in contrary.reason
    assert all(error.brier_after > error.brier_before for error in contrary.errors.values())


def test_one_case_and_no_likely_voxel_leave_everything_as_it_is():
    alone = learn_temperatures([draw_labels(50, 2.0)], ["0"], LABELS)
    assert alone.temperatures == {"background": 1.0, "a": 1.0, "b": 1.0}
    empty = Voxels(np.empty((0, 2), np.float32), np.empty(0, np.int16), np.empty(0, np.float32))
    nothing = learn_temperatures([empty, empty], ["0", "1"], REGIONS)
    assert nothing.temperatures == {"whole": 1.0, "core": 1.0}
    assert nothing.errors == {}


def test_temperatures_have_bounds():
    claimed = np.tile(np.array([0.01, 0.99, 0.0], dtype=np.float32), (50, 1))
    certain = Voxels(claimed, np.zeros(50, np.int16), np.ones(50, np.float32))
    assert fit_temperatures(certain, LABELS)["a"] == pytest.approx(MAX_TEMPERATURE, rel=0.01)
