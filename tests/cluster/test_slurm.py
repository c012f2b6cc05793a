"""The script for SLURM: it is sound bash, and a SLURM made by hand runs its arrays in order."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.cluster.slurm import SlurmOptions, format_script
from autoseg.costs.runs import Training
from tests.cluster.slurm_by_hand import Slurm

GROUPS = [
    [Training("2d", "0"), Training("2d", "1"), Training("3d lowres", "0"), Training("3d lowres", "1")],
    [Training("3d_cascade_fullres", "0"), Training("3d_cascade_fullres", "1")],
]
EVERY = SlurmOptions(
    gres="gpu:1", time="12:00:00", partition="long", account="me", qos="high", mem="32G", cpus_per_task=8
)

_PROGRAM = """#!/usr/bin/env bash
# stands for python: notes what it is asked for; a file `slow` makes it wait for USR1, a file `failing` makes it fail
shift 2
echo "$*|$OMP_NUM_THREADS|$TMPDIR" >> {notes}
touch "$TMPDIR/cache"
case "$*" in *"$(cat {folder}/failing 2>/dev/null || echo none)"*) exit 1 ;; esac
if [ -e {folder}/slow ]; then
    rm {folder}/slow
    trap 'exit 138' USR1
    kill -USR1 "$PPID"
    while :; do sleep 0.05; done
fi
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A queue whose jobs call a program that only notes its arguments."""
    program = tmp_path / "python of tests"
    names = {"notes": tmp_path / "notes.txt", "folder": tmp_path}
    program.write_text(_PROGRAM.format(**{name: shlex.quote(str(path)) for name, path in names.items()}))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "job.sh").write_text(format_script(tmp_path / "a workspace's", GROUPS, EVERY))
    monkeypatch.undo()
    return Slurm(tmp_path / "slurm", {"TMPDIR": str(tmp_path / "scratch")})


def notes_of(tmp_path) -> list[str]:
    return [line.split("|")[0] for line in (tmp_path / "notes.txt").read_text().splitlines()]


def expected_notes(workspace) -> list[str]:
    trainings = [training for group in GROUPS for training in group]
    return [
        *(f"train {workspace} --configuration {item.configuration} --fold {item.fold}" for item in trainings),
        f"select {workspace} --workers 1",
        f"report {workspace}",
    ]


def test_bash_and_shellcheck_find_nothing(tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(format_script(tmp_path / "it's here", GROUPS, EVERY))
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: apt-get install shellcheck)")
    found = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_directives_are_what_was_asked_for():
    lines = format_script(Path("/w"), GROUPS, EVERY).splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert directives == {
        "--job-name=autoseg", "--array=0-3", "--gres=gpu:1", "--time=12:00:00", "--partition=long", "--account=me",
        "--qos=high", "--mem=32G", "--cpus-per-task=8", "--nodes=1", "--ntasks=1", "--requeue", "--open-mode=append",
        "--signal=B:USR1@120",
    }  # fmt: skip


@pytest.mark.parametrize("program", ["bash", "sbatch"])
def test_arrays_run_in_order_whichever_way_the_script_is_submitted(tmp_path, slurm, program):
    done = subprocess.run([program, str(tmp_path / "job.sh")], env=slurm.environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    slurm.run_all()
    assert notes_of(tmp_path) == expected_notes(tmp_path / "a workspace's")
    assert slurm.finished == {"100": True, "101": True, "102": True}
    assert [slurm.job(number).get("dependency") for number in ("100", "101", "102")] == [
        None, "afterok:100", "afterok:101",
    ]  # fmt: skip
    assert [slurm.job(number)["array"] for number in ("100", "101", "102")] == ["0-3", "4-5", "6"]


def test_cores_and_scratch_space_are_those_of_the_task_and_nothing_stays_there(tmp_path, slurm):
    slurm.sbatch(tmp_path / "job.sh")
    slurm.run_task("100", 2)
    _, cores, scratch = (tmp_path / "notes.txt").read_text().strip().split("|")
    assert cores == "1"
    assert scratch.startswith(str(tmp_path / "scratch" / "autoseg."))
    assert not list((tmp_path / "scratch").iterdir())


def test_a_task_that_is_stopped_before_its_time_limit_is_queued_again(tmp_path, slurm):
    (tmp_path / "slow").touch()
    slurm.sbatch(tmp_path / "job.sh")
    slurm.run_all()
    expected = expected_notes(tmp_path / "a workspace's")
    assert notes_of(tmp_path) == [expected[0], *expected], "the first task runs twice, later arrays are submitted once"
    assert all(slurm.finished.values())
    assert not list((tmp_path / "scratch").iterdir())


def test_what_depends_on_a_failed_fold_never_starts(tmp_path, slurm):
    (tmp_path / "failing").write_text("lowres --fold 1")
    subprocess.run(["bash", str(tmp_path / "job.sh")], env=slurm.environment, check=True, capture_output=True)
    slurm.run_all()
    assert slurm.finished == {"100": False}
    assert slurm.never == ["101", "102"]
    assert notes_of(tmp_path) == expected_notes(tmp_path / "a workspace's")[:4], "other folds are trained"
    assert "kill-on-invalid-dep" in slurm.job("101"), "such jobs do not stay in the queue"


def test_a_queue_that_refuses_the_job_ends_the_submission(tmp_path, slurm):
    (tmp_path / "slurm" / "bin" / "sbatch").write_text("#!/bin/sh\necho 'no such partition' >&2; exit 1\n")
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], env=slurm.environment, check=False, capture_output=True)
    assert done.returncode == 1
    assert done.stderr == b"no such partition\n"
