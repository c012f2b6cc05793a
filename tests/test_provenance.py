"""Provenance: what made each result of a run, from command to data; equal commands have equal provenance."""

import json
import sys
from importlib.metadata import version

import numpy as np
import pytest

from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.provenance import describe_provenance
from autoseg.records.budget import Budget
from autoseg.records.files import read_record
from autoseg.records.provenance import Provenance
from autoseg.stages.export import export_model
from autoseg.stages.select import SelectionOptions, select_model
from autoseg.stages.train import train_fold
from tests.training.small_folds import NAME, short, shrink_plan


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/autoseg", "train", "my data", "-f", "0"])


@pytest.mark.usefixtures("command")
def test_every_result_of_a_workspace_says_what_made_it(workspace, tmp_path):
    shrink_plan(workspace)
    plan_dataset(
        workspace.root.parent / "phantoms", workspace, Budget(), PlanningOptions(keep_plan=True, preprocess=False)
    )
    train_fold(workspace, NAME, "0", short(seed=7))
    select_model(workspace, options=SelectionOptions(device="cpu"))
    planned = read_record(Provenance, workspace.provenance("plan"))
    trained = read_record(Provenance, workspace.fold(NAME, "0") / "provenance.json")
    selected = read_record(Provenance, workspace.provenance("select"))
    assert planned.command == "autoseg train 'my data' -f 0"
    assert planned.autoseg_version == version("autoseg-med")
    assert planned.libraries["numpy"] == np.__version__
    assert "pytest" not in planned.libraries
    assert (planned.device, planned.seed) == ("", None)
    assert trained.device.startswith("the CPU")
    assert (trained.seed, selected.device) == (7, "cpu")
    assert trained.model_copy(update={"device": "", "seed": None}) == planned
    assert selected.model_copy(update={"device": ""}) == planned
    assert len(planned.plan_hash) == len(planned.data_hash) == 32
    assert export_model(workspace.root, tmp_path / "model.zip").plan_hash == planned.plan_hash


def test_another_plan_or_file_is_another_hash(workspace):
    first = describe_provenance(workspace)
    content = json.loads(workspace.plan.read_text())
    workspace.plan.write_text(json.dumps(content | {"dataset_name": "other"}))
    second = describe_provenance(workspace)
    assert second.plan_hash != first.plan_hash
    assert second.data_hash == first.data_hash
    facts = json.loads(workspace.fingerprint.read_text())
    facts["cases"][0]["content_hash"] = "0"
    workspace.fingerprint.write_text(json.dumps(facts))
    third = describe_provenance(workspace)
    assert third.data_hash != second.data_hash
    facts["cases"][0]["content_hash"] = ""  # as in exported models
    workspace.fingerprint.write_text(json.dumps(facts))
    assert describe_provenance(workspace).data_hash == ""
    assert describe_provenance(None).plan_hash == ""
