"""Trackers, played by stand-ins, and by the real ones where they are installed."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from autoseg.errors import UsageError
from autoseg.training.folds import tracking
from autoseg.training.folds.tracking import list_figures, track
from tests.builders import make_epoch


@pytest.fixture
def modules(monkeypatch):
    """Packages by name that take the place of installed ones; others are not installed."""
    found: dict[str, Any] = {}

    def find(name):
        if name not in found:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return found[name]

    monkeypatch.setattr(tracking, "importlib", SimpleNamespace(import_module=find))
    return found


def test_unknown_figures_are_left_out_and_names_are_fit_for_every_tracker():
    assert list_figures(
        make_epoch(1, peak_memory_bytes=3_000, pseudo_dice={"<b>liver</b>": 0.5, "Leber, übrige": None, "a:b": 0.25})
    ) == {
        "loss/training": 0.5,
        "pseudo_dice/_b_liver_/b_": 0.5,
        "pseudo_dice/a_b": 0.25,
        "learning_rate": 0.0123,
        "seconds_per_epoch": 8.04,
        "data_wait_fraction": 0.0,
        "peak_memory_bytes": 3000.0,
    }


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_on_entry(modules, tmp_path, kind):
    assert modules == {}
    with (
        pytest.raises(UsageError, match=rf"--tracking needs.*pip install {kind}$"),
        track(kind, tmp_path, "x"),
    ):
        pytest.fail("training would begin")


def test_no_tracker_writes_nothing(modules, tmp_path):
    with track(None, tmp_path / "fold_0", "x") as tell:
        tell(make_epoch(0))
    assert not (tmp_path / "fold_0").exists()


class FakeWriter:
    def __init__(self, folder, purge_step):
        self.opened = (folder, purge_step)
        self.points: list[tuple[str, float, int]] = []
        self.closed = False

    def add_scalar(self, name, value, step):
        self.points.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_gets_a_point_per_figure_and_forgets_what_is_trained_again(modules, tmp_path):
    writers: list[FakeWriter] = []

    def open_writer(folder, purge_step):
        writers.append(FakeWriter(folder, purge_step))
        return writers[-1]

    modules["torch.utils.tensorboard"] = SimpleNamespace(SummaryWriter=open_writer)
    with track("tensorboard", tmp_path, "x") as tell:
        tell(make_epoch(3, train_loss=0.25, peak_memory_bytes=3_000))
        tell(make_epoch(4, train_loss=0.2, peak_memory_bytes=3_000))
    (writer,) = writers
    assert writer.opened == (str(tmp_path / "tensorboard"), 40)
    assert [point for point in writer.points if point[0] == "loss/training"] == [
        ("loss/training", 0.25, 40), ("loss/training", 0.2, 50)
    ]  # fmt: skip
    assert len(writer.points) == 12
    assert writer.closed


def real(module):
    pytest.importorskip(module)
    return importlib.import_module(module)


class FakeClient:
    """A store of runs by id; the latest is found first."""

    def __init__(self, runs):
        self.runs = runs

    def search_runs(self, _experiments, max_results):
        return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run in reversed(self.runs)][:max_results]

    def create_run(self, _experiment, run_name):
        run = f"{run_name}, run {len(self.runs)}"
        self.runs[run] = {"status": "RUNNING", "points": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=run))

    def update_run(self, run, status):
        self.runs[run]["status"] = status

    set_terminated = update_run

    def log_batch(self, run, points):
        assert self.runs[run]["status"] == "RUNNING"
        self.runs[run]["points"] += points


def test_mlflow_goes_on_in_its_last_run_but_not_after_a_restart(modules, tmp_path):
    runs: dict[str, dict[str, Any]] = {}
    opened = []

    def open_client(tracking_uri):
        opened.append(tracking_uri)
        return FakeClient(runs)

    modules["mlflow"] = SimpleNamespace(
        MlflowClient=open_client,
        entities=SimpleNamespace(Metric=lambda name, value, _time, step: (name, value, step)),
    )
    for epochs in ([0, 1], [2], [0]):
        with track("mlflow", tmp_path / "fold_0", "a") as tell:
            for epoch in epochs:
                tell(make_epoch(epoch))
    failing = track("mlflow", tmp_path / "fold_0", "a")
    failing.__enter__()(make_epoch(0))
    assert not failing.__exit__(KeyError, KeyError("a"), None)
    assert set(opened) == {f"sqlite:///{tmp_path / 'fold_0' / 'mlflow.db'}"}
    assert [run["status"] for run in runs.values()] == ["FINISHED", "FINISHED", "FAILED"]
    steps = [[step for name, _, step in run["points"] if name == "loss/training"] for run in runs.values()]
    assert steps == [[10, 20, 30], [10], [10]]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of other packages, whose versions are free
def test_real_tensorboard_files_hold_each_step_once(tmp_path):
    real("tensorboard")
    accumulator = real("tensorboard.backend.event_processing.event_accumulator")
    for epochs in ([0, 1, 2], [2, 3]):  # killed after epoch 2, resumed after epoch 1
        with track("tensorboard", tmp_path, "x") as tell:
            for epoch in epochs:
                tell(make_epoch(epoch))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("pseudo_dice/liver")] == [10, 20, 30, 40]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of other packages, whose versions are free
def test_a_resumed_training_goes_on_in_its_real_mlflow_run(tmp_path):
    mlflow = real("mlflow")
    for epochs in ([0, 1], [2], [0]):  # the last one is a restart
        with track("mlflow", tmp_path / "fold_0", "3d_fullres fold 0") as tell:
            for epoch in epochs:
                tell(make_epoch(epoch))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'fold_0' / 'mlflow.db'}")
    restarted, first = client.search_runs(["0"])
    assert first.info.run_name == "3d_fullres fold 0"
    assert (first.info.status, restarted.info.status) == ("FINISHED", "FINISHED")
    points = client.get_metric_history(first.info.run_id, "loss/training")
    assert [(point.step, round(point.value, 4)) for point in points] == [(10, 1.0), (20, 0.5), (30, 0.3333)]
    assert len(client.get_metric_history(restarted.info.run_id, "loss/training")) == 1
