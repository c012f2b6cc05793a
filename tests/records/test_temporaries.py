"""Temporary names, and the sweep: leftovers of processes that are gone go, what somebody is writing stays."""

import os
import subprocess
import sys
import time

import pytest

from autoseg.records import temporaries
from autoseg.records.temporaries import SECONDS_UNTIL_OLD, is_temporary, name_temporary, sweep_temporaries


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def named_by(monkeypatch, process, path, host=None):
    """A temporary name as another process, here or elsewhere, gives it."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: process)
        if host is not None:
            patch.setattr(temporaries, "_host", lambda: host)
        return name_temporary(path)


@pytest.mark.parametrize(
    "name", ["case.nii.gz", "x" * 250 + ".nii.gz", "頭" * 80 + ".nii.gz", "\udce4" * 250 + ".nrrd"]
)
def test_names_are_hidden_and_different_have_the_same_ending_and_fit_every_file_system(name, tmp_path):
    first, second = name_temporary(tmp_path / name), name_temporary(tmp_path / name)
    assert first != second
    for made in (first, second):
        assert made.parent == tmp_path
        assert made.name.startswith(".")
        assert made.name.endswith(name[-5:])
        assert is_temporary(made.name)
        assert len(os.fsencode(made.name)) <= 255
        made.touch()


def test_names_of_users_are_not_temporary():
    for name in (".autoseg", ".autoseg-notes.txt", ".12345678.case.nii.gz", "case.autoseg-00000000-1-00000000.x"):
        assert not is_temporary(name)


def test_leftovers_go_and_what_is_written_now_stays(tmp_path, monkeypatch):
    gone = dead_process()
    below = tmp_path / "below"
    below.mkdir()
    folder = named_by(monkeypatch, gone, tmp_path / "model.zip")
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "weights").touch()
    leftovers = [named_by(monkeypatch, gone, tmp_path / "a.json"), named_by(monkeypatch, gone, below / "b.json")]
    alive = named_by(monkeypatch, os.getppid(), tmp_path / "a.json")
    own = name_temporary(tmp_path / "c.json")
    elsewhere = named_by(monkeypatch, gone, tmp_path / "d.json", host="0123abcd")
    for path in (*leftovers, alive, own, elsewhere, tmp_path / ".hidden", tmp_path / "a.json"):
        path.touch()
    old = named_by(monkeypatch, gone, tmp_path / "e.json", host="0123abcd")
    old.touch()
    os.utime(old, (time.time() - SECONDS_UNTIL_OLD - 60,) * 2)
    sweep_temporaries(tmp_path)
    assert {*tmp_path.iterdir()} == {alive, own, elsewhere, tmp_path / ".hidden", tmp_path / "a.json", below}
    assert leftovers[1].exists()
    sweep_temporaries(tmp_path, recursive=True)
    assert not leftovers[1].exists()


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    link = named_by(monkeypatch, dead_process(), tmp_path / "x")
    link.symlink_to(tmp_path / "kept", target_is_directory=True)
    sweep_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_a_missing_folder_has_nothing_to_sweep(tmp_path):
    sweep_temporaries(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
