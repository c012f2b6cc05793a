"""`autoseg select`: what is asked for, and what is shown."""

import argparse
import json
from contextlib import nullcontext

import pytest

from autoseg.cli.main import main
from autoseg.cli.select import add_refinement, refinement_options
from autoseg.records.selection import Candidate, Selection
from autoseg.stages import select
from autoseg.stages.select import SelectionOptions
from autoseg.training.refinement import RefinementOptions

SELECTION = Selection(
    configurations=("2d", "3d_fullres"), folds=("0", "1"), mean_foreground_dice=0.83, interval=(0.8, 0.85),
    candidates=(
        Candidate(
            configurations=("2d", "3d_fullres"), folds=("0", "1"), num_cases=12, mean_foreground_dice=0.81234,
            interval=(0.80001, 0.82999), relative_cost=4.56,
        ),
        Candidate(configurations=("2d",), folds=("0", "1"), num_cases=12, mean_foreground_dice=None),
    ),
    reasons=("Because of this.", "And of that."),
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What is asked for of the planned workspace `w`."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "plan.json").touch()
    calls = []

    def select_model(workspace, dataset, options, *, workers, bar):
        with bar("title"):
            calls.append((workspace.root.name, dataset, options, workers))
        return SELECTION

    monkeypatch.setattr(select, "select_model", select_model)
    monkeypatch.setattr("autoseg.cli.terminal.progress_bar", lambda _title: nullcontext())
    return calls


def test_candidates_and_reasons_are_shown(asked, tmp_path, capsys):
    assert main(["select", str(tmp_path / "w"), "--device", "cpu", "-j", "3"]) == 0
    assert asked == [("w", None, SelectionOptions(device="cpu"), 3)]
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "2d + 3d_fullres" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "2d + 3d_fullres", "0.8123", "0.8000 to 0.8300", "12", "0 1", "4.56 x",
    ]  # fmt: skip
    alone = next(line for line in shown.splitlines() if "2d  " in line)
    assert [cell.strip() for cell in alone.split("│")[1:-1]] == ["2d", "none", "–", "12", "0 1", ""]
    assert "Because of this.\nAnd of that.\nWritten: " in shown
    assert "selection.json" in shown


def test_the_json_is_the_selection(asked, tmp_path, capsys):
    assert main(["select", str(tmp_path / "w"), "--json"]) == 0
    shown = capsys.readouterr()
    assert Selection.model_validate_json(shown.out) == SELECTION
    assert json.loads(shown.out)["reasons"] == ["Because of this.", "And of that."]
    assert "Written: " in shown.err


def test_what_costs_a_pass_of_the_networks_can_be_left_out(asked, tmp_path):
    assert main(["select", str(tmp_path / "w"), "--no-ensembles", "--no-thresholds"]) == 0
    ((_, _, options, _),) = asked
    assert options == SelectionOptions(ensembles=False, thresholds=False)


def test_memory_is_limited(asked, tmp_path):
    assert main(["select", str(tmp_path / "w"), "--max-memory", "2GB"]) == 0
    ((_, _, options, _),) = asked
    assert options == SelectionOptions(max_memory=2_000_000_000)


def read(*words):
    parser = argparse.ArgumentParser()
    add_refinement(parser)
    return refinement_options(parser.parse_args(words))


def test_nothing_is_refined_unless_asked_for():
    assert read() is None
    assert read("--refine", "none", "--refine-time", "5s") is None


def test_the_time_of_refinement_reaches_the_stage():
    assert read("--refine", "boundary") == RefinementOptions(seconds=60.0)
    words = ("--refine", "boundary", "--refine-time", "2min")
    assert read(*words) == RefinementOptions(seconds=120.0)


def test_another_word_is_wrong_usage(capsys):
    with pytest.raises(SystemExit):
        read("--refine", "points")
    assert "invalid choice: 'points'" in capsys.readouterr().err
