"""The configuration `interactive` in plans: what it corrects, its input, and when it is planned."""

import pytest

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.files import write_record
from autoseg.records.plan import Plan
from autoseg.stages.plan import adopt_model, make_plan
from autoseg.testing.fingerprints import synthetic_fingerprint

VOLUMES = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 4, [(40, 56, 40)] * 4)
FLAT = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 4, [(1, 256, 256)] * 4)


def plan_for(fingerprint, *names, planner="auto", **budget):
    return make_plan(fingerprint, Budget(configurations=names, **budget), planner)


@pytest.mark.parametrize(
    ("fingerprint", "asked", "corrected"),
    [
        (VOLUMES, (), "3d_fullres"),
        (VOLUMES, ("2d",), "2d"),
        (VOLUMES, ("2d", "3d_fullres"), "3d_fullres"),
        (FLAT, (), "2d"),
    ],
)
@pytest.mark.parametrize("limits", [{}, {"device": "cpu", "time_per_fold_seconds": 600.0}])
def test_it_corrects_the_most_detailed_configuration_that_was_asked_for(fingerprint, asked, corrected, limits):
    plan = plan_for(fingerprint, *asked, "interactive", **limits)
    assert {*plan.configurations} == {*asked, corrected, "interactive"}
    base, interactive = plan.configurations[corrected], plan.configurations["interactive"]
    values = len(plan.encoding.values)
    assert interactive.network.input_channels == base.network.input_channels + values + values - 1
    assert interactive.network.features == base.network.features
    assert (interactive.previous_configuration, interactive.preprocessed_as) == (corrected, corrected)
    assert interactive.clicks is not None
    assert interactive.training.growing_patches == ()
    assert base.clicks is None
    assert any(decision.what == "interactive.reach_mm" for decision in plan.decisions)


def test_nobody_gets_it_who_did_not_ask():
    plan = make_plan(VOLUMES, Budget(), "unet")
    assert "interactive" not in plan.configurations
    assert "clicks" not in plan.model_dump_json()


def test_a_plan_with_it_is_read_back_and_followed_by_like(tmp_path):
    plan = plan_for(VOLUMES, "interactive", planner="unet")
    write_record(plan, tmp_path / "plan.json")
    assert Plan.model_validate_json((tmp_path / "plan.json").read_text()) == plan
    like = adopt_model(plan, "model")
    again = make_plan(VOLUMES, Budget(like=like), "unet")
    assert {*again.configurations} == {"3d_fullres"}
    both = make_plan(VOLUMES, Budget(like=like, configurations=("interactive",)), "unet")
    assert both.configurations["interactive"].network == plan.configurations["interactive"].network


@pytest.mark.parametrize("target", ["border_core", "mask_rcnn"])
def test_other_targets_are_refused(target):
    with pytest.raises(PlanningError, match="-c interactive corrects label maps by clicks, which --target"):
        make_plan(VOLUMES, Budget(configurations=("interactive",)), "unet", target=target)
