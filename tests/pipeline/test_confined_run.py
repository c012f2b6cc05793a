"""Every command works without a network, and on a dataset in whose folder nothing may be written."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.records.files import write_record
from autoseg.records.workspace import Workspace
from autoseg.testing import write_phantom_dataset
from autoseg.testing.phantoms import PHANTOM_LABELS
from tests.builders import make_plan
from tests.interop.nnunet_models import write_model

ROOT = Path(__file__).resolve().parents[2]
GUARD = Path(__file__).parent / "no_network"
REFUSED = 99
"""Exit code of a process that the guard ended."""

RUN = """
import sys
from autoseg.cli.main import main
for line in sys.stdin.read().splitlines():
    code = main(line.split("\\t"))
    assert code == 0, (code, line)
"""


def run_without_network(program, lines=()):
    paths = os.pathsep.join([str(GUARD), str(ROOT), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", program], input="\n".join("\t".join(map(str, line)) for line in lines),
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def state_of(folder):
    """Everything that a write into a folder would change."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {path: (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize(
    "program",
    [
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import socket; socket.create_connection(('localhost', 9))",
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import socket; socket.socket()']))",
    ],
)
def test_the_guard_ends_whatever_asks_for_the_network(program):
    assert run_without_network(program).returncode == REFUSED


def test_the_guard_leaves_pipes_between_processes_alone():
    done = run_without_network("import multiprocessing as m; m.set_start_method('spawn'); a, b = m.Pipe(); a.send(1)")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_command_works_without_network_and_writes_nothing_into_the_dataset(tmp_path):
    dataset = tmp_path / "data" / "phantoms"
    write_phantom_dataset(dataset, training=4, held_out=1)
    for path in [dataset, *dataset.rglob("*")]:  # binds users other than root
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    workspace = Workspace(tmp_path / "w")
    plan = make_plan({"3d_fullres": (2.3, 1.5, 1.7)}, labels=PHANTOM_LABELS)
    short = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}
    configurations = {
        name: configuration.model_copy(update={"training": configuration.training.model_copy(update=short)})
        for name, configuration in plan.configurations.items()
    }
    write_record(plan.model_copy(update={"configurations": configurations}), workspace.plan)
    foreign = write_model(tmp_path / "trainer__plans__3d_fullres")
    before = state_of(dataset)
    w, images, out, labels = workspace.root, dataset / "imagesTs", tmp_path / "out", dataset / "labelsTr"
    lines = [
        ("doctor", "--device", "cpu"),
        ("plan", dataset, "-w", w, "--keep-plan", "--folds", "2", "-j", "2"),
        ("cluster", "slurm", w),
        ("run", dataset, "-w", w, "--keep-plan", "--folds", "2", "-f", "0", "--device", "cpu", "-j", "2"),
        ("train", w, "-c", "3d_fullres", "-f", "1", "--device", "cpu", "-j", "1"),
        ("select", w, "--device", "cpu"),
        ("report", w),
        ("predict", "-m", w, "-i", images, "-o", out, "--device", "cpu", "--speed", "fast"),
        ("predict", "-m", w, "-i", dataset / "imagesTr", "-o", tmp_path / "tr", "--device", "cpu", "--speed", "fast"),
        ("evaluate", tmp_path / "tr", labels, "-j", "2"),
        ("evaluate", tmp_path / "tr", labels, "--instances"),
        ("postprocess", "-m", w, "-i", out, "-o", tmp_path / "post", "-j", "2"),
        ("verify", w),
        ("import-nnunet", foreign, "-o", tmp_path / "imported"),
        ("export", w, "-o", tmp_path / "model.zip"),
        ("predict", "-m", tmp_path / "model.zip", "-i", images, "-o", tmp_path / "again", "--device", "cpu"),
    ]
    done = run_without_network(RUN, lines)
    assert done.returncode == 0, done.stderr[-4000:]
    assert state_of(dataset) == before
