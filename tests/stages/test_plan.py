"""Stage plan finds the planner; what the planner decides is tested in tests/planners."""

import subprocess
import sys

import pytest

from autoseg.errors import PlanningError, UsageError
from autoseg.records.budget import Budget
from autoseg.stages import plan as stage
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint

FINGERPRINT = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 3, [(36, 50, 35)] * 3)


def test_default_planner():
    plan = make_plan(FINGERPRINT, Budget(memory_gigabytes=24.0))
    assert plan.planner == "unet"
    assert plan.budget.memory_gigabytes == 24.0


def test_unknown_planner():
    with pytest.raises(UsageError, match="No planner is called 'resnet'"):
        make_plan(FINGERPRINT, Budget(), "resnet")


def test_planner_that_gives_no_plan(monkeypatch):
    monkeypatch.setattr(stage, "find_planner", lambda _name: lambda _fingerprint, _budget: {"patch": 3})
    with pytest.raises(PlanningError, match="The planner 'mine' gave a dict, not a plan"):
        make_plan(FINGERPRINT, Budget(), "mine")


def test_planning_does_not_load_torch():
    code = (
        "import sys; from autoseg.testing import synthetic_fingerprint; from autoseg.stages.plan import make_plan;"
        "from autoseg.records.budget import Budget;"
        "make_plan(synthetic_fingerprint([(1.0, 1.0, 1.0)], [(9, 9, 9)]), Budget()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
