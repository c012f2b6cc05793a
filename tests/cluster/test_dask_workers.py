"""Work on a Dask cluster of two processes on this machine."""

import importlib
import os
import sys
import threading
from pathlib import Path

import pytest

from autoseg.cluster import dask_workers
from autoseg.cluster.dask_workers import DaskCluster, ToolCluster
from autoseg.errors import PredictionError, UsageError

ITEMS = list(range(12))


class Tool:
    """Counts in a file how often it was made, and refuses to work on two items at once."""

    def __init__(self, folder):
        self.folder = folder
        (folder / f"made_{os.getpid()}_{id(self)}").touch()
        self.lock = threading.Lock()

    def work(self, item):
        assert self.lock.acquire(blocking=False), "two items at the same time"
        try:
            if item == 5:
                raise PredictionError("five cannot be done")
            if item == 7:
                raise KeyError
            return item, os.getpid()
        finally:
            self.lock.release()


def refuse():
    raise PredictionError("no such model")


class Loading:
    def __init__(self, folder):
        self.folder = folder

    def __call__(self):
        return Tool(self.folder)


@pytest.fixture(scope="module")
def address():
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    python_path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path
    try:
        local = distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0")
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    with local:
        yield local.scheduler_address


def test_every_process_loads_once_and_failures_are_told(address, tmp_path):
    found = dict(ToolCluster(DaskCluster(address), Loading(tmp_path)).work(Tool.work, ITEMS, task="testing"))
    assert sorted(found) == ITEMS
    assert found.pop(5) == "five cannot be done"
    assert found.pop(7) == "KeyError"
    assert {index: answer[0] for index, answer in found.items()} == {index: index for index in found}
    processes = {answer[1] for answer in found.values()}
    assert os.getpid() not in processes
    made = [path.name for path in tmp_path.iterdir()]
    assert len(made) == len({name.split("_")[1] for name in made}) <= 2
    assert dict(ToolCluster(DaskCluster(address), Loading(tmp_path)).work(Tool.work, [1], task="testing"))[0][0] == 1
    assert len(list(tmp_path.iterdir())) == len(made) + 1, "a run must not use what an earlier one loaded"


def test_a_model_that_cannot_be_loaded_fails_every_case(address):
    assert dict(ToolCluster(DaskCluster(address), refuse).work(Tool.work, [1, 2], task="testing")) == {
        0: "no such model",
        1: "no such model",
    }


def test_a_worker_that_lacks_a_package_is_named(address):
    with pytest.raises(
        UsageError, match=r"testing: the worker tcp://\S+ cannot import what it needs \(No module named"
    ):
        list(DaskCluster(address).map(import_missing, [1, 2], task="testing"))


def test_a_scheduler_that_lacks_autoseg_is_named():
    handing = dask_workers._HandingOut(None, None, str, [1], "checking", False)
    error = RuntimeError("Error during deserialization of the task graph. This frequently\noccurs if ...")
    with pytest.raises(UsageError, match=r"^checking: the scheduler cannot read what it is given\. Install autoseg"):
        handing._check_installation("tcp://a:1", error)


def import_missing(item):
    return importlib.import_module(f"missing_{item}")


def test_no_scheduler_at_the_address(monkeypatch):
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setattr(dask_workers, "CONNECTING_SECONDS", 0.5)
    with pytest.raises(UsageError, match=r"--scheduler tcp://127\.0\.0\.1:1: no Dask scheduler answers there"):
        list(ToolCluster(DaskCluster("tcp://127.0.0.1:1"), refuse).work(Tool.work, [1], task="testing"))


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"--scheduler needs a package .*pip install distributed"):
        list(ToolCluster(DaskCluster("tcp://127.0.0.1:1"), refuse).work(Tool.work, [1], task="testing"))
