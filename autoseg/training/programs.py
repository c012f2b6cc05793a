"""Trainings on the workers of a Dask cluster, each in a program of its own: `autoseg train`, as a user would start it.

So a training has the signals, the memory and the device of a process, whatever the worker does beside it. It ends with
its worker, and the worker that tries it again resumes from its last checkpoint.
"""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from autoseg.cluster.dask_workers import DaskCluster, describe_failure, end_is_asked_for, threads_of_worker
from autoseg.costs.runs import Training
from autoseg.errors import TrainingError
from autoseg.locks import SECONDS_UNTIL_STALE, find_lock
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.cluster")

SECONDS_BETWEEN_LOOKS = 0.5

PROGRAM = (sys.executable, "-m", "autoseg.cli.attached")


def train_on_cluster(
    cluster: DaskCluster, workspace: Workspace, trainings: Sequence[Training], device: str
) -> Iterator[tuple[Training, str]]:
    """Train folds that do not need each other, on workers with the resource `GPU` if the cluster has any.

    Args:
        cluster: Its workers see the workspace under the same path.
        workspace: Planned and preprocessed.
        trainings: What is trained.
        device: Device on the workers: a name of `choose_device`.

    Yields:
        Each training when it is over, and why it failed, or an empty text.

    Raises:
        UsageError: If the scheduler does not answer, or no worker is left.
    """
    work = partial(train_in_program, Workspace(workspace.root.absolute()), device)
    for index, outcome in cluster.outcomes(work, trainings, task="training", on_gpus=True):
        yield trainings[index], describe_failure(outcome)


def train_in_program(workspace: Workspace, device: str, training: Training) -> None:
    """Train a fold and wait for it; runs in a worker of the cluster.

    Raises:
        TrainingError: If it failed; the message is that of the command.
    """
    _wait_for_lock(workspace.fold(training.configuration, training.fold) / "training.lock")
    words = ["train", str(workspace.root), "-c", training.configuration, "-f", training.fold, "--device", device, "-q"]
    code, messages = run_attached([*PROGRAM, *words], threads_of_worker(), end_is_asked_for)
    if code != 0:
        message = messages.rpartition("autoseg train: ")[2].strip()
        raise TrainingError(message or f"the training ended with exit code {code} and without a message")


def run_attached(command: Sequence[str], threads: int, should_end: Callable[[], bool]) -> tuple[int, str]:
    """Run a program that ends when its standard input is closed.

    Args:
        command: Program and arguments.
        threads: Threads that its libraries compute with.
        should_end: Asked again and again, while it runs.

    Returns:
        Its exit code, and what it wrote to its standard error.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile() as messages:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages, env=environment
        ) as process:
            while process.poll() is None:
                if should_end() and process.stdin is not None:
                    process.stdin.close()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        messages.seek(0)
        return process.returncode, messages.read().decode(errors="replace")


def _wait_for_lock(path: Path) -> None:
    """Wait until the program of a worker that died is gone too, or its lock is stale."""
    began = time.monotonic()
    while (found := find_lock(path)) is not None and not found.is_stale:
        if time.monotonic() - began > SECONDS_UNTIL_STALE + 2 * SECONDS_BETWEEN_LOOKS:
            return  # somebody else trains it, which the training says
        time.sleep(SECONDS_BETWEEN_LOOKS)
