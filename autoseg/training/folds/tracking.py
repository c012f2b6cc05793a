"""An epoch's figures for TensorBoard or MLflow, besides the log: one point per figure and epoch, over steps.

Everything stays in files beside the fold's log; nothing is sent anywhere by autoseg.
"""

import importlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from autoseg.errors import UsageError
from autoseg.records.checkpoint import EpochHistory

ONLY_EXPERIMENT = "0"
"""MLflow's first experiment; every fold has a database of its own."""

_FORBIDDEN = re.compile(r"[^\w\-. /]")
"""What MLflow does not take in the name of a figure."""


def track(
    kind: Literal["tensorboard", "mlflow"] | None, folder: Path, name: str
) -> AbstractContextManager[Callable[[EpochHistory], None]]:
    """Open a tracker; a resumed training continues its earlier curves.

    Args:
        kind: None: no tracker.
        folder: Folder of the fold; TensorBoard's files go into `tensorboard` there, MLflow's into `mlflow.db`.
        name: Of MLflow's run.

    Returns:
        A context manager that gives a function to call after each epoch; it raises UsageError on entry if the tracker
        is not installed.
    """
    match kind:
        case None:
            return nullcontext(_ignore)
        case "tensorboard":
            return _track_in_tensorboard(folder / "tensorboard")
        case "mlflow":
            return _track_in_mlflow(folder / "mlflow.db", name)


def list_figures(line: EpochHistory) -> dict[str, float]:
    """The figures of an epoch by the names that trackers show; unknown and non-finite ones are left out."""
    figures = {
        "loss/training": line.train_loss,
        "loss/validation": line.validation_loss,
        **{f"pseudo_dice/{label}": dice for label, dice in line.pseudo_dice.items()},
        "learning_rate": line.learning_rate,
        "seconds_per_epoch": line.seconds,
        "data_wait_fraction": line.data_wait_fraction,
        "peak_memory_bytes": line.peak_memory_bytes,
    }
    return {
        _FORBIDDEN.sub("_", name): float(value)
        for name, value in figures.items()
        if value is not None and math.isfinite(value)
    }


def _ignore(_line: EpochHistory) -> None:
    pass


@contextmanager
def _track_in_tensorboard(folder: Path) -> Iterator[Callable[[EpochHistory], None]]:
    tensorboard = _import("torch.utils.tensorboard", package="tensorboard")
    writers: list[Any] = []

    def record(line: EpochHistory) -> None:
        if not writers:  # points from here on are those of an epoch that a kill or a restart has undone
            writers.append(tensorboard.SummaryWriter(str(folder), purge_step=line.step))
        for figure, value in list_figures(line).items():
            writers[0].add_scalar(figure, value, line.step)
        writers[0].flush()

    try:
        yield record
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def _track_in_mlflow(database: Path, name: str) -> Iterator[Callable[[EpochHistory], None]]:
    # it sends telemetry by default, which hospital networks must not
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = _import("mlflow", package="mlflow")
    database.parent.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{database.resolve()}")
    earlier = [run.info.run_id for run in client.search_runs([ONLY_EXPERIMENT], max_results=1)]  # the latest
    runs: list[str] = []

    def record(line: EpochHistory) -> None:
        if not runs:
            goes_on = line.epoch > 0 and earlier
            runs.append(earlier[0] if goes_on else client.create_run(ONLY_EXPERIMENT, run_name=name).info.run_id)
            client.update_run(runs[0], status="RUNNING")
        now = int(1000 * time.time())
        figures = list_figures(line).items()
        client.log_batch(runs[0], [mlflow.entities.Metric(figure, value, now, line.step) for figure, value in figures])

    status = "FAILED"
    try:
        yield record
        status = "FINISHED"
    finally:
        for run in runs:
            client.set_terminated(run, status)


def _import(module: str, *, package: str) -> Any:  # noqa: ANN401 (neither package has to be installed)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--tracking needs a package that is not installed ({error}); pip install {package}"
        ) from error
