"""Plans do not change unless scripts/update_golden_plans.py was run and its output committed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from autoseg.records.files import read_record
from autoseg.stages.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests" / "golden").glob("*.json"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts" / "update_golden_plans.py"
    spec = importlib.util.spec_from_file_location("update_golden_plans", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_case_of_the_script_has_a_file(script):
    assert len(FILES) >= 15
    assert {path.stem for path in FILES} == set(script.CASES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plan_is_the_golden_one(path, script):
    golden = read_record(script.GoldenPlan, path)
    made = make_plan(golden.fingerprint.expand(), golden.budget, golden.planner)
    old, new = golden.plan.model_dump(mode="json"), made.model_dump(mode="json")
    assert script.differences(old, new, path.stem) == []
    assert made == golden.plan


def test_differences_name_the_field(script):
    old = {"a": 1, "b": {"c": [1, 2], "d": [1]}}
    new = {"a": 1, "b": {"c": [1, 3], "d": [1, 2]}, "e": None}
    assert script.differences(old, new, "x") == ["x.b.c[1]: 2 -> 3", "x.b.d: [1] -> [1, 2]"]
