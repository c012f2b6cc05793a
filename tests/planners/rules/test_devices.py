"""Several devices that train together: batch, learning rate, memory and time."""

import math

import pytest

from autoseg.costs.memory import estimate_training_memory_bytes
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.plan import Decision, Plan
from autoseg.records.training import TrainingSpec
from autoseg.testing import synthetic_fingerprint
from planners import auto, residual_encoder, unet
from planners.rules import Decided
from planners.rules.devices import largest_share, scale_rate, spread_batch, timed_batch

BRAIN = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 400, [(138, 169, 138)] * 400, label_values=range(3))
FEW = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 40, [(36, 50, 35)] * 40, label_values=range(3))
FULL = "3d_fullres"


def decision(plan: Plan, what: str) -> Decision:
    [found] = [decision for decision in plan.decisions if decision.what == what]
    return found


@pytest.mark.parametrize(
    ("single", "devices", "by_data", "expected", "said"),
    [
        (2, 1, 1, 2, ""),  # one device: as it was decided
        (2, 4, 100, 8, "2 on each of 4 devices"),
        (9, 2, 15, 14, "More than 15 in all"),  # the same number on each
        (9, 4, 3, 4, "One on each at least"),
        (2, 3, 2, 3, "One on each at least"),
    ],
)
def test_every_device_takes_the_batch_of_one_as_far_as_the_data_go(single, devices, by_data, expected, said):
    total = spread_batch(Decided(single, "The reason."), devices, by_data)
    assert total.value == expected
    assert said in total.reason
    assert "The reason." in total.reason


@pytest.mark.parametrize(
    ("batch_size", "single", "rate"), [(8, 2, 0.02), (4, 2, 0.01414213562), (2, 2, 0.01), (2, 9, 0.01)]
)
def test_the_rate_grows_with_the_root_of_the_batch(batch_size, single, rate):
    spec = TrainingSpec(mirror_axes=(), batch_dice=False, learning_rate=0.01)
    scaled = scale_rate(spec, batch_size, single).value
    assert scaled.learning_rate == pytest.approx(rate)
    assert scaled.model_copy(update={"learning_rate": 0.01}) == spec


def test_shares_and_their_time():
    assert [largest_share(batch, 4) for batch in (4, 5, 8, 9)] == [1, 2, 2, 3]
    assert timed_batch(Budget(device="cuda", devices=4), 3) == 3
    assert timed_batch(Budget(device="cpu", devices=4), 3) == 12  # its cores are shared


@pytest.mark.parametrize("planner", [unet.plan, residual_encoder.plan_m, auto.plan])
def test_a_plan_for_four_devices_is_that_of_one_with_four_times_the_batch(planner):
    single, made = planner(BRAIN, Budget()), planner(BRAIN, Budget(devices=4))
    one, four = single.configurations[FULL], made.configurations[FULL]
    assert (four.patch_size, four.network, four.estimates) == (one.patch_size, one.network, one.estimates)
    assert four.batch_size == 4 * one.batch_size
    assert four.training == one.training.model_copy(update={"learning_rate": 2 * one.training.learning_rate})
    assert decision(made, "devices").value == 4
    assert "times the square root of 8 / 2" in decision(made, f"{FULL}.learning_rate").reason
    assert made.budget.devices == 4


def test_a_plan_for_one_device_says_nothing_of_devices():
    made = unet.plan(BRAIN, Budget())
    assert not [found.what for found in made.decisions if "device" in found.what or "rate" in found.what]
    assert "devices" not in made.model_dump()["budget"]


def test_few_data_limit_the_batch_of_all_devices():
    single, made = unet.plan(FEW, Budget()), unet.plan(FEW, Budget(devices=8))
    # 5 % of 40 volumes of 36 x 50 x 35 voxels: one patch of 40 x 56 x 40
    assert single.configurations[FULL].batch_size == 2
    assert made.configurations[FULL].batch_size == 8
    assert "One on each at least" in decision(made, f"{FULL}.batch_size").reason


def test_memory_is_that_of_each_device():
    made = unet.plan(BRAIN, Budget(devices=3, overrides=Overrides(batch_size=5))).configurations[FULL]
    assert made.batch_size == 5  # shares of 2, 2 and 1
    assert made.training.learning_rate == 0.01  # as for any batch that was asked for
    expected = estimate_training_memory_bytes(
        made.network, made.patch_size, 2, mixed_precision=True, optimizer=made.training.optimizer
    )
    assert made.estimates.training_memory_bytes == expected


def test_a_batch_that_one_device_cannot_hold_fits_on_several():
    asked = Overrides(batch_size=8, patch_size=(128, 128, 128))
    with pytest.raises(PlanningError, match=r"does not fit in 8 GB"):
        unet.plan(BRAIN, Budget(overrides=asked, configurations=(FULL,)))
    made = unet.plan(BRAIN, Budget(overrides=asked, configurations=(FULL,), devices=4))
    assert made.configurations[FULL].batch_size == 8


def test_a_device_without_a_patch_is_refused():
    with pytest.raises(PlanningError, match=r"--batch-size 2 with --devices 4: .*--batch-size 4 or more"):
        unet.plan(BRAIN, Budget(devices=4, overrides=Overrides(batch_size=2)))


@pytest.mark.parametrize(("device", "factor"), [("cuda", 1), ("cpu", 2)])
def test_limited_time_counts_what_devices_do_side_by_side(device, factor):
    """GPUs compute their shares at once; processes on a CPU share its cores."""
    point = Throughput(dimensions=3, base_features=32, macs_per_second=50e9)
    limits = {"device": device, "time_per_fold_seconds": 36000.0, "throughput": (point,), "configurations": (FULL,)}
    asked = Overrides(patch_size=(32, 64, 64), options={"base_features": "32"})
    one = unet.plan(BRAIN, Budget(**limits, overrides=asked)).configurations[FULL]
    two = unet.plan(BRAIN, Budget(**limits, overrides=asked, devices=2)).configurations[FULL]
    assert two.batch_size == 2 * one.batch_size
    steps = [made.training.epochs * made.training.steps_per_epoch for made in (one, two)]
    assert steps[0] / steps[1] == pytest.approx(factor, rel=0.05)
    assert two.training.learning_rate == pytest.approx(one.training.learning_rate * math.sqrt(2))
