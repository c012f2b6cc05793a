"""Commands with --scheduler: results as here, although a worker is killed while it works."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from autoseg.cli.main import main
from autoseg.cluster import dask_workers
from autoseg.imaging.formats.reading import read_label_map
from autoseg.processes import WorkerDeath
from autoseg.records.files import read_record, write_record
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.testing import write_phantom_dataset
from autoseg.testing.phantoms import PHANTOM_LABELS
from tests.builders import CASCADE, make_cascade_plan

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the cluster, whose worker is killed
]

WEIGHTS = "checkpoint_final.safetensors"

SHORT = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}


@contextmanager
def paths_for_workers():
    """Processes of a cluster import autoseg and these tests from where this one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path]))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def cluster():
    """Three processes of one thread each; dead ones are started again."""
    with (
        paths_for_workers(),
        distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as local,
    ):
        yield local


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(folder, training=4, held_out=3)
    return folder


@pytest.fixture(scope="module")
def here(dataset, tmp_path_factory):
    """A whole run in this process."""
    workspace = start_workspace(tmp_path_factory.mktemp("here") / "w")
    assert main(run_words(dataset, workspace)) == 0
    return workspace


def start_workspace(root) -> Workspace:
    workspace = Workspace(root)
    plan = make_cascade_plan((4.0, 2.9, 3.3), (2.3, 1.5, 1.7), labels=PHANTOM_LABELS)
    configurations = {
        name: configuration.model_copy(update={"training": configuration.training.model_copy(update=SHORT)})
        for name, configuration in plan.configurations.items()
    }
    write_record(plan.model_copy(update={"configurations": configurations}), workspace.plan)
    return workspace


def run_words(dataset, workspace):
    return ["run", str(dataset), "-w", str(workspace.root), "--keep-plan", "--folds", "2", "--device", "cpu"]


@contextmanager
def killing(local, *tasks):
    """Kill a worker as soon as one works on each of these tasks; gives the addresses of those that were killed."""
    with distributed.Client(local) as client:
        pids = client.run(os.getpid)
    ended = threading.Event()
    killed: list[str] = []

    def kill():
        wanted = list(tasks)
        while wanted and not ended.is_set():
            for address, worker in list(local.scheduler.workers.items()):
                busy = any(str(task.key).startswith(f"{wanted[0]}-") for task in list(worker.processing))
                if busy and address in pids and address not in killed:
                    os.kill(pids[address], signal.SIGKILL)
                    killed.append(address)
                    wanted.pop(0)
                    break
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        ended.set()
        killer.join()


def chosen(workspace):
    """The selection without the hashes of trainings, which depend on the seconds that they took."""
    return read_record(Selection, workspace.selection).model_dump(exclude={"weights"})


def contents(folder, pattern="**/*"):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.glob(pattern)) if path.is_file()}


def test_plan(cluster, dataset, here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = start_workspace(tmp_path / "w")
    words = ["plan", str(dataset), "-w", "w", "--keep-plan", "--folds", "2"]
    with killing(cluster, "checking", "measuring", "preprocessing") as killed:
        assert main([*words, "--scheduler", cluster.scheduler_address]) == 0
    assert len(killed) == 3
    assert f"the worker {killed[0]} is gone; it worked on phantom_" in capsys.readouterr().err
    for name in ("fingerprint", "plan", "splits"):
        assert getattr(there, name).read_bytes() == getattr(here, name).read_bytes()
    found, expected = (contents(item.root / "preprocessed") for item in (there, here))
    assert found == expected


def test_run(cluster, dataset, here, tmp_path):
    there = start_workspace(tmp_path / "w")
    with killing(cluster, "training") as killed:
        assert main([*run_words(dataset, there), "--scheduler", cluster.scheduler_address]) == 0
    assert len(killed) == 1
    for name in ("3d_lowres", "3d_fullres", CASCADE):
        for fold in ("0", "1"):
            found, expected = (safetensors.numpy.load_file(w.fold(name, fold) / WEIGHTS) for w in (there, here))
            assert found.keys() == expected.keys()
            for tensor in expected:
                np.testing.assert_array_equal(found[tensor], expected[tensor])
    assert chosen(there) == chosen(here)
    assert there.report.exists()
    assert not list(there.root.rglob("*.lock"))


def test_select(cluster, here, tmp_path, monkeypatch):
    expected = chosen(here)
    for folder in (here.root / "models" / "ensembles").iterdir():
        folder.rename(tmp_path / folder.name)
    monkeypatch.chdir(here.root.parent)
    with killing(cluster, "selection", "post-processing") as killed:
        words = ["select", here.root.name, "--device", "cpu", "--scheduler", cluster.scheduler_address]
        assert main(words) == 0
    assert len(killed) == 2
    assert chosen(here) == expected


def test_predict_and_evaluate(cluster, dataset, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = ["--scheduler", cluster.scheduler_address]
    words = ["predict", "-m", str(here.root), "-i", str(dataset / "imagesTr"), "--device", "cpu", "--speed", "fast"]
    assert main([*words, "-o", "here"]) == 0
    with killing(cluster, "prediction") as killed:
        assert main([*words, "-o", "there", *there]) == 0
    assert len(killed) == 1
    names = sorted(path.name for path in (tmp_path / "here").glob("*.nii.gz"))
    assert len(names) == 4
    for name in names:
        found, expected = (read_label_map(tmp_path / where / name).array for where in ("there", "here"))
        np.testing.assert_array_equal(found, expected)
    assert main(["evaluate", "here", str(dataset / "labelsTr"), "-j", "1"]) == 0
    with killing(cluster, "evaluation") as killed:
        assert main(["evaluate", "there", str(dataset / "labelsTr"), *there]) == 0
    assert len(killed) == 1
    assert (tmp_path / "there" / "evaluation.json").read_bytes() == (tmp_path / "here" / "evaluation.json").read_bytes()


def test_the_last_worker_is_gone(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dask_workers, "SECONDS_WITHOUT_WORKERS", 2.0)
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as local:
        words = ["plan", str(dataset), "-w", str(tmp_path / "w"), "--scheduler", local.scheduler_address]
        assert main(words) == 2
    message = capsys.readouterr().err
    assert "checking: the Dask cluster has had no worker for 2 s; 0 of 4 are done. Start workers with" in message


def test_a_case_that_kills_every_worker_is_named_and_its_neighbours_are_not(cluster):
    items = list(range(8))
    found = list(dask_workers.DaskCluster(cluster.scheduler_address).map(die_at_three, items, task="testing"))
    assert [item for item in found if not isinstance(item, WorkerDeath)] == [0, 1, 2, 4, 5, 6, 7]
    assert isinstance(found[3], WorkerDeath)


def test_the_only_worker_is_used_again_after_its_death(tmp_path):
    with (
        paths_for_workers(),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as local,
    ):
        work = partial(die_once, tmp_path / "died")
        assert list(dask_workers.DaskCluster(local.scheduler_address).map(work, [1, 2], task="testing")) == [1, 2]


def die_once(mark, item):
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die_at_three(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item
