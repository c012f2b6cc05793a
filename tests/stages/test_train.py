"""A fold on the phantoms: artifacts, resuming, stopping. Networks are tiny; what they learn is not the point here."""

import json
import os
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg.errors import TrainingError, UsageError
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, Splits
from autoseg.stages import train
from autoseg.stages.train import TrainingOptions, train_fold

NAME = "3d_fullres"
SHORT = TrainingOptions(device="cpu", precision="fp32", epochs=2, steps_per_epoch=3, workers=0)


@pytest.fixture(autouse=True)
def tiny(workspace):
    """Four features and a small patch, so that a step takes milliseconds."""
    plan = read_record(Plan, workspace.plan)
    configuration = plan.configurations[NAME]
    network = configuration.network.model_copy(
        update={
            "features": (4, 8),
            "strides": ((1, 1, 1), (1, 2, 2)),
            "kernel_sizes": ((1, 3, 3), (3, 3, 3)),
            "encoder_blocks": (1, 1),
            "decoder_blocks": (1,),
        }
    )
    training = configuration.training.model_copy(update={"validation_steps": 1, "time_per_fold_seconds": None})
    changed = configuration.model_copy(
        update={"network": network, "training": training, "patch_size": (8, 16, 16), "batch_size": 2}
    )
    write_record(plan.model_copy(update={"configurations": {NAME: changed}}), workspace.plan)


def weights(workspace, fold="0"):
    return load_file(workspace.fold(NAME, fold) / "checkpoint_final.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_fold_leaves_what_the_design_promises(workspace):
    checkpoint = train_fold(workspace, NAME, "0", SHORT)
    folder = workspace.fold(NAME, "0")
    assert checkpoint.finished
    assert checkpoint.step == 6
    for name in ("checkpoint_last", "checkpoint_final"):
        assert (folder / f"{name}.safetensors").exists()
        assert read_record(Checkpoint, folder / f"{name}.json").step == 6
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert "epoch 1" in (folder / "log.txt").read_text()
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0].keys() >= {
        "epoch", "step", "seconds", "data_wait_fraction", "train_loss", "validation_loss", "pseudo_dice",
        "learning_rate",
    }  # fmt: skip


def test_validation_cases_are_scored_on_their_own_grid(workspace, phantom_dataset):
    train_fold(workspace, NAME, "0", SHORT)
    folder = workspace.fold(NAME, "0") / "validation"
    held_out = read_record(Splits, workspace.splits).folds[0].validation
    evaluation = read_record(Evaluation, folder / "evaluation.json")
    assert tuple(case.case for case in evaluation.cases) == held_out
    assert evaluation.labels.keys() == {"body", "core", "rod"}
    for case in evaluation.cases:
        predicted = nibabel.load(folder / f"{case.case}.nii.gz")
        reference = nibabel.load(phantom_dataset / "labelsTr" / f"{case.case}.nii.gz")
        np.testing.assert_allclose(predicted.affine, reference.affine)
        predicted, reference = np.asarray(predicted.dataobj), np.asarray(reference.dataobj)
        both = np.count_nonzero((predicted == 1) & (reference == 1))
        total = np.count_nonzero(predicted == 1) + np.count_nonzero(reference == 1)
        assert case.labels["body"].dice == pytest.approx(2 * both / total)


def test_the_same_seed_gives_the_same_weights(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    first = weights(workspace)
    train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(SHORT), "restart": True}))
    assert equal(first, weights(workspace))


def test_a_finished_fold_is_not_trained_again(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    first = weights(workspace)
    assert train_fold(workspace, NAME, "0", SHORT).step == 6
    assert equal(first, weights(workspace))


def test_more_epochs_go_on_from_the_end(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    longer = train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(SHORT), "epochs": 3}))
    assert longer.step == 9
    assert longer.epoch == 3


def test_fold_all_uses_every_case_and_validates_none(workspace):
    train_fold(workspace, NAME, "all", SHORT)
    assert not (workspace.fold(NAME, "all") / "validation").exists()


@pytest.mark.parametrize("fold", ["7", "-1", "first"])
def test_an_unknown_fold_lists_the_known_ones(workspace, fold):
    with pytest.raises(UsageError, match=r"does not exist.*0, 1, 2, all"):
        train_fold(workspace, NAME, fold, SHORT)


def test_an_unknown_configuration_lists_the_known_ones(workspace):
    with pytest.raises(UsageError, match="no configuration '4d'; it has 3d_fullres"):
        train_fold(workspace, "4d", "0", SHORT)


def test_a_checkpoint_of_another_network_says_what_to_do(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    plan = read_record(Plan, workspace.plan)
    configuration = plan.configurations[NAME]
    network = configuration.network.model_copy(update={"features": (4, 6)})
    changed = configuration.model_copy(update={"network": network})
    write_record(plan.model_copy(update={"configurations": {NAME: changed}}), workspace.plan)
    with pytest.raises(TrainingError, match=r"another plan.*--restart"):
        train_fold(workspace, NAME, "0", SHORT)


def test_a_fold_of_another_plan_is_not_taken_for_this_one(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    plan = read_record(Plan, workspace.plan)
    write_record(plan.model_copy(update={"orientation": "as_stored"}), workspace.plan)
    with pytest.raises(TrainingError, match=r"another plan.*--restart"):
        train_fold(workspace, NAME, "0", SHORT)
    assert train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(SHORT), "restart": True})).finished


def test_a_fold_of_other_training_cases_is_not_taken_for_this_one(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    splits = read_record(Splits, workspace.splits)
    write_record(splits.model_copy(update={"folds": splits.folds[1:]}), workspace.splits)
    with pytest.raises(TrainingError, match=r"other training cases.*--restart"):
        train_fold(workspace, NAME, "0", SHORT)


def test_a_restart_forgets_the_old_results_at_once(workspace, monkeypatch):
    train_fold(workspace, NAME, "0", SHORT)
    monkeypatch.setattr(train, "train_until_done", lambda *_, **__: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(SHORT), "restart": True}))
    assert not list(workspace.fold(NAME, "0").glob("checkpoint_*"))
    assert not list((workspace.fold(NAME, "0") / "validation").iterdir())


def test_a_missing_dataset_is_said_before_training(workspace):
    (workspace.root.parent / "phantoms").unlink()
    with pytest.raises(UsageError, match="the dataset is not there"):
        train_fold(workspace, NAME, "0", SHORT)


def test_cases_that_are_not_preprocessed_are_said_before_training(workspace):
    case = read_record(Splits, workspace.splits).folds[0].training[0]
    (workspace.preprocessed(NAME) / f"{case}.json").unlink()
    with pytest.raises(UsageError, match=f"1 cases are not preprocessed, {case} first.*autoseg-plan"):
        train_fold(workspace, NAME, "0", SHORT)


def test_a_time_that_cannot_be_kept_is_refused_before_training(workspace):
    with pytest.raises(TrainingError, match="too few"):
        train_fold(workspace, NAME, "0", TrainingOptions(device="cpu", max_time_seconds=1.0))


SCRIPT = """
import sys
from pathlib import Path
from autoseg.records.workspace import Workspace
from autoseg.stages.train import TrainingOptions, train_fold
from autoseg.training import fold
fold.SECONDS_BETWEEN_CHECKPOINTS = 0.0
options = TrainingOptions(device="cpu", precision="fp32", epochs=12, steps_per_epoch=3, workers=0)
checkpoint = train_fold(Workspace(Path(sys.argv[1])), "3d_fullres", "0", options)
sys.exit(0 if checkpoint.finished else 1)
"""


def run_script(workspace):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(workspace.root)], stderr=subprocess.PIPE, text=True)


def wait_for_history(workspace, lines):
    path = workspace.fold(NAME, "0") / "history.jsonl"
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, "the training never got this far"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_to_the_very_same_weights(workspace, number):
    process = run_script(workspace)
    process.communicate()
    assert process.returncode == 0
    whole = weights(workspace)
    for path in sorted(workspace.fold(NAME, "0").glob("*.*")):
        path.unlink()

    process = run_script(workspace)
    wait_for_history(workspace, 4)
    os.kill(process.pid, number)
    process.communicate()
    assert process.returncode in (-signal.SIGKILL, 1)
    assert not (workspace.fold(NAME, "0") / "checkpoint_final.safetensors").exists()

    process = run_script(workspace)
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert equal(whole, weights(workspace))
