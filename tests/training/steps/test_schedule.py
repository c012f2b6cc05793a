from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.records.plan import TrainingSpec
from autoseg.training.steps.schedule import learning_rate


def spec(**changes) -> TrainingSpec:
    return TrainingSpec(mirror_axes=(0, 1, 2), batch_dice=False, **changes)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.01), (500, 0.005359), (999, 1.995e-5), (1000, 0.0)])
def test_poly_gives_the_published_values(epoch, expected):
    assert learning_rate(epoch / 1000, spec()) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_cosine_falls_from_peak_to_zero(progress):
    value = learning_rate(progress, spec(schedule="cosine", learning_rate=0.003))
    assert value == pytest.approx(0.003 * (1 + cos(pi * progress)) / 2, abs=1e-12)


def test_warmup_rises_linearly_and_the_schedule_runs_over_the_rest():
    warm = spec(warmup_fraction=0.2)
    assert learning_rate(0.0, warm) == 0.0
    assert learning_rate(0.05, warm) == pytest.approx(0.0025)
    assert learning_rate(0.2, warm) == pytest.approx(0.01)
    assert learning_rate(0.6, warm) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate(1.0, warm) == 0.0


def test_whole_run_as_warmup_ends_at_the_peak():
    assert learning_rate(1.0, spec(warmup_fraction=1.0)) == pytest.approx(0.01)


@given(
    progress=st.floats(-0.5, 2.0),
    warmup=st.floats(0.0, 1.0),
    schedule=st.sampled_from(["poly", "cosine"]),
)
def test_learning_rate_stays_between_zero_and_peak(progress, warmup, schedule):
    value = learning_rate(progress, spec(warmup_fraction=warmup, schedule=schedule))
    assert 0.0 <= value <= 0.01


@given(st.floats(1.0, 5.0), st.sampled_from(["poly", "cosine"]))
def test_overtime_counts_as_the_end(progress, schedule):
    assert learning_rate(progress, spec(schedule=schedule)) == 0.0
