"""Trainings that are killed, stopped, or shared by several processes end with the weights of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from autoseg.errors import UsageError
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.stages import train
from autoseg.stages.train import train_fold
from autoseg.training.distributed import Ranks
from autoseg.training.options import TrainingOptions
from tests.training.small_folds import (
    NAME,
    SHORT,
    change_schedule,
    equal,
    shrink_plan,
    snapshot,
    weights,
)


@pytest.fixture(autouse=True)
def tiny(workspace):
    shrink_plan(workspace)


def test_more_devices_than_processes_are_refused(workspace):
    with pytest.raises(UsageError, match=r"2 devices are requested, but 1 process.*--devices 2"):
        train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(SHORT), "devices": 2}))


def test_a_batch_cannot_be_shared_by_more_processes_than_it_has_samples(workspace, monkeypatch):
    monkeypatch.setattr(train, "join_ranks", lambda _device: nullcontext(Ranks(0, 3)))
    with pytest.raises(UsageError, match="3 devices cannot share a batch of 2 samples"):
        train_fold(workspace, NAME, "0", SHORT)


def plan_for_two_devices(workspace):
    plan = read_record(Plan, workspace.plan)
    write_record(plan.model_copy(update={"budget": plan.budget.model_copy(update={"devices": 2})}), workspace.plan)


def test_a_process_alone_does_not_train_what_was_planned_for_two_devices(workspace):
    plan_for_two_devices(workspace)
    with pytest.raises(UsageError, match=r"plan is for 2 devices.*but 1 process\(es\) run.*autoseg train"):
        train_fold(workspace, NAME, "0", SHORT)


@pytest.mark.slow
def test_the_processes_of_a_plan_for_two_devices_train_together(workspace):
    plan_for_two_devices(workspace)
    command = [
        sys.executable, "-m", "autoseg", "train", str(workspace.root), "-c", NAME, "-f", "0", "--device", "cpu", "-j",
        "0", "--steps-per-epoch", "2", "--epochs", "1",
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "processes: 2" in ran.stderr
    assert (workspace.fold(NAME, "0") / "checkpoint_final.safetensors").exists()


SCRIPT = """
import sys
from pathlib import Path
from autoseg.records.workspace import Workspace
from autoseg.stages.train import train_fold
from autoseg.training.options import TrainingOptions
from autoseg.training.folds import training
training.SECONDS_BETWEEN_CHECKPOINTS = 0.0
workers, epochs = map(int, sys.argv[2:])
options = TrainingOptions(device="cpu", precision="fp32", epochs=epochs, steps_per_epoch=3, workers=workers)
if __name__ == "__main__":
    checkpoint = train_fold(Workspace(Path(sys.argv[1])), "3d_fullres", "0", options)
    sys.exit(0 if checkpoint.finished else 1)
"""


def run_script(workspace, workers, epochs):
    command = [sys.executable, "-c", SCRIPT, str(workspace.root), str(workers), str(epochs)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def run_devices(workspace, count, *options):
    command = [
        sys.executable, "-m", "autoseg", "train", str(workspace.root), "-c", NAME, "-f", "0", "--device", "cpu",
        "--precision", "fp32", "--devices", str(count), "-j", "0", "--steps-per-epoch", "3", "--epochs", "6", *options,
    ]  # fmt: skip
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, stdout=pipe, stderr=same, text=True, start_new_session=True)


def wait_for_history(process, workspace, lines):
    path = workspace.fold(NAME, "0") / "history.jsonl"
    deadline = time.monotonic() + 180
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert process.poll() is None, f"the training ended with {process.returncode}"
        assert time.monotonic() < deadline, "the training never got this far"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "decay", "epochs", "stops"),
    [
        pytest.param(0, None, 18, [(4, signal.SIGTERM, 1), (8, signal.SIGKILL, -signal.SIGKILL)], id="twice"),
        pytest.param(2, 0.9, 30, [(1, signal.SIGKILL, -signal.SIGKILL)], id="at-any-moment"),
    ],
)
def test_a_killed_training_goes_on_to_the_very_same_weights(workspace, workers, decay, epochs, stops):
    change_schedule(workspace, weight_average_decay=decay)
    process = run_script(workspace, workers, epochs)
    _, log = process.communicate()
    assert process.returncode == 0, log
    whole = weights(workspace)
    for path in sorted(workspace.fold(NAME, "0").glob("*.*")):
        path.unlink()

    seed = random.SystemRandom().randrange(10**6)
    for lines, number, code in stops:
        process = run_script(workspace, workers, epochs)
        wait_for_history(process, workspace, lines)
        time.sleep(random.Random(seed).uniform(0.0, 0.7) if len(stops) == 1 else 0.0)
        os.kill(process.pid, number)
        process.communicate()
        assert process.returncode == code, f"seed of the delay: {seed}"
        assert not (workspace.fold(NAME, "0") / "checkpoint_final.safetensors").exists()

    process = run_script(workspace, workers, epochs)
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert equal(whole, weights(workspace)), f"seed of the delay: {seed}"


def first_child(process):
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("find", "number", "code", "devices"),
    [
        (lambda process: process.pid, signal.SIGTERM, 143, 1),
        (lambda process: process.pid, signal.SIGKILL, -signal.SIGKILL, 2),
        (first_child, signal.SIGKILL, 1, 1),
    ],
    ids=["launcher-SIGTERM", "launcher-SIGKILL", "process-SIGKILL"],
)
def test_several_processes_are_stopped_and_others_go_on(workspace, find, number, code, devices):
    process = run_devices(workspace, 2, "--epochs", "500")
    wait_for_history(process, workspace, 2)
    os.kill(find(process), number)
    log, _ = process.communicate(timeout=120)  # its children have ended as well: they hold the same pipe
    assert process.returncode == code, log
    folder = workspace.fold(NAME, "0")
    assert not (folder / "checkpoint_final.json").exists()
    assert (folder / "log.txt").read_text().count("training 3d_fullres, fold 0") == 1
    stopped, finished = 0, 0  # a process that is killed itself writes nothing more
    if find is not first_child:
        checkpoint = read_record(Checkpoint, folder / "checkpoint_last.json")
        stopped, finished = checkpoint.step, checkpoint.epoch
        assert stopped >= 6, log
        assert 0 <= stopped - 3 * finished <= 3, log  # 3: between the last step of an epoch and its end

    epochs = stopped // 3 + 2
    process = run_devices(workspace, devices, "--epochs", str(epochs))
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert (f"resuming after epoch {finished}, step {stopped}" in log) is (stopped > 0)
    assert read_record(Checkpoint, folder / "checkpoint_final.json").step == 3 * epochs > stopped


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed, so nothing is refused")
def test_what_the_first_process_alone_refuses_leaves_no_process_waiting(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    folder = workspace.fold(NAME, "0")
    before = snapshot(folder)
    process = run_devices(workspace, 2, "--restart", "--tracking", "mlflow")
    log, _ = process.communicate(timeout=120)
    assert process.returncode != 0, log
    assert "--tracking needs a package that is not installed" in log
    assert snapshot(folder) == before


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(workspace):
    sgd = ("--optimizer", "sgd", "--lr", "0.01")  # Adam's steps grow out of gradients that are zero but for rounding
    process = run_devices(workspace, 1, *sgd)
    log, _ = process.communicate()
    assert process.returncode == 0, log
    alone = weights(workspace)
    process = run_devices(workspace, 2, "--restart", *sgd)
    log, _ = process.communicate()
    assert process.returncode == 0, log
    together = weights(workspace)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-4)
    assert (workspace.fold(NAME, "0") / "validation" / "evaluation.json").exists()
    assert len((workspace.fold(NAME, "0") / "history.jsonl").read_text().splitlines()) == 6


@pytest.mark.slow
def test_wrong_use_of_several_processes_has_the_exit_code_of_one(workspace):
    process = run_devices(workspace, 3)
    log, _ = process.communicate()
    assert process.returncode == 2, log
    assert "--devices 3: a batch of 3d_fullres has 2 samples" in log
