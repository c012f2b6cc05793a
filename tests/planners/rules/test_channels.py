"""Inputs of networks whose images may lack channels."""

import json

import pytest

from autoseg.errors import PlanningError
from autoseg.plugins import find_planner
from autoseg.records.budget import Budget
from autoseg.records.plan import Plan
from autoseg.stages import plan as stage
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint
from planners.rules.channels import CHANNEL_DROPOUT, choose_channel_dropout, count_inputs

COMPLETE = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 4, [(36, 50, 35)] * 4, channel_names=("T1", "T2"))
LACKING = COMPLETE.model_copy(update={"missing_channels": True})


def test_every_channel_has_a_plane():
    assert (count_inputs(COMPLETE), count_inputs(COMPLETE, 3)) == (2, 6)
    assert (count_inputs(LACKING), count_inputs(LACKING, 3)) == (4, 8)
    assert choose_channel_dropout(COMPLETE).value == 0
    first = LACKING.cases[0].model_copy(update={"absent_channels": (1,)})
    dropout = choose_channel_dropout(LACKING.model_copy(update={"cases": (first, *LACKING.cases[1:])}))
    assert dropout.value == CHANNEL_DROPOUT
    assert "as 1 of 4 cases do" in dropout.reason


@pytest.mark.parametrize("planner", ["unet", "resenc-m", "unext"])
def test_planners_plan_for_missing_channels(planner):
    budget = Budget(device="cpu", configurations=("2d", "2.5d", "3d_fullres"))
    plain, plan = (make_plan(found, budget, planner) for found in (COMPLETE, LACKING))
    for name, configuration in plan.configurations.items():
        before = plain.configurations[name]
        assert configuration.channel_presence
        assert configuration.training.channel_dropout == CHANNEL_DROPOUT
        assert configuration.network.input_channels == before.network.input_channels + 2
        assert configuration.estimates.macs > before.estimates.macs * (configuration.patch_size == before.patch_size)
    assert any(decision.what.endswith(".channel_dropout") for decision in plan.decisions)
    assert "channel" not in plain.configurations["2d"].training.model_dump_json()


def test_a_planner_that_ignores_missing_channels_is_refused(monkeypatch):
    def ignoring(name):
        return lambda fingerprint, budget: find_planner(name)(
            fingerprint.model_copy(update={"missing_channels": False}), budget
        )

    monkeypatch.setattr(stage, "find_planner", ignoring)
    with pytest.raises(PlanningError, match=r"ignores --allow-missing-channels: the network of .*3d_fullres"):
        make_plan(LACKING, Budget(device="cpu"), "unet")


def test_a_plan_is_checked():
    plan = make_plan(LACKING, Budget(device="cpu", configurations=("3d_fullres",)), "unet")
    content = plan.model_dump(mode="json")
    content["configurations"]["3d_fullres"]["channel_presence"] = False
    with pytest.raises(ValueError, match=r"channel_dropout: expected 0, because `channel_presence` is false"):
        Plan.model_validate_json(json.dumps(content))
    content["configurations"]["3d_fullres"]["training"]["channel_dropout"] = 0.0
    with pytest.raises(ValueError, match="input_channels: 4, expected 2: 2 in `channel_names`"):
        Plan.model_validate_json(json.dumps(content))
