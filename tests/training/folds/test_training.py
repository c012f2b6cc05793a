"""What a fold does when it is interrupted at an awkward moment, or when processes disagree."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from autoseg.errors import TrainingError
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.stages.train import train_fold
from autoseg.training.distributed import Ranks
from autoseg.training.folds import training
from autoseg.training.folds.final_weights import choose_final_weights
from autoseg.training.options import TrainingOptions
from autoseg.training.steps import loop
from autoseg.training.steps.pseudo_dice import PseudoDice
from tests.training.small_folds import NAME, SHORT, add_cascade, change_schedule, short, shrink_plan


@pytest.fixture(autouse=True)
def tiny(workspace):
    shrink_plan(workspace)


def test_a_long_epoch_is_saved_before_its_end(workspace, monkeypatch):
    def end(*_):
        raise RuntimeError("killed before the epoch is over")

    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(training, "validate_epoch", end)
    with pytest.raises(RuntimeError, match="killed"):
        train_fold(workspace, NAME, "0", SHORT)
    saved = read_record(Checkpoint, workspace.fold(NAME, "0") / "checkpoint_last.json")
    assert (saved.step, saved.epoch) == (3, 0)
    monkeypatch.undo()
    assert train_fold(workspace, NAME, "0", SHORT).step == 6


def test_a_stop_that_is_asked_for_at_the_very_end_is_obeyed(workspace, monkeypatch):
    def stop_and_choose(run, *arguments):
        run.stop.set()
        return choose_final_weights(run, *arguments)

    monkeypatch.setattr(training, "choose_final_weights", stop_and_choose)
    checkpoint = train_fold(workspace, NAME, "0", SHORT)
    assert not checkpoint.finished
    assert not (workspace.fold(NAME, "0") / "checkpoint_final.safetensors").exists()
    monkeypatch.undo()
    assert train_fold(workspace, NAME, "0", SHORT).finished


def test_processes_that_see_different_checkpoints_are_refused(workspace, monkeypatch):
    train_fold(workspace, NAME, "0", SHORT)
    monkeypatch.setattr(Ranks, "broadcast_numbers", lambda _self, _numbers: [2.0])
    with pytest.raises(TrainingError, match=r"after step 2, process 1 after step 6.*one workspace"):
        train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(SHORT), "epochs": 3}))


def test_a_cascade_does_not_go_on_with_other_label_maps(workspace):
    add_cascade(workspace)
    for number in ("0", "1", "2"):
        train_fold(workspace, NAME, number, SHORT)
    train_fold(workspace, "3d_cascade_fullres", "0", SHORT)
    train_fold(workspace, "3d_cascade_fullres", "0", SHORT)  # finished, and still valid
    train_fold(workspace, NAME, "1", TrainingOptions(**{**vars(SHORT), "restart": True, "seed": 3}))
    with pytest.raises(TrainingError, match=r"other label maps of its previous configuration.*--restart"):
        train_fold(workspace, "3d_cascade_fullres", "0", SHORT)


@pytest.mark.parametrize("stopped_epoch", [0, 1])
def test_a_stop_during_the_validation_on_patches_records_no_part_of_it(workspace, monkeypatch, stopped_epoch):
    """The epoch is validated by the resumed training, as if nothing had happened; also the last one."""

    def figures():
        lines = [json.loads(line) for line in (workspace.fold(NAME, "0") / "history.jsonl").read_text().splitlines()]
        names = ("epoch", "step", "train_loss", "validation_loss", "pseudo_dice", "learning_rate")
        return [{name: line[name] for name in names} for line in lines]

    change_schedule(workspace, validation_steps=6)
    train_fold(workspace, NAME, "0", SHORT)
    undisturbed = figures()
    best = load_file(workspace.fold(NAME, "0") / "checkpoint_best.safetensors")

    batches: list[Tensor] = []

    class Stopping(PseudoDice):
        """The user stops the training while the second batch of an epoch's validation is counted."""

        @override
        def add(self, logits, target):
            super().add(logits, target)
            batches.append(target)
            if len(batches) == 6 * stopped_epoch + 2:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop, "PseudoDice", Stopping)
    stopped = train_fold(workspace, NAME, "0", short(restart=True))
    assert (stopped.finished, stopped.epoch, stopped.step) == (False, stopped_epoch, 3 * stopped_epoch + 3)
    assert len(batches) == 6 * stopped_epoch + 2
    monkeypatch.undo()
    assert train_fold(workspace, NAME, "0", SHORT).finished
    assert figures() == undisturbed
    resumed = load_file(workspace.fold(NAME, "0") / "checkpoint_best.safetensors")
    assert all(torch.equal(best[name], resumed[name]) for name in best)
