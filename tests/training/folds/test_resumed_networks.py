"""Every family of networks: a training that was killed resumes to the very same weights as one that was not."""

import os

import pytest

from autoseg.plugins import find_planner
from autoseg.records.budget import Budget, Overrides
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan, Target
from autoseg.stages import train as training_stage
from autoseg.stages.measure import measure_networks
from autoseg.stages.plan import make_plan
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.stages.train import train_fold
from tests.builders import install_networks
from tests.training.small_folds import NAME, SHORT, equal, killed_at, short, weights

NARROW = {"base_features": "4"}

FAMILIES = {
    "parts": (
        "attention-unet", NARROW | {"block": "inception", "attention": "mixed", "bottleneck": "atrous_nonlocal"}
    ),
    "nested": ("unet++", NARROW),
    "mednext": ("mednext", NARROW | {"grn": "true"}),
    "hrnet": ("hrnet", NARROW | {"stem": "2"}),
    "points": ("resenc-m", NARROW | {"head": "points"}),
    "unext": ("unext", {"width": "s"}),
    "mask-rcnn": ("unet", NARROW),
    "external": ("external", {"network": "small", "features": "6"}),
}  # fmt: skip
"""Planner and its options by name."""


def give_network(workspace, family):
    """The planner's network for small patches, in a plan whose spacing and cases stay."""
    planner, options = FAMILIES[family]
    target: Target = "mask_rcnn" if family == "mask-rcnn" else "labels"
    fingerprint = read_record(Fingerprint, workspace.fingerprint)
    overrides = Overrides(patch_size=(8, 16, 16), batch_size=2, options=options)
    budget = Budget(configurations=(NAME,), overrides=overrides)
    if family == "external":
        budget = measure_networks(fingerprint, budget, find_planner(planner))
    planned = make_plan(fingerprint, budget, planner, target).configurations[NAME]
    plan = read_record(Plan, workspace.plan)
    own = plan.configurations[NAME]
    training = own.training.model_copy(update={"validation_steps": 1, "time_per_fold_seconds": None})
    if target == "mask_rcnn":
        training = training.model_copy(update={"optimizer": "adamw", "learning_rate": 1e-3, "sides": None})
    changes = {"network": planned.network, "training": training, "patch_size": (8, 16, 16), "batch_size": 2}
    configurations = {NAME: own.model_copy(update=changes)}
    changed = plan.model_copy(update={"target": target, "configurations": configurations})
    write_record(changed, workspace.plan)
    if target == "mask_rcnn":
        preprocess_dataset(read_record(DatasetDescription, workspace.dataset), changed, workspace, (NAME,), 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_killed_training_resumes_to_the_very_same_weights(workspace, tmp_path, monkeypatch, family):
    if family == "external":
        install_networks(tmp_path / "installed")
        monkeypatch.syspath_prepend(tmp_path / "installed")
        places = [str(tmp_path / "installed"), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    give_network(workspace, family)
    monkeypatch.setattr(training_stage, "_score_validation_cases", lambda *_: None)  # whole volumes take seconds
    train_fold(workspace, NAME, "0", SHORT)
    whole = weights(workspace)
    with killed_at(4, monkeypatch):
        train_fold(workspace, NAME, "0", short(restart=True))
    assert train_fold(workspace, NAME, "0", SHORT).step == 6
    assert equal(weights(workspace), whole)
