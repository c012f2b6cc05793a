"""Fixtures that every test folder shares.

Most tests make their own data. Those that compare with real data or with nnU-Net take it from `../shared`, the folder
beside this checkout (fixture `shared`): `data` holds datasets in several layouts, `peer_models` small models that
nnU-Net trained, `peer_oracles` plans and preprocessed cases of nnU-Net. The folder is not part of the project; where it
is absent, these tests are skipped, and say so.
"""

import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoseg.cli import speed
from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.records.budget import Budget, Throughput
from autoseg.records.workspace import Workspace
from autoseg.testing import write_phantom_dataset


@pytest.fixture(scope="session", autouse=True)
def hang_up_is_heard() -> Iterator[None]:
    """Started by nohup the tests ignore SIGHUP, and so would the commands that they start and stop."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def log_as_it_was():
    """What a command sets up for its log lines, in a test or a fixture, must not reach the next test."""
    yield
    logger = logging.getLogger("autoseg")
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    logger.handlers.clear()


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory) -> Iterator[None]:
    """Speeds that fixtures measure are not kept in the user's folder, and those kept there are not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of caches of a test; what a test measures does not reach the next one."""
    folder: Path = tmp_path.with_name(f"{tmp_path.name}_cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def steady_machine(monkeypatch) -> None:
    """Other tests begin and end beside this one; its second plan must not measure the speed again because of them."""
    monkeypatch.setattr(speed, "measure_others_load", lambda _seconds: 0.0)
    monkeypatch.setattr(speed, "time_product", lambda: 0.01)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found beside the project: {folder}")
    return folder


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory) -> Path:
    """Six training volumes and two held-out ones, in nnU-Net's folder layout."""
    folder: Path = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(folder, training=6, held_out=2)
    return folder


@pytest.fixture(scope="session")
def planned_phantoms(phantom_dataset) -> Workspace:
    """The phantoms planned for a slow CPU and preprocessed; read only, copy it before training."""
    workspace = Workspace(phantom_dataset.parent / "phantoms.autoseg")
    slow = tuple(Throughput(dimensions=d, base_features=8, macs_per_second=1e9) for d in (2, 3))
    budget = Budget(device="cpu", time_per_fold_seconds=60.0, throughput=slow)
    plan_dataset(phantom_dataset, workspace, budget, PlanningOptions(planner="unet", folds=3))
    return workspace


@pytest.fixture
def workspace(planned_phantoms, tmp_path) -> Workspace:
    """A copy of the planned phantoms, beside a link to their dataset, to train in."""
    root = tmp_path / "data" / "phantoms.autoseg"
    shutil.copytree(planned_phantoms.root, root)
    (root.parent / "phantoms").symlink_to(planned_phantoms.root.parent / "phantoms")
    return Workspace(root)
