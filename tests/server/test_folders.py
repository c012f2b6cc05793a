"""The temporary folder: private, emptied at the end, and after a server was killed by the next one."""

import os
import stat
import subprocess
import sys
import time

from autoseg.server.folders import LOCK_NAME, PREFIX, SECONDS_TO_LOCK, open_server_folder, sweep_server_folders

KILLED = """
import os, signal, sys
from pathlib import Path
from autoseg.server.folders import open_server_folder
with open_server_folder(Path(sys.argv[1])) as folder:
    (folder / "patient.nii.gz").write_bytes(b"secret")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_is_private_and_removed(tmp_path):
    with open_server_folder(tmp_path) as folder:
        (folder / "patient").mkdir()
        (folder / "patient" / "image.nii.gz").write_bytes(b"secret")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with open_server_folder(tmp_path) as other:
            assert other != folder
        assert (folder / "patient").is_dir()  # the other one left it alone
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_server_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, env={**os.environ})
    (left,) = tmp_path.iterdir()
    assert (left / "patient.nii.gz").exists()
    with open_server_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_folders_without_a_lock_are_removed_once_they_are_old(tmp_path):
    starting, old = tmp_path / f"{PREFIX}new", tmp_path / f"{PREFIX}old"
    for folder in (starting, old):
        folder.mkdir()
    before = time.time() - SECONDS_TO_LOCK - 10
    os.utime(old, (before, before))
    sweep_server_folders(tmp_path)
    assert list(tmp_path.iterdir()) == [starting]


def test_a_link_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / LOCK_NAME).write_text("damaged")
    before = time.time() - 3600
    os.utime(precious / LOCK_NAME, (before, before))
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    sweep_server_folders(tmp_path)
    assert (precious / LOCK_NAME).exists()
