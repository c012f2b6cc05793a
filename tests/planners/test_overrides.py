"""The user's own spacing, patch and batch: kept, and the rest follows."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Decision, Plan
from autoseg.testing import synthetic_fingerprint
from planners import residual_encoder, unet, unext

PLANS: dict[str, Callable[[Fingerprint, Budget], Plan]] = {
    "unet": unet.plan,
    "resenc-m": residual_encoder.plan_m,
    "unext": unext.plan,
}
all_planners = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def alike(spacing, shape, count=40) -> Fingerprint:
    return synthetic_fingerprint([spacing] * count, [shape] * count, label_values=range(3))


BRAIN = alike((1.0, 1.0, 1.0), (138, 169, 138))
LARGE = alike((2.0, 0.8, 0.8), (228, 513, 513))
SAGITTAL = alike((0.9, 1.1, 4.4), (220, 230, 24))
PICTURES = alike((999.0, 1.0, 1.0), (1, 529, 622))


def budget_with(more: Mapping[str, object] | None = None, **overrides) -> Budget:
    return Budget.model_validate({**(more or {}), "overrides": Overrides(**overrides)})


def decision(plan: Plan, what: str) -> Decision:
    [found] = [decision for decision in plan.decisions if decision.what == what]
    return found


# --- spacing


@all_planners
def test_spacing_is_kept(plan):
    made = plan(BRAIN, budget_with(spacing=(2.0, 1.5, 1.25)))
    assert made.configurations["3d_fullres"].spacing == (2.0, 1.5, 1.25)
    assert made.configurations["3d_fullres"].median_shape == (69.0, 113.0, 110.0)  # 138/2, 169/1.5, 138/1.25
    assert made.configurations["2d"].spacing == (1.5, 1.25)
    assert decision(made, "target_spacing").reason == "Requested."


def test_spacing_is_given_along_the_images_axes_and_transposed():
    made = unet.plan(SAGITTAL, budget_with(spacing=(0.5, 1.0, 4.0)))
    assert made.transpose == (2, 0, 1)
    assert made.configurations["3d_fullres"].spacing == (4.0, 0.5, 1.0)
    assert made.configurations["3d_fullres"].median_shape == (26.0, 396.0, 253.0)
    assert made.configurations["2d"].spacing == (0.5, 1.0)


def test_spacing_decides_the_transpose():
    assert unet.plan(SAGITTAL, Budget()).transpose == (2, 0, 1)
    made = unet.plan(SAGITTAL, budget_with(spacing=(1.0, 3.0, 1.0)))
    assert made.transpose == (1, 0, 2)
    assert made.configurations["3d_fullres"].spacing == (3.0, 1.0, 1.0)
    assert made.configurations["3d_fullres"].median_shape == (84.0, 198.0, 106.0)


def test_the_low_resolution_derives_from_the_spacing():
    free = unet.plan(LARGE, Budget()).configurations["3d_lowres"]
    made = unet.plan(LARGE, budget_with(spacing=(2.0, 1.0, 1.0))).configurations["3d_lowres"]
    assert made.spacing != free.spacing
    # 3 % per step, the finer axes alone until they are within a factor of 2
    steps = [
        math.log(value / start) / math.log(1.03) for value, start in zip(made.spacing, (2.0, 1.0, 1.0), strict=True)
    ]
    assert all(step == pytest.approx(round(step), abs=1e-6) for step in steps)
    assert steps[1] == steps[2] >= steps[0]
    # coarse enough from the start: no low resolution is needed
    assert "3d_lowres" not in unet.plan(LARGE, budget_with(spacing=(6.0, 4.0, 4.0))).configurations


def test_a_low_resolution_appears_when_the_spacing_is_fine():
    assert "3d_lowres" not in unet.plan(BRAIN, Budget()).configurations
    fine = unet.plan(BRAIN, budget_with(spacing=(0.4, 0.4, 0.4)))
    assert "3d_cascade_fullres" in fine.configurations
    assert fine.configurations["3d_cascade_fullres"].spacing == (0.4, 0.4, 0.4)


@pytest.mark.parametrize(
    "across",
    [
        999.0,
        1.0,
    ],
)
def test_a_single_slice_stays_one_whatever_spacing_is_asked_for(across):
    made = unet.plan(PICTURES, budget_with(spacing=(across, 2.0, 1.5)))
    assert tuple(made.configurations) == ("2d",)
    assert made.configurations["2d"].spacing == (2.0, 1.5)
    assert made.configurations["2d"].median_shape == (264.0, 415.0)  # 529/2 and 622/1.5, halves to even


# --- patch


@all_planners
def test_a_3d_patch_is_for_3d_configurations(plan):
    made, free = plan(BRAIN, budget_with(patch_size=(64, 96, 64))), plan(BRAIN, Budget())
    assert made.configurations["3d_fullres"].patch_size == (64, 96, 64)
    assert made.configurations["2d"] == free.configurations["2d"]
    assert decision(made, "3d_fullres.patch_size").reason == "Requested."


@all_planners
def test_a_2d_patch_is_for_2d(plan):
    made, free = plan(BRAIN, budget_with(patch_size=(96, 64))), plan(BRAIN, Budget())
    assert made.configurations["2d"].patch_size == (96, 64)
    assert made.configurations["3d_fullres"] == free.configurations["3d_fullres"]


def test_depth_follows_the_patch():
    # 64 and 96 -> 4 and 6: halved four times
    assert (
        len(unet.plan(BRAIN, budget_with(patch_size=(64, 96, 64))).configurations["3d_fullres"].network.features) == 5
    )
    assert (
        len(unet.plan(BRAIN, budget_with(patch_size=(16, 24, 16))).configurations["3d_fullres"].network.features) == 3
    )


def test_the_batch_grows_when_the_patch_shrinks():
    small = unet.plan(BRAIN, budget_with(patch_size=(32, 32, 32))).configurations["3d_fullres"]
    assert small.batch_size > 2
    assert small.batch_size / 2 * small.estimates.feature_map_elements <= 560e6 * 1.1


def test_patch_is_enlarged_and_it_is_said():
    made = unet.plan(BRAIN, budget_with(patch_size=(61, 90, 62)))
    assert made.configurations["3d_fullres"].patch_size == (64, 96, 64)
    assert decision(made, "3d_fullres.patch_size").reason == (
        "Requested 61 90 62; enlarged to a multiple of the network's total stride."
    )


def test_too_small_a_patch_names_one_that_works():
    with pytest.raises(PlanningError, match=r"--patch-size 7 4 5 is too small.* At least 8 8 8 is needed"):
        unet.plan(BRAIN, budget_with(patch_size=(7, 4, 5)))
    assert unet.plan(BRAIN, budget_with(patch_size=(8, 8, 8))).configurations["3d_fullres"].patch_size == (8, 8, 8)


def needed_memory(error: pytest.ExceptionInfo[PlanningError]) -> float:
    return float(str(error.value).split("memory budget of ")[1].split(" GB")[0])


@all_planners
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": (384, 320, 320)}, r"--patch-size 384 320 320 does not fit in 8 GB at batch 2"),
        ({"patch_size": (4096, 3072)}, r"--patch-size 4096 3072 does not fit in 8 GB at batch (2|12)"),
        ({"patch_size": (128, 128, 96), "batch_size": 40}, r"--patch-size 128 128 96 does not fit in 8 GB at batch 40"),
    ],
)
def test_too_large_a_patch_names_the_memory_that_works(plan, overrides: dict[str, Any], message):
    with pytest.raises(PlanningError, match=message) as caught:
        plan(BRAIN, budget_with(**overrides))
    needed = needed_memory(caught)
    made = plan(BRAIN, budget_with({"memory_gigabytes": needed}, **overrides))
    name = "3d_fullres" if len(overrides["patch_size"]) == 3 else "2d"
    assert made.configurations[name].patch_size == overrides["patch_size"]
    with pytest.raises(PlanningError, match="does not fit"):
        plan(BRAIN, budget_with({"memory_gigabytes": needed - 0.001}, **overrides))


def test_a_memory_of_terabytes_is_named_exactly_too():
    for batch_size in range(400, 420):
        asked: dict[str, Any] = {"patch_size": (128, 128, 128), "batch_size": batch_size}
        with pytest.raises(PlanningError, match=r"--patch-size 128 128 128 does not fit in 8 GB") as caught:
            unet.plan(BRAIN, budget_with(**asked))
        memory = {"memory_gigabytes": needed_memory(caught)}
        assert unet.plan(BRAIN, budget_with(memory, **asked)).configurations


@pytest.mark.parametrize(
    ("configurations", "patch_size", "message"),
    [
        (("2d",), (64, 64, 64), "--patch-size has 3 numbers, but 2d needs 2"),
        (("3d_fullres",), (64, 64), "--patch-size has 2 numbers, but 3d_fullres needs 3"),
    ],
)
def test_a_patch_that_no_configuration_can_take(configurations, patch_size, message):
    with pytest.raises(PlanningError, match=message):
        unet.plan(BRAIN, budget_with({"configurations": configurations}, patch_size=patch_size))


# --- batch


@all_planners
@pytest.mark.parametrize("asked", [1, 3])
def test_a_small_batch_leaves_the_patch_alone(plan, asked):
    made, free = plan(BRAIN, budget_with(batch_size=asked)), plan(BRAIN, Budget())
    for name, configuration in made.configurations.items():
        assert configuration.batch_size == asked
        assert decision(made, f"{name}.batch_size").reason == "Requested."
    if asked == 1:
        for name, configuration in free.configurations.items():
            assert made.configurations[name].patch_size == configuration.patch_size


@all_planners
def test_a_large_batch_makes_the_patch_smaller_until_it_fits(plan):
    free = plan(BRAIN, Budget()).configurations["3d_fullres"]
    made = plan(BRAIN, budget_with(batch_size=24)).configurations["3d_fullres"]
    assert made.batch_size == 24
    assert math.prod(made.patch_size) < math.prod(free.patch_size)
    reference = {"unet": 560e6, "residual_unet": 680e6, "unext": 280e6}[made.network.architecture]
    assert 24 / 2 * made.estimates.feature_map_elements <= reference


def test_a_batch_of_one_has_room_for_a_larger_patch():
    # 160 cubed needs 12.6 GB at batch 2, so 6.3 GB at batch 1
    made = unet.plan(BRAIN, budget_with(batch_size=1, patch_size=(160, 160, 160)))
    assert made.configurations["3d_fullres"].patch_size == (160, 160, 160)


def test_patch_and_batch_together():
    made = unet.plan(BRAIN, budget_with(patch_size=(96, 96, 96), batch_size=4)).configurations["3d_fullres"]
    assert (made.patch_size, made.batch_size) == ((96, 96, 96), 4)


# --- with limited time

SPEED = (
    Throughput(dimensions=2, base_features=8, macs_per_second=5e9),
    Throughput(dimensions=3, base_features=8, macs_per_second=5e9),
)


@all_planners
@pytest.mark.parametrize("seconds", [300.0, 3600.0, 1e7])
def test_patch_and_batch_stay_when_time_is_short(plan, seconds):
    limit = {"device": "cpu", "time_per_fold_seconds": seconds, "throughput": SPEED}
    made = plan(BRAIN, budget_with(limit, patch_size=(64, 61, 64), batch_size=5))
    full = made.configurations["3d_fullres"]
    assert (full.patch_size, full.batch_size) == ((64, 64, 64), 5)
    assert {configuration.batch_size for configuration in made.configurations.values()} == {5}
    free = plan(BRAIN, Budget()).configurations["2d"].patch_size
    assert all(small <= large for small, large in zip(made.configurations["2d"].patch_size, free, strict=True))


def test_patch_stays_while_batch_and_width_shrink():
    limit = {"device": "cpu", "time_per_fold_seconds": 900.0, "throughput": SPEED}
    free = unet.plan(BRAIN, budget_with(limit)).configurations["3d_fullres"]
    asked = unet.plan(BRAIN, budget_with(limit, patch_size=(128, 128, 128))).configurations["3d_fullres"]
    assert math.prod(free.patch_size) < 128**3
    assert asked.patch_size == (128, 128, 128)
    assert asked.batch_size == 2
    assert asked.network.features[0] == 8


def test_batch_stays_while_the_patch_shrinks():
    limit = {"device": "cpu", "time_per_fold_seconds": 900.0, "throughput": SPEED}
    made = unet.plan(BRAIN, budget_with(limit, batch_size=6)).configurations["3d_fullres"]
    assert made.batch_size == 6
    assert math.prod(made.patch_size) < 128**3


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(0.4, 6.0).map(lambda value: round(value, 3))] * 3),
    st.tuples(*[st.integers(8, 160)] * 3),
    st.integers(1, 6),
    st.sampled_from([None, 300.0, 1e6]),
    st.sampled_from([*PLANS.values()]),
)
def test_whatever_is_asked_for_is_in_the_plan(spacing, patch_size, batch_size, seconds, plan):
    limit = {"time_per_fold_seconds": seconds, "memory_gigabytes": 80.0}
    try:
        made = plan(BRAIN, budget_with(limit, spacing=spacing, patch_size=patch_size, batch_size=batch_size))
    except PlanningError as error:
        # too small for two levels, too large, or too little time for a step of this size: never silently another one
        assert any(words in str(error) for words in ("At least", "does not fit", "too short"))  # noqa: PT017
        return
    full = made.configurations["3d_fullres"]
    assert full.spacing == tuple(spacing[axis] for axis in made.transpose)
    assert full.batch_size == batch_size
    total = [math.prod(axis) for axis in zip(*full.network.strides, strict=True)]
    for asked, found, stride in zip(patch_size, full.patch_size, total, strict=True):
        assert asked <= found
        assert found % stride == 0
    assert Plan.model_validate_json(made.model_dump_json()) == made
