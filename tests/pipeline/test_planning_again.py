"""Planning again in a workspace: what a person edited is kept, and the terminal says so."""

import json

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
