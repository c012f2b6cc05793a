"""Trials from the terminal: candidates are trained for seconds, and one of them is planned."""

import pytest

from autoseg.cli import planning_request
from autoseg.cli.main import main
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.trials import Trials
from autoseg.records.workspace import Workspace
from autoseg.report.page.render import render_report
from autoseg.stages import candidates, trials
from autoseg.trials import halving


@pytest.fixture
def short_trials(monkeypatch):
    """Trials of four seconds."""
    for module in (halving, candidates, planning_request):
        monkeypatch.setattr(module, "MIN_SLOT_SECONDS", 3.0)
    for module in (halving, trials):
        monkeypatch.setattr(module, "MIN_TRAINING_SECONDS", 0.5)


@pytest.mark.slow
def test_a_plan_decided_by_trials_and_the_same_again(phantom_dataset, tmp_path, short_trials, capsys):
    words = [
        "plan", str(phantom_dataset), "-w", str(tmp_path / "w"), "--device", "cpu", "--time-per-fold", "60s",
        "--trials", "16s", "--planner", "unet", "--folds", "3", "--workers", "1",
    ]  # fmt: skip
    assert main(words) == 0
    workspace = Workspace(tmp_path / "w")
    tried = read_record(Trials, workspace.trials_record)
    assert tried.chosen is not None
    assert [trial.candidate for trial in tried.trials if trial.round == 0] == [one.name for one in tried.candidates]
    for number, begun in enumerate(tried.rounds):
        for trial in tried.trials:
            if trial.round == number:
                assert trial.steps > 0
                assert trial.training_seconds == pytest.approx(begun.training_seconds, abs=2.0)
    plan = read_record(Plan, workspace.plan)
    assert plan.decisions[0].what == "trials"
    assert "Trials on fold 0" in capsys.readouterr().out
    stored = list((workspace.root / "preprocessed").glob("*/*.b2nd"))
    assert {path.parent.name for path in stored} == set(plan.configurations)
    assert not list(workspace.trials.root.rglob("*.safetensors"))
    assert 'id="trials"' in render_report(workspace).read_text(encoding="utf-8")
    before = workspace.trials_record.read_bytes()
    assert main(words) == 0
    assert read_record(Plan, workspace.plan) == plan
    assert workspace.trials_record.read_bytes() == before
