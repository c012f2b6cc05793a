"""`autoseg doctor WORKSPACE`: damaged cases and stale locks are named, and corrected with --repair."""

import json
import os

import pytest

from autoseg.cli import doctor
from autoseg.cli.main import main


@pytest.fixture(autouse=True)
def no_machine(monkeypatch):
    monkeypatch.setattr(doctor, "_describe_machine", lambda *_: {})


def test_a_workspace_in_order_is_exit_code_0(workspace, capsys):
    assert main(["doctor", str(workspace.root)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["locks", "none"], ["arrays", "none", "damaged"],
    ]  # fmt: skip


def test_faults_are_named_and_corrected(workspace, capsys):
    array = sorted(workspace.preprocessed("3d_fullres").glob("*.b2nd"))[0]
    content = array.read_bytes()
    array.write_bytes(content[:-1])
    stale = workspace.planning_lock
    stale.write_text("")
    os.utime(stale, (1e9, 1e9))
    assert main(["doctor", str(workspace.root), "-q"]) == 1
    out = capsys.readouterr().out
    assert f"stale, its process does not run any more: {stale}" in out
    assert f"case {array.stem} has another array than was written" in out
    assert f"to correct it  autoseg doctor {workspace.root} --repair" in out
    assert main(["doctor", str(workspace.root), "-q", "--repair", "-j", "1"]) == 0
    out = capsys.readouterr().out
    assert f"removed  {stale}" in out
    assert "stored again  1 preprocessed cases" in out
    assert array.read_bytes() == content
    assert main(["doctor", str(workspace.root), "-q"]) == 0


def test_the_json_has_locks_and_damage_before_and_after(workspace, capsys):
    array = sorted(workspace.preprocessed("3d_fullres").glob("*.b2nd"))[0]
    array.write_bytes(array.read_bytes()[:-1])
    workspace.planning_lock.write_text("")
    os.utime(workspace.planning_lock, (1e9, 1e9))
    assert main(["doctor", str(workspace.root), "--json", "-j", "1"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)["workspace"]
    assert found["workspace"] == str(workspace.root)
    assert [lock["is_stale"] for lock in found["locks"]] == [True]
    assert str(workspace.planning_lock) in found["locks"][0]["description"]
    assert {name: list(cases) for name, cases in found["damage"].items()} == {"3d_fullres": [array.stem]}
    assert "another array than was written" in found["damage"]["3d_fullres"][array.stem]
    assert not found["is_repaired"]
    assert "to correct it" in shown.err
    assert main(["doctor", str(workspace.root), "--json", "--repair", "-j", "1"]) == 0
    found = json.loads(capsys.readouterr().out)["workspace"]
    assert found["is_repaired"]
    assert str(workspace.planning_lock) in found["removed"]
    assert main(["doctor", str(workspace.root), "--json", "-j", "1"]) == 0
    found = json.loads(capsys.readouterr().out)["workspace"]
    assert (found["locks"], found["damage"]) == ([], {})


def test_what_cannot_be_examined_is_wrong_usage(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    assert "not a workspace, it has no plan.json" in capsys.readouterr().err
    assert main(["doctor", "--repair"]) == 2
    assert "--repair needs the workspace" in capsys.readouterr().err
