"""Planning again in a workspace: what a person edited is kept, and the terminal says so."""

import json

import pytest

from autoseg.errors import LockedError
from autoseg.locks import lock
from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.records.budget import Budget


def test_folds_edited_by_hand_are_kept_with_the_plan(workspace, caplog):
    content = json.loads(workspace.splits.read_text())
    content["folds"] = content["folds"][::-1]
    edited = json.dumps(content)
    workspace.splits.write_text(edited)
    options = PlanningOptions(keep_plan=True, preprocess=False)
    plan_dataset(workspace.root.parent / "phantoms", workspace, Budget(), options)
    assert json.loads(workspace.splits.read_text()) == content
    kept = [message for message in caplog.messages if "splits.json" in message]
    assert len(kept) == 1
    assert "edited by hand and is kept, with 3 folds" in kept[0]
    assert "delete it to get new folds" in kept[0]


def test_planning_that_would_change_something_is_refused_while_a_fold_trains(workspace):
    dataset, options = workspace.root.parent / "phantoms", PlanningOptions(keep_plan=True, folds=3, preprocess=False)
    plan_dataset(dataset, workspace, Budget(), options)
    before = {path: path.read_bytes() for path in workspace.root.glob("*.json")}
    with lock(workspace.training_lock("3d_fullres", "1"), "trained (3d_fullres, fold 1)"):
        plan_dataset(dataset, workspace, Budget(), options)  # as it is already
        with pytest.raises(LockedError, match=r"fold 1\) by process .*\nPlanning again would change what is trained"):
            plan_dataset(dataset, workspace, Budget(), PlanningOptions(keep_plan=True, folds=2, preprocess=False))
        assert {path: path.read_bytes() for path in workspace.root.glob("*.json")} == before
    plan_dataset(dataset, workspace, Budget(), PlanningOptions(keep_plan=True, folds=2, preprocess=False))
    assert len(json.loads(workspace.splits.read_text())["folds"]) == 2


def test_two_plan_not_at_once(workspace):
    dataset, options = workspace.root.parent / "phantoms", PlanningOptions(keep_plan=True, preprocess=False)
    with lock(workspace.planning_lock, "planned"), pytest.raises(LockedError, match="it is being planned by process"):
        plan_dataset(dataset, workspace, Budget(), options)
    assert not workspace.planning_lock.exists()
