"""`auto`: which preset, caps and configurations for which device and budget."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Decision, Plan
from autoseg.stages.plan import adopt_model
from autoseg.testing import synthetic_fingerprint
from planners import pretrained_2d, residual_encoder
from planners.auto import choose_preset, choose_preset_for, leave_out, plan


def alike(spacing, shape, count=40, **more) -> Fingerprint:
    return synthetic_fingerprint([spacing] * count, [shape] * count, **more)


BRAIN = alike((1.0, 1.0, 1.0), (138, 169, 138))
HIPPOCAMPUS = alike((1.0, 1.0, 1.0), (36, 50, 35), 2600)
HEART = alike((5.0, 1.5, 1.5), (17, 237, 208), 200)
LIVER = alike((1.0, 0.8, 0.8), (482, 512, 512), 131)
PICTURES = alike((999.0, 1.0, 1.0), (1, 128, 128), 4000)


def decision(made: Plan, what: str) -> Decision:
    [found] = [decision for decision in made.decisions if decision.what == what]
    return found


@pytest.mark.parametrize(
    ("budget", "preset", "reason"),
    [
        ({}, "resenc-m", "A GPU and time for the full schedule"),
        ({"memory_gigabytes": 4.0}, "resenc-m", "A GPU and time"),
        ({"memory_gigabytes": 23.9}, "resenc-m", "A GPU and time"),
        ({"memory_gigabytes": 24.0}, "resenc-l", "largest preset for a memory of 24 GB"),
        ({"memory_gigabytes": 39.0}, "resenc-l", "largest preset for a memory of 39 GB"),
        ({"memory_gigabytes": 40.0}, "resenc-xl", "largest preset for a memory of 40 GB"),
        ({"memory_gigabytes": 80.0}, "resenc-xl", "largest preset for a memory of 80 GB"),
        ({"available_gigabytes": 6.0}, "resenc-m", "A GPU and time"),
        ({"available_gigabytes": 16.9}, "resenc-m", "A GPU and time"),
        ({"available_gigabytes": 25.8}, "resenc-l", "largest preset for a memory of 25.8 GB. It trains some 3 times"),
        ({"available_gigabytes": 85.9}, "resenc-xl", "largest preset for a memory of 85.9 GB. It trains some 5 times"),
        ({"available_gigabytes": 150.8}, "resenc-xl", "which --memory 8GB or --planner resenc-m takes"),
        ({"available_gigabytes": 85.9, "memory_gigabytes": 8.0}, "resenc-m", "A GPU and time"),
        ({"available_gigabytes": 25.8, "memory_gigabytes": 40.0}, "resenc-xl", "largest preset for a memory of 40 GB"),
        ({"available_gigabytes": 85.9, "latency_seconds": 5.0}, "resenc-m", "A GPU and time"),
        ({"available_gigabytes": 85.9, "time_per_fold_seconds": 600.0}, "unet", "limited time"),
        ({"device": "cpu"}, "unet", "limited time"),
        ({"device": "cpu", "memory_gigabytes": 80.0}, "unet", "limited time"),
        ({"time_per_fold_seconds": 600.0}, "unet", "limited time"),
        ({"time_per_fold_seconds": 600.0, "memory_gigabytes": 80.0}, "unet", "limited time"),
        ({"latency_seconds": 5.0}, "resenc-m", "A GPU and time"),
    ],
)
def test_preset(budget, preset, reason):
    chosen, why = choose_preset(Budget(**budget))
    assert chosen.name == preset
    assert reason in why


@pytest.mark.parametrize("budget", [{}, {"device": "cpu"}, {"memory_gigabytes": 40.0}, {"available_gigabytes": 6.0}])
def test_first_decision_names_the_preset(budget):
    made = plan(HEART, Budget(**budget))
    preset, reason = choose_preset(Budget(**budget))
    assert made.planner == "auto"
    assert made.decisions[0] == Decision(what="planner", value=preset.name, reason=reason)
    architecture = "unet" if preset.name == "unet" else "residual_unet"
    assert {configuration.network.architecture for configuration in made.configurations.values()} == {architecture}


def test_memory_of_a_small_graphics_card():
    made = plan(LIVER, Budget(available_gigabytes=6.0))
    memory = decision(made, "memory")
    assert memory.value == 6.0
    assert "The device has no more" in memory.reason
    assert made.configurations["3d_fullres"].estimates.feature_map_elements <= 680e6 * 6 / 8


def test_excessive_batches_are_capped_with_the_reason():
    free = residual_encoder.plan_m(HIPPOCAMPUS, Budget())
    made = plan(HIPPOCAMPUS, Budget())
    assert free.configurations["2d"].batch_size > 32
    assert free.configurations["3d_fullres"].batch_size > 8
    assert made.configurations["2d"].batch_size == 32
    assert made.configurations["3d_fullres"].batch_size == 8
    reason = decision(made, "3d_fullres.batch_size").reason
    assert "more than 8 patches per step add little" in reason
    assert f"nnU-Net's rule gives {free.configurations['3d_fullres'].batch_size}," in reason


def test_apart_from_the_cap_it_is_the_preset():
    made, preset = plan(LIVER, Budget()), residual_encoder.plan_m(LIVER, Budget())
    assert made.configurations.keys() == preset.configurations.keys()
    for name, configuration in made.configurations.items():
        other = preset.configurations[name]
        assert configuration.network == other.network
        assert configuration.patch_size == other.patch_size
        assert configuration.batch_size == min(other.batch_size, 32 if name == "2d" else 8)


def test_a_batch_that_was_asked_for_is_not_capped():
    made = plan(PICTURES, Budget(overrides=Overrides(batch_size=60)))
    assert made.configurations["2d"].batch_size == 60


# --- configurations


def test_nothing_is_left_out_without_a_limit():
    assert leave_out(LIVER, Budget()) == {}
    assert leave_out(LIVER, Budget(latency_seconds=5.0)) == {}
    assert set(plan(LIVER, Budget()).configurations) == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}


@pytest.mark.parametrize(
    ("spacing", "left_out"),
    [
        ((1.0, 1.0, 1.0), {"3d_cascade_fullres", "2d"}),
        ((2.0, 1.0, 1.0), {"3d_cascade_fullres", "2d"}),
        ((2.01, 1.0, 1.0), {"3d_cascade_fullres"}),
        ((1.0, 1.0, 5.0), {"3d_cascade_fullres"}),
    ],
)
@pytest.mark.parametrize("budget", [{"device": "cpu"}, {"time_per_fold_seconds": 600.0}])
def test_left_out_when_time_is_limited(spacing, left_out, budget):
    assert set(leave_out(alike(spacing, (100, 110, 120)), Budget(**budget))) == left_out


def test_left_out_configurations_are_named_with_the_reason():
    made = plan(LIVER, Budget(device="cpu", time_per_fold_seconds=36_000.0))
    assert set(made.configurations) == {"3d_fullres", "3d_lowres"}
    reason = decision(made, "configurations").reason
    assert "2d is left out: slices are no more than 2 times as far apart as pixels" in reason
    assert "3d_cascade_fullres is left out: two trainings in sequence" in reason


def test_thick_slices_keep_2d():
    assert set(plan(HEART, Budget(device="cpu")).configurations) == {"2d", "3d_fullres"}


def test_what_was_asked_for_is_not_left_out():
    limit: dict[str, Any] = {"device": "cpu", "time_per_fold_seconds": 36_000.0}
    assert tuple(plan(BRAIN, Budget(**limit, configurations=("2d",))).configurations) == ("2d",)
    cascade = plan(LIVER, Budget(**limit, configurations=("3d_cascade_fullres",)))
    assert tuple(cascade.configurations) == ("3d_fullres", "3d_lowres", "3d_cascade_fullres")


@pytest.mark.parametrize("across", [1.0, 999.0])
def test_2d_stays_when_there_is_nothing_else(across):
    made = plan(alike((across, 1.0, 1.0), (1, 128, 100)), Budget(device="cpu"))
    assert tuple(made.configurations) == ("2d",)


def test_no_cases():
    with pytest.raises(PlanningError, match="no training cases"):
        plan(alike((1.0, 1.0, 1.0), (36, 50, 35), 0), Budget(device="cpu"))


# --- latency


def measured(speed: float) -> tuple[Throughput, ...]:
    return tuple(
        Throughput(dimensions=dimensions, base_features=32, macs_per_second=speed, prediction_macs_per_second=speed)
        for dimensions in (2, 3)
    )


def quick(latency: float, **more) -> Plan:
    # 138 x 169 x 138 in windows of 128 cubed: 8 of them
    limit = {"latency_seconds": latency, "throughput": measured(3e11), "configurations": ("3d_fullres",)}
    return plan(BRAIN, Budget.model_validate({**limit, **more}))


def test_a_slow_answer_may_come_from_the_large_network():
    made = quick(100.0)
    assert decision(made, "planner").value == "resenc-m"
    assert made.configurations["3d_fullres"].network.features[0] == 32


def test_ever_smaller_networks_for_ever_less_time():
    seen = []
    for latency in (100.0, 30.0, 10.0, 7.5, 6.0, 4.5, 2.0, 1.0, 0.8):
        made = quick(latency)
        network = made.configurations["3d_fullres"].network
        assert decision(made, "planner") == made.decisions[0]
        seen.append((made.decisions[0].value, network.features[0]))
    assert seen[0] == ("resenc-m", 32)
    assert ("resenc-m", 8) in seen
    assert ("unet", 8) in seen
    assert seen[-1][0] == "unext"
    order = {"resenc-m": 0, "unet": 1, "unext": 2}
    assert seen == sorted(seen, key=lambda entry: (order[str(entry[0])], -entry[1]))


def test_what_was_rejected_is_said():
    reason = quick(0.8).decisions[0].reason
    assert "resenc-m: No 3D network of this planner predicts a median case within 0.8 s" in reason
    assert "unet: No 3D network of this planner" in reason
    assert reason.endswith("So unext is taken.")


def test_no_network_is_fast_enough():
    with pytest.raises(PlanningError, match="the fastest needs") as caught:
        quick(0.01)
    needed = float(str(caught.value).split("the fastest needs ")[1].split(" s.")[0])
    assert quick(needed).decisions[0].value == "unext"


def test_the_reason_is_that_of_the_network_taken():
    made = quick(6.0)
    assert made.decisions[0].value == "unet"
    assert "residual encoder for 8 GB is the best" not in made.decisions[0].reason


def test_nothing_is_rejected_twice():
    assert quick(0.8, device="cpu").decisions[0].reason.count("unet: No 3D network") == 1


# --- options


def test_options_reach_the_preset():
    for budget in (Budget(), Budget(device="cpu")):
        asked = budget.model_copy(update={"overrides": Overrides(options={"base_features": "12"})})
        made = plan(HEART, asked)
        assert {configuration.network.features[0] for configuration in made.configurations.values()} == {12}


@pytest.mark.parametrize("budget", [{}, {"device": "cpu"}, {"latency_seconds": 5.0}])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": "s"}, "--planner-option width: the planner '(unet|resenc-m)' has no such"),
        ({"base_features": "many"}, "base_features=many: expected a whole number"),
    ],
)
def test_wrong_options(budget, options, message):
    with pytest.raises(PlanningError, match=message):
        plan(HEART, Budget(**budget, overrides=Overrides(options=options)))


def test_an_option_is_kept_or_refused_when_prediction_has_to_be_fast():
    asked = Overrides(options={"base_features": "24"})
    assert quick(60.0, overrides=asked).configurations["3d_fullres"].network.features[0] == 24
    with pytest.raises(PlanningError, match=r"predicts a median case within 4\.5 s"):
        quick(4.5, overrides=asked)


def test_a_latency_is_no_excuse_for_too_little_memory():
    asked = Overrides(patch_size=(160, 160, 160))
    budget = Budget(memory_gigabytes=8.0, latency_seconds=1e6, configurations=("3d_fullres",), overrides=asked)
    with pytest.raises(PlanningError, match="--patch-size 160 160 160 does not fit in 8 GB"):
        plan(HEART, budget)


def test_the_network_of_a_model_is_not_chosen():
    like = adopt_model(residual_encoder.plan_m(HEART, Budget()), "old")
    made = plan(HEART, Budget(device="cpu", latency_seconds=1e6, memory_gigabytes=40.0, like=like))
    assert made.decisions[0].reason == "For memory and batch; the network is that of old."
    assert {value.network.architecture for value in made.configurations.values()} == {"residual_unet"}
    with pytest.raises(PlanningError, match="--planner-option base_features: the network is that of --like old"):
        plan(HEART, Budget(like=like, overrides=Overrides(options={"base_features": "8"})))


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.floats(0.3, 6.0).map(lambda value: round(value, 3))] * 3),
    st.tuples(*[st.integers(1, 300)] * 3),
    st.integers(1, 300),
    st.sampled_from(["cpu", "cuda"]),
    st.none() | st.floats(6.0, 80.0),
    st.none() | st.floats(300.0, 1e6),
)
def test_caps_hold_and_something_is_always_planned(spacing, shape, count, device, memory, seconds):
    budget = Budget(device=device, memory_gigabytes=memory, time_per_fold_seconds=seconds)
    made = plan(alike(spacing, shape, count), budget)
    assert made.planner == "auto"
    assert made.configurations
    for configuration in made.configurations.values():
        assert 2 <= configuration.batch_size <= {2: 32, 3: 8}[configuration.network.dimensions]
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_networks_that_find_objects_have_an_encoder_that_can():
    """A pretrained encoder for photographs, and a UNeXt for a latency, cannot."""
    from_photographs = alike((999.0, 1.0, 1.0), (1, 128, 128), 40, channel_names=("red", "green", "blue"))
    budget = Budget(device="cpu", time_per_fold_seconds=600.0, installed_weights=(pretrained_2d.WEIGHTS,))
    assert choose_preset_for(from_photographs, budget).value.name == pretrained_2d.NAME
    finding = budget.model_copy(update={"finds_objects": True})
    assert choose_preset_for(from_photographs, finding).value.name == "unet"
