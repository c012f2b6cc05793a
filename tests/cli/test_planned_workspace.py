"""Commands that are given something else than a workspace."""

import pytest

from autoseg.cli.main import UNUSABLE, main

COMMANDS = {
    "train": ["-c", "2d", "-f", "0"],
    "select": [],
    "learn": [],
    "doctor": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_planned_is_refused_by_name(tmp_path, capsys, command):
    (tmp_path / "images").mkdir()
    assert main([command, str(tmp_path / "images"), *COMMANDS[command]]) == UNUSABLE
    assert "images: not a workspace, it has no plan.json; give the folder" in capsys.readouterr().err
    assert main([command, str(tmp_path / "nowhere"), *COMMANDS[command]]) == UNUSABLE
    assert "nowhere: there is no such folder; give the workspace" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
