"""What trials try, in which order."""

import pytest

from autoseg.plugins import find_candidates, find_planner, find_tried_architectures, planner_names
from autoseg.records.budget import Budget, Overrides
from autoseg.testing import synthetic_fingerprint
from planners import auto, unet
from planners.unet import WIDTHS

PICTURES = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 8, [(1, 256, 256)] * 8, channel_names=("R", "G", "B"))
SHORT_AXIS = synthetic_fingerprint([(10.0, 1.4, 1.4)] * 8, [(10, 256, 216)] * 8)


def list_names(planner, plan, seconds=600.0):
    return [candidate.name for candidate in find_candidates(planner, plan, seconds)]


def test_the_first_candidate_is_what_the_rules_plan():
    plan = auto.plan(SHORT_AXIS, Budget(device="cpu", time_per_fold_seconds=1200.0))
    first = find_candidates("auto", plan, 600.0)[0]
    assert (first.planner, first.configuration) == ("unet", next(iter(plan.configurations)))
    assert (first.options, first.learning_rate_factor) == ({}, 1.0)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(device="cpu", time_per_fold_seconds=600.0, installed_weights=("efficientnet-lite0",)), "pretrained-2d"),
        (Budget(device="cpu", time_per_fold_seconds=600.0), "unet"),
        (Budget(available_gigabytes=26.0), "resenc-l"),
    ],
)
def test_the_network_of_the_rules_is_the_first_one(budget, expected):
    listed = find_candidates("auto", auto.plan(PICTURES, budget), 600.0)
    assert listed[0].name == f"{expected}-2d"
    assert {"unet", "unext", "pretrained-2d"} <= {candidate.planner for candidate in listed}
    assert len({candidate.name for candidate in listed}) == len(listed)


def test_every_network_is_tried_in_2d_and_in_3d_before_other_rates():
    plan = auto.plan(SHORT_AXIS, Budget(device="cpu", time_per_fold_seconds=1200.0))
    names = list_names("auto", plan)
    for planner in ("unet", "unext", "resenc-m"):
        assert {f"{planner}-2d", f"{planner}-3d_fullres"} <= set(names)
    kinds = [("-growing" in name) + 2 * ("-slow" in name) for name in names]
    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1, 2}
    assert len(set(names)) == len(names)


def test_pictures_are_tried_in_2d_alone():
    plan = auto.plan(PICTURES, Budget(device="cpu", time_per_fold_seconds=600.0))
    assert all(candidate.configuration == "2d" for candidate in find_candidates("auto", plan, 360.0))


def test_what_was_asked_for_limits_the_candidates():
    budget = Budget(device="cpu", time_per_fold_seconds=1200.0, configurations=("3d_fullres",))
    assert {one.configuration for one in find_candidates("auto", auto.plan(SHORT_AXIS, budget), 600.0)} == {
        "3d_fullres"
    }
    plan = unet.plan(SHORT_AXIS, budget)
    assert list_names("unet", plan) == ["unet-3d_fullres", "unet-3d_fullres-growing", "unet-3d_fullres-slow"]
    decided = budget.model_copy(update={"overrides": Overrides(progressive=False)})
    assert list_names("unet", unet.plan(SHORT_AXIS, decided)) == ["unet-3d_fullres", "unet-3d_fullres-slow"]


@pytest.mark.parametrize(("seconds", "tried"), [(1200.0, False), (600.0, True)])
def test_widths_are_tried_only_where_the_trials_are_about_as_long_as_a_fold(seconds, tried):
    plan = unet.plan(PICTURES, Budget(device="cpu", time_per_fold_seconds=300.0, configurations=("2d",)))
    plan = plan.model_copy(update={"configurations": {"2d": with_time(plan.configurations["2d"], seconds / 2)}})
    names = [name for name in list_names("unet", plan, 600.0) if "-w" in name]
    planned = plan.configurations["2d"].network.features[0]
    neighbours = {
        *sorted(width for width in WIDTHS if width > planned)[:1],
        *sorted((width for width in WIDTHS if width < planned), reverse=True)[:1],
    }
    assert set(names) == ({f"unet-2d-w{width}" for width in neighbours} if tried else set())


def with_time(configuration, seconds):
    training = configuration.training.model_copy(update={"time_per_fold_seconds": seconds})
    return configuration.model_copy(update={"training": training})


def test_a_width_that_the_user_chose_stays():
    overrides = Overrides(options={"base_features": "12"})
    plan = unet.plan(PICTURES, Budget(device="cpu", time_per_fold_seconds=60.0, overrides=overrides))
    assert not [name for name in list_names("unet", plan) if "-w" in name]


def test_a_cascade_is_not_tried():
    large = synthetic_fingerprint([(1.0, 0.8, 0.8)] * 8, [(400, 512, 512)] * 8)
    plan = unet.plan(large, Budget())
    assert "3d_cascade_fullres" in plan.configurations
    assert all(candidate.configuration != "3d_cascade_fullres" for candidate in find_candidates("unet", plan, 600.0))


@pytest.mark.parametrize("planner", [name for name in planner_names() if name != "auto"])
def test_one_planner_tries_its_own_networks(planner):
    plan = unet.plan(PICTURES, Budget(device="cpu", time_per_fold_seconds=1200.0))
    assert {candidate.planner for candidate in find_candidates(planner, plan, 600.0)} == {planner}


def test_the_speed_of_all_networks_that_are_tried_is_measured():
    assert set(find_tried_architectures("auto", Budget(device="cpu"))) >= {"unet", "unext", "residual_unet"}
    assert find_tried_architectures("unet", Budget(device="cpu")) == ("unet",)


@pytest.mark.parametrize("planner", ["unet++", "erfnet", "mednext"])
def test_a_network_that_was_asked_for_is_tried_alone_at_other_rates_and_widths(planner):
    budget = Budget(device="cpu", time_per_fold_seconds=240.0)
    listed = find_candidates(planner, find_planner(planner)(PICTURES, budget), 600.0)
    assert {candidate.planner for candidate in listed} == {planner}
    assert listed[0].name == f"{planner}-2d"
    assert any(candidate.learning_rate_factor < 1 for candidate in listed)
    assert any("base_features" in candidate.options for candidate in listed)
