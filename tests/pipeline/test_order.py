"""In which order `run` trains, and what it leaves out; the stages themselves are stood in for."""

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from autoseg import pipeline
from autoseg.errors import PlanningError
from autoseg.pipeline import PlanningOptions, training_order
from autoseg.records.budget import Budget
from autoseg.records.files import write_record
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from autoseg.report import render
from autoseg.stages import select, train
from tests.inference.models import CASCADE, make_cascade_plan


def plan_in_order(*names, **previous):
    """The cascade's plan, its configurations in another order; `previous` replaces previous configurations."""
    plan = make_cascade_plan((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    configurations = {
        name: plan.configurations[name].model_copy(update={"previous_configuration": previous[name]})
        if name in previous
        else plan.configurations[name]
        for name in names
    }
    return plan.model_copy(update={"configurations": configurations})


@pytest.mark.parametrize(
    ("planned", "expected"),
    [
        (("3d_lowres", "3d_fullres", CASCADE), ("3d_lowres", "3d_fullres", CASCADE)),
        ((CASCADE, "3d_fullres", "3d_lowres"), ("3d_fullres", "3d_lowres", CASCADE)),
    ],
)
def test_a_cascade_comes_after_its_previous_stage(planned, expected):
    assert training_order(plan_in_order(*planned)) == expected


def test_a_cascade_of_three_stages():
    plan = plan_in_order(CASCADE, "3d_fullres", "3d_lowres", **{"3d_lowres": "3d_fullres"})
    assert training_order(plan) == ("3d_fullres", "3d_lowres", CASCADE)


def test_stages_that_wait_for_each_other_are_refused():
    plan = plan_in_order(CASCADE, "3d_lowres", "3d_fullres", **{"3d_lowres": CASCADE})
    with pytest.raises(PlanningError, match=f"{CASCADE}, 3d_lowres: each is the other's previous configuration"):
        training_order(plan)


@pytest.fixture
def trained(monkeypatch):
    """What `run` trains, in order."""
    calls = []

    def train_fold(workspace, configuration, fold, _options, *, bar):
        assert isinstance(bar("title"), nullcontext)
        folder = workspace.fold(configuration, fold)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint_final.safetensors").touch()
        calls.append((configuration, fold))
        return SimpleNamespace(finished=True)

    monkeypatch.setattr(train, "train_fold", train_fold)
    monkeypatch.setattr(select, "select_model", lambda _workspace: None)
    monkeypatch.setattr(render, "render_report", lambda _workspace: None)
    return calls


def run(tmp_path, monkeypatch, *, num_folds=2, folds=()):
    workspace = Workspace(tmp_path / "w")
    split = Split(training=("a",), validation=("b",))
    write_record(Splits(folds=(split,) * num_folds, reason="by hand"), workspace.splits)
    plan = plan_in_order(CASCADE, "3d_fullres", "3d_lowres")
    monkeypatch.setattr(pipeline, "plan_dataset", lambda *_, **__: plan)
    pipeline.run(tmp_path, workspace, Budget(), PlanningOptions(), folds=folds)


def test_run_trains_every_fold_of_every_configuration(tmp_path, monkeypatch, trained):
    run(tmp_path, monkeypatch)
    assert trained == [(name, fold) for name in ("3d_fullres", "3d_lowres", CASCADE) for fold in ("0", "1")]


def test_run_leaves_a_cascade_out_when_folds_of_its_previous_stage_are_not_wanted(
    tmp_path, monkeypatch, trained, caplog
):
    caplog.set_level(logging.WARNING, "autoseg.pipeline")
    run(tmp_path, monkeypatch, num_folds=3, folds=("1",))
    assert trained == [("3d_fullres", "1"), ("3d_lowres", "1")]
    assert caplog.messages == [
        "warning: 3d_cascade_fullres is left out: it needs every fold of 3d_lowres; not trained: 0, 2"
    ]
    trained.clear()
    run(tmp_path, monkeypatch, num_folds=3)
    trained.clear()
    run(tmp_path, monkeypatch, num_folds=3, folds=("1",))  # now its previous stage has all folds
    assert (CASCADE, "1") in trained


def test_run_leaves_a_cascade_out_when_no_cases_are_held_out(tmp_path, monkeypatch, trained, caplog):
    caplog.set_level(logging.WARNING, "autoseg.pipeline")
    run(tmp_path, monkeypatch, num_folds=0)
    assert trained == [("3d_fullres", "all"), ("3d_lowres", "all")]
    assert "no fold of 3d_lowres leaves cases out" in caplog.messages[0]
