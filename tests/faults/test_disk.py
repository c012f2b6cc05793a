"""A disk that is full, and folders that cannot be written to."""

import errno
import os

import pytest

from tests.faults.battery import UNUSABLE, run

COMMANDS = {
    "plan": "plan {dataset} -w {root}/new --device cuda --planner unet -c 3d_fullres --folds 2 -j 1",
    "train": "train {workspace} -c 3d_fullres -f 1 --device cpu --epochs 1 --steps-per-epoch 1",
    "predict": "predict -m {workspace} -i {images} -o {out} --device cpu --speed fast",
    "predict with probabilities": "predict -m {workspace} -i {images} -o {out} --device cpu --save-probabilities",
    "select": "select {workspace} --device cpu -j 1",
    "export": "export {workspace} -o {out}",
    "export to a zip file": "export {workspace} -o {out}.zip",
    "report": "report {workspace}",
    "evaluate": "evaluate {labels} {labels} -o {out}/evaluation.json -j 1",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_full_disk_is_one_sentence(place, capsys, monkeypatch, command):
    """The system says so when the content of a file is flushed."""
    tried = []

    def full(descriptor):
        tried.append(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("autoseg.records.files.os.fsync", full)
    before = {path for path in place.workspace.rglob("*") if path.is_file()}
    code, output = run(place, command, capsys)
    assert code == UNUSABLE, output
    assert "the disk is full" in output
    assert "Traceback" not in output
    assert 1 <= len(tried) <= 4  # nothing is computed that cannot be written either
    assert not [path for path in place.root.rglob(".*.*") if path.is_file()]
    assert before - {path for path in place.workspace.rglob("*") if path.is_file()} == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_read_only_folder_is_one_sentence(place, capsys, command):
    folders = [path for path in place.root.rglob("*") if path.is_dir()]
    for folder in (place.root, *folders):
        folder.chmod(0o555)
    try:
        code, output = run(place, command, capsys)
    finally:
        for folder in (place.root, *folders):
            folder.chmod(0o755)
    assert code == UNUSABLE, output
    assert "Permission denied" in output
    assert "Traceback" not in output
