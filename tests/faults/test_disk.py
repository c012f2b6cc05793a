"""A disk that is full, and folders that cannot be written to.

A full disk is pretended by an error of the system, and a tmpfs of its own, where mounting is allowed.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel
import pytest

from autoseg.records.temporaries import is_temporary
from autoseg.stages.verify import verify_model
from tests.faults.battery import DONE, SOME_FAILED, UNUSABLE, Place, copy_place, run

DISK_BYTES = 8_000_000

PAGE_BYTES = 4096
"""Unit in which a tmpfs gives space."""

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


@pytest.fixture(scope="module")
def disk():
    """A small file system; not among the folders that pytest removes, which one that is left mounted would disturb."""
    folder = Path(tempfile.mkdtemp(prefix="autoseg-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    if not is_mounted:
        folder.rmdir()
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def small(disk, sound):
    """A copy of the place on the small disk."""
    root = disk / "place"
    root.mkdir()
    yield copy_place(root, sound.dataset, sound.workspace, sound.archive)
    shutil.rmtree(root)


def fill(root: Path, free_pages: int) -> None:
    """Take all space but some pages."""
    free = shutil.disk_usage(root).free
    with (root / "ballast").open("wb") as ballast:
        for _ in range(free // PAGE_BYTES - free_pages):
            ballast.write(b"x" * PAGE_BYTES)


def files_of(place: Place) -> dict[Path, int]:
    """All files but those that grow line by line."""
    files = [path for path in place.root.rglob("*") if path.is_file() and path.name not in ("ballast", "log.txt")]
    return {path: path.stat().st_size for path in files}


@pytest.mark.parametrize("free_pages", [0, 3, 12])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_small_disk_is_one_sentence_and_holds_whole_files_only(small, capsys, command, free_pages):
    before = files_of(small)
    fill(small.root, free_pages)
    code, output = run(small, command, capsys)
    assert code in ((DONE, SOME_FAILED, UNUSABLE) if free_pages else (UNUSABLE,)), output
    assert code == DONE or "the disk is full" in output, output
    assert "Traceback" not in output
    after = files_of(small)
    assert before.keys() <= after.keys()
    assert not [path for path in after if is_temporary(path.name) or path.suffix == ".lock"]
    assert all(after.values())
    assert verify_model(small.workspace).mismatches == ()
    for path in after.keys() - before.keys():
        if path.name.endswith(".nii.gz"):
            nibabel.load(path).get_fdata()
        elif path.suffix == ".zip":
            assert verify_model(path).mismatches == ()
