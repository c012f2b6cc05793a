import shutil

import pytest

from autoseg.cli import machine
from autoseg.cli.main import main
from autoseg.records.budget import Throughput
from autoseg.records.files import read_record
from autoseg.records.plan import Plan


def test_no_command_prints_help(capsys):
    assert main([]) == 2
    assert "plan" in capsys.readouterr().out


def test_an_unknown_command_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["segment"])
    assert stop.value.code == 2
    assert "segment" in capsys.readouterr().err


def test_a_missing_dataset_is_one_line_without_traceback(tmp_path, capsys):
    assert main(["plan", str(tmp_path / "nowhere"), "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert "nowhere: there is no such dataset" in error
    assert "Traceback" not in error


def test_verbose_shows_the_traceback(tmp_path, capsys):
    assert main(["plan", str(tmp_path / "nowhere"), "--device", "cuda", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_device_is_wrong_usage(phantom_dataset, capsys):
    assert main(["plan", str(phantom_dataset), "--device", "tpu", "--dry-run"]) == 2
    assert "--device tpu: unknown" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(phantom_dataset, tmp_path, capsys):
    words = ["plan", str(phantom_dataset), "-w", str(tmp_path / "w"), "--device", "cuda", "--dry-run", "-j", "1"]
    assert main(words) == 0
    assert "3d_fullres" in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("autoseg ")


def test_planning_again_keeps_the_measured_speed(planned_phantoms, phantom_dataset, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    shutil.copy(planned_phantoms.plan, workspace)
    words = ["plan", str(phantom_dataset), "-w", str(workspace), "--device", "cpu", "--no-preprocess", "-j", "1"]
    monkeypatch.setattr(machine, "measure_throughput", lambda *_: pytest.fail("measured again"))
    before = read_record(Plan, planned_phantoms.plan)
    assert main([*words, "--time-per-fold", "60s", "--folds", "3"]) == 0
    assert read_record(Plan, workspace / "plan.json") == before


def test_another_time_is_measured_anew(planned_phantoms, phantom_dataset, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    shutil.copy(planned_phantoms.plan, workspace)
    fast = (Throughput(dimensions=3, base_features=8, macs_per_second=7e12),)
    monkeypatch.setattr(machine, "measure_throughput", lambda *_: fast)
    words = ["plan", str(phantom_dataset), "-w", str(workspace), "--device", "cpu", "--no-preprocess", "-j", "1"]
    assert main([*words, "--time-per-fold", "90s"]) == 0
    assert read_record(Plan, workspace / "plan.json").budget.throughput == fast
