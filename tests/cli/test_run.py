"""The run command, as a user types it; whole runs are in tests/pipeline/test_phantom_run.py."""

import pytest

from autoseg.cli.main import main


def test_a_dry_run_says_what_the_run_takes_and_writes_nothing(phantom_dataset, tmp_path, capsys):
    words = ["run", str(phantom_dataset), "-w", str(tmp_path / "w"), "--device", "cuda", "--planner", "unet", "-j", "1"]
    assert main([*words, "-c", "3d_fullres", "--folds", "2", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "Plan for" in shown
    assert "This run trains 1 configuration (3d_fullres) on folds 0, 1: 2 trainings.\n" in shown
    assert "\nTime: " in shown
    assert "\nDisk: at most " in shown
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_a_fold_that_does_not_exist_is_refused_before_anything_is_written(phantom_dataset, tmp_path, capsys, more):
    words = ["run", str(phantom_dataset), "-w", str(tmp_path / "w"), "--device", "cpu", "--planner", "unet", "-j", "1"]
    assert main([*words, "-c", "3d_fullres", "--folds", "2", "-f", "1", "9", *more]) == 2
    assert "fold '9' does not exist; this dataset has 0, 1, all" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_yes_skips_nothing(phantom_dataset, tmp_path, capsys):
    words = ["run", str(phantom_dataset), "-w", str(tmp_path / "w"), "--device", "cuda", "--planner", "unet", "-j", "1"]
    shown = []
    for more in ([], ["--yes"], ["-y"]):
        assert main([*words, "-c", "3d_fullres", "--folds", "2", "--dry-run", *more]) == 0
        shown.append(capsys.readouterr().out.partition("Disk")[0])
    assert "\nTime: " in shown[0]
    assert len(set(shown)) == 1
