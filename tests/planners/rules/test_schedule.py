"""Networks and schedules for a limited time."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.costs.architectures import FORWARD_FRACTION, forward_macs
from autoseg.costs.runs import RESERVED_FRACTION
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Throughput
from autoseg.records.plan import Configuration
from autoseg.testing import synthetic_fingerprint
from planners.rules.schedule import (
    DEFAULT_CPU_SECONDS_PER_FOLD,
    is_limited,
    time_per_fold,
)
from planners.rules.speed import MIN_STEPS, WANTED_STEPS, macs_per_second
from planners.unet import plan


def point(dimensions, base_features, speed) -> Throughput:
    return Throughput(dimensions=dimensions, base_features=base_features, macs_per_second=speed)


def make(spacing, shape, **budget) -> dict[str, Configuration]:
    fingerprint = synthetic_fingerprint([spacing] * 50, [shape] * 50, label_values=range(3))
    return plan(fingerprint, Budget(**budget)).configurations


def step_seconds(configuration: Configuration, speed: float) -> float:
    return forward_macs(configuration.network, configuration.patch_size) * configuration.batch_size / speed


def test_default_time_is_for_the_cpu_only():
    assert time_per_fold(Budget(device="cpu")) == DEFAULT_CPU_SECONDS_PER_FOLD
    assert time_per_fold(Budget(device="cuda")) is None
    assert time_per_fold(Budget(device="cuda", time_per_fold_seconds=60.0)) == 60.0


def test_a_latency_limits_too():
    assert not is_limited(Budget(device="cuda"))
    assert is_limited(Budget(device="cuda", latency_seconds=5.0))
    assert is_limited(Budget(device="cpu"))


def test_fast_training_settings():
    training = make((1.0, 1.0, 1.0), (36, 50, 35), device="cpu", time_per_fold_seconds=600.0)["3d_fullres"].training
    assert (training.optimizer, training.schedule) == ("adamw", "cosine")
    assert training.learning_rate == 3e-3
    assert training.weight_decay == 1e-2
    assert training.warmup_fraction == 0.05
    assert training.gradient_clip == 12.0
    assert training.time_per_fold_seconds == 600.0


def test_width_is_the_widest_with_enough_steps():
    # Batch 2, 4.8 G multiply-accumulates per patch at 16 feature maps and 10.8 G at 24, 90 and 107 G per second:
    # 0.11 s and 0.20 s per step, so 240 s allow 2,170 and 1,160 steps. 24 is too wide.
    speeds = (point(3, 8, 60e9), point(3, 32, 120e9))
    made = make((1.0, 1.0, 1.0), (36, 50, 35), device="cpu", time_per_fold_seconds=300.0, throughput=speeds)
    chosen = made["3d_fullres"]
    assert chosen.network.features == (16, 32, 64, 128)
    assert chosen.patch_size == (40, 56, 40)
    assert chosen.batch_size == 2  # of 200 cases nnU-Net would take 7, of these 50 only 2


def test_patch_shrinks_until_the_minimum_is_reached():
    speed = (point(3, 8, 20e9),)
    chosen = make((1.0, 0.8, 0.8), (482, 512, 512), device="cpu", time_per_fold_seconds=600.0, throughput=speed)
    full = chosen["3d_fullres"]
    assert full.network.features[0] == 8
    assert full.network.features[-1] <= 80
    # 128^3 halved along the relatively longest axes; each patch stays divisible.
    assert math.prod(full.patch_size) < 128**3
    steps = 600 * (1 - RESERVED_FRACTION) / step_seconds(full, 20e9) / (1 + 0.1 / 3)
    assert steps >= MIN_STEPS
    assert steps < 2 * MIN_STEPS + 100


def test_no_axis_grows_when_another_is_halved():
    # With 28 instead of 56 voxels at 0.37 mm the coarser axes are pooled earlier and the first once oftener, so it
    # would be padded from 36 to 40.
    patches = []
    for seconds in (86_400.0, 600.0, 300.0, 150.0, 75.0, 40.0):
        limits = {"time_per_fold_seconds": seconds, "configurations": ("3d_fullres",), "memory_gigabytes": 24.0}
        patches.append(make((3.6, 0.53, 0.37), (36, 128, 52), device="cpu", **limits)["3d_fullres"].patch_size)
    assert patches[0] == (36, 128, 56)
    assert len(set(patches)) >= 4
    for larger, smaller in itertools.pairwise(patches):
        assert all(after <= before for before, after in zip(larger, smaller, strict=True))


def test_spacing_transpose_and_normalisation_do_not_depend_on_time():
    slow = make((4.4, 0.9, 0.9), (24, 220, 230), device="cpu", time_per_fold_seconds=300.0)
    full = make((4.4, 0.9, 0.9), (24, 220, 230))
    for name, configuration in full.items():
        assert slow[name].spacing == configuration.spacing
        assert slow[name].normalization == configuration.normalization
        assert slow[name].median_shape == configuration.median_shape


def test_two_dimensional_batch_is_capped():
    flat = make((1.0, 1.0, 1.0), (60, 50, 35), device="cpu", time_per_fold_seconds=3600.0)["2d"]
    assert flat.batch_size == 12


def test_too_little_time_names_what_is_needed():
    with pytest.raises(PlanningError, match=r"0\.001 s per fold are too short to train a 2D network") as caught:
        make((1.0, 1.0, 1.0), (36, 50, 35), configurations=("2d",), time_per_fold_seconds=0.001, device="cpu")
    needed = float(str(caught.value).split("needs ")[1].split(" s")[0])
    flat = make((1.0, 1.0, 1.0), (36, 50, 35), configurations=("2d",), time_per_fold_seconds=needed, device="cpu")["2d"]
    assert flat.training.epochs >= 1


def test_few_steps_are_pointed_out():
    fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 9, [(36, 50, 35)] * 9)
    made = plan(fingerprint, Budget(device="cpu", time_per_fold_seconds=0.5))
    [schedule] = [decision for decision in made.decisions if decision.what == "3d_fullres.schedule"]
    assert "too few to learn well" in schedule.reason


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.tuples(*[st.integers(12, 500)] * 3),
    st.floats(60.0, 86_400.0),
    st.floats(1.0, 30.0),
    st.sampled_from([(), (2e9, 9e9), (2e10, 1e11), (3e12, 4e12)]),
)
def test_more_time_never_gives_a_smaller_network_and_time_is_kept(spacing, shape, seconds, factor, speeds):
    throughput = tuple(
        Throughput(dimensions=dimensions, base_features=width, macs_per_second=speed)
        for dimensions in (2, 3)
        for width, speed in zip((8, 32), speeds, strict=False)
    )
    budget = Budget(device="cpu", throughput=throughput, time_per_fold_seconds=seconds)
    fingerprint = synthetic_fingerprint([spacing] * 9, [shape] * 9)
    little = plan(fingerprint, budget)
    much = plan(fingerprint, budget.model_copy(update={"time_per_fold_seconds": seconds * factor}))
    nnunets = plan(fingerprint, Budget())
    assert plan(fingerprint, budget) == little
    for name, small in little.configurations.items():
        large, largest = much.configurations[name], nnunets.configurations[name]
        assert small.network.features[0] <= large.network.features[0] <= largest.network.features[0]
        for edges in zip(small.patch_size, large.patch_size, largest.patch_size, strict=True):
            assert tuple(sorted(edges)) == edges
        assert small.batch_size <= large.batch_size <= largest.batch_size
        check_promise(small, budget)


def check_promise(configuration: Configuration, budget: Budget) -> None:
    network, training = configuration.network, configuration.training
    step = step_seconds(configuration, macs_per_second(budget, network))
    assert training.time_per_fold_seconds is not None
    available = training.time_per_fold_seconds * (1 - RESERVED_FRACTION)
    validation = training.epochs * training.validation_steps * FORWARD_FRACTION * step
    assert training.epochs * training.steps_per_epoch * step + validation <= available * (1 + 1e-9)
    assert training.steps_per_epoch >= 10
    assert training.validation_steps >= 4
    if training.epochs * training.steps_per_epoch >= WANTED_STEPS:
        assert 20 <= training.epochs <= 50
