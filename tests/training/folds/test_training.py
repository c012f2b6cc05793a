"""What a fold does when it is interrupted at an awkward moment, or when processes disagree."""

import json
import logging
import signal
from itertools import count, groupby

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from autoseg.errors import TrainingError
from autoseg.records.checkpoint import Checkpoint, CompilingTrial
from autoseg.records.files import read_record
from autoseg.records.training import GrowingPatch
from autoseg.stages import train as training_stage
from autoseg.stages.train import train_fold
from autoseg.training.distributed import Ranks
from autoseg.training.folds import training
from autoseg.training.folds.final_weights import choose_final_weights
from autoseg.training.options import TrainingOptions
from autoseg.training.steps import compiling, gradients, loop, setup
from autoseg.training.steps.pseudo_dice import PseudoDice
from autoseg.training.steps.run import Clock
from tests.training.small_folds import (
    NAME,
    SHORT,
    add_cascade,
    add_interactive,
    change_schedule,
    equal,
    give_point_head,
    killed_at,
    short,
    shrink_plan,
    weights,
)


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


def test_what_learns_from_clicks_resumes_to_the_very_same_weights(workspace, monkeypatch):
    add_interactive(workspace)
    for number in ("0", "1", "2"):
        train_fold(workspace, NAME, number, short(epochs=1, steps_per_epoch=1))
    monkeypatch.setattr(training_stage, "_score_validation_cases", lambda *_: None)  # whole volumes take seconds
    train_fold(workspace, "interactive", "0", SHORT)
    whole = weights(workspace, name="interactive")
    with killed_at(4, monkeypatch):
        train_fold(workspace, "interactive", "0", short(restart=True))
    assert train_fold(workspace, "interactive", "0", SHORT).step == 6
    assert equal(weights(workspace, name="interactive"), whole)


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


@pytest.mark.parametrize("compiled", [False, True])
def test_a_training_that_resumes_is_compiled_as_when_it_began(workspace, monkeypatch, caplog, compiled):
    """The trial is made once, its figures stay in every checkpoint."""
    trials, compilations = [], []

    def try_once(network, image, settings):
        assert image.shape == (2, 1, 8, 16, 16)
        trials.append((settings.steps_left, settings.seconds_left))
        return network, CompilingTrial(compiled=compiled, device="cpu", steps_left=900, step_seconds=0.25)

    def compile_again(network, _image, _precision):
        compilations.append(network)
        return network

    def end(*_):
        raise RuntimeError("killed")

    caplog.set_level(logging.INFO, "autoseg.train")
    monkeypatch.setattr(setup, "try_compiling", try_once)
    monkeypatch.setattr(setup, "compile_network", compile_again)
    monkeypatch.setattr(compiling, "TRIED_ON", {"cpu"})
    monkeypatch.setattr(compiling, "USUAL_SECONDS", 0.0)
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    options = short(epochs=None, max_time_seconds=60.0)
    with monkeypatch.context() as patches:
        patches.setattr(training, "validate_epoch", end)
        with pytest.raises(RuntimeError, match="killed"):
            train_fold(workspace, NAME, "0", options)
    saved = read_record(Checkpoint, workspace.fold(NAME, "0") / "checkpoint_last.json")
    assert saved.compiling == CompilingTrial(compiled=compiled, device="cpu", steps_left=900, step_seconds=0.25)
    assert len(trials) == 1
    assert 0.0 < trials[0][1] <= 60.0
    monkeypatch.setattr(training, "validate_epoch", lambda run, *_: run.stop.set() or run.stopped.set() or (None, {}))
    again = train_fold(workspace, NAME, "0", options)
    assert (len(trials), len(compilations)) == (1, int(compiled))
    assert again.compiling == saved.compiling
    assert f"{'compiled' if compiled else 'not compiled'}, as when the training began" in caplog.messages


def test_a_training_on_a_cpu_measures_nothing(workspace, monkeypatch):
    """Its weights follow from plan, options and seed."""
    monkeypatch.setattr(setup, "try_compiling", None)
    monkeypatch.setattr(compiling, "MIN_STEPS", 0)
    monkeypatch.setattr(setup, "compile_network", None)
    assert train_fold(workspace, NAME, "0", SHORT).compiling is None
    assert "compiling" not in (workspace.fold(NAME, "0") / "checkpoint_final.json").read_text()


GROWING = (
    GrowingPatch(patch_size=(1, 4, 2), batch_size=6, until=0.3, cost_fraction=0.25),
    GrowingPatch(patch_size=(4, 8, 8), batch_size=3, until=0.7, cost_fraction=0.5),
)
"""Of ten steps three, four, and three with the own patch of the small plan."""

TEN_STEPS = short(epochs=2, steps_per_epoch=5)


def record_shapes(monkeypatch):
    """Shape of the image of every training step."""
    shapes = []
    compute = gradients.compute_gradients

    def compute_and_record(run, image, *arguments):
        shapes.append(tuple(image.shape))
        return compute(run, image, *arguments)

    monkeypatch.setattr(loop, "compute_gradients", compute_and_record)
    return shapes


def test_patches_grow_by_steps_and_validation_has_the_own_patch(workspace, monkeypatch, caplog):
    change_schedule(workspace, growing_patches=GROWING)
    shapes, validated, add = record_shapes(monkeypatch), set(), PseudoDice.add

    def add_and_record(self, logits, target):
        validated.add(tuple(target.shape))
        add(self, logits, target)

    monkeypatch.setattr(PseudoDice, "add", add_and_record)
    with caplog.at_level("INFO", "autoseg"):
        train_fold(workspace, NAME, "0", TEN_STEPS)
    assert shapes == [(6, 1, 1, 4, 2)] * 3 + [(3, 1, 4, 8, 8)] * 4 + [(2, 1, 8, 16, 16)] * 3
    assert validated == {(2, 8, 16, 16)}
    assert [message for message in caplog.messages if message.startswith("patches of")] == [
        "patches of 1 x 4 x 2 voxels, 6 per step, from step 0 on",
        "patches of 4 x 8 x 8 voxels, 3 per step, from step 3 on",
        "patches of 8 x 16 x 16 voxels, 2 per step, from step 7 on",
    ]
    lines = [json.loads(line) for line in (workspace.fold(NAME, "0") / "history.jsonl").read_text().splitlines()]
    assert [line.get("patch_size") for line in lines] == [[4, 8, 8], None]
    assert any(message.startswith("epoch 0") and "patch 4 x 8 x 8" in message for message in caplog.messages)


@pytest.mark.parametrize("step", [1, 3, 5, 8])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_that_stops_while_patches_grow_resumes_to_the_very_same_weights(
    workspace, monkeypatch, step, workers
):
    """Stopped by a signal within a patch and where it changes; and killed without a last checkpoint."""
    change_schedule(workspace, growing_patches=GROWING)
    options = TrainingOptions(**{**vars(TEN_STEPS), "workers": workers})
    train_fold(workspace, NAME, "0", options)
    whole = weights(workspace)
    save = training._save_now_and_then

    def stop(fold, state):
        save(fold, state)
        if state.run.step == step:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_save_now_and_then", stop)
        checkpoint = train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(options), "restart": True}))
    assert (checkpoint.step, checkpoint.finished) == (step, False)
    assert train_fold(workspace, NAME, "0", options).step == 10
    assert equal(weights(workspace), whole)


def test_a_training_that_was_killed_while_patches_grew_resumes_to_the_very_same_weights(workspace, monkeypatch):
    change_schedule(workspace, growing_patches=GROWING)
    train_fold(workspace, NAME, "0", TEN_STEPS)
    whole = weights(workspace)
    with monkeypatch.context() as patched, killed_at(5, patched):
        patched.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(TEN_STEPS), "restart": True}))
    assert train_fold(workspace, NAME, "0", TEN_STEPS).step == 10
    assert equal(weights(workspace), whole)


def test_a_training_with_points_that_was_killed_resumes_to_the_very_same_weights(workspace, monkeypatch):
    give_point_head(workspace)
    train_fold(workspace, NAME, "0", SHORT)
    whole = weights(workspace)
    with killed_at(4, monkeypatch):
        train_fold(workspace, NAME, "0", short(restart=True))
    assert train_fold(workspace, NAME, "0", SHORT).step == 6
    assert equal(weights(workspace), whole)
    train_fold(workspace, NAME, "0", short(restart=True, seed=1))
    assert not equal(weights(workspace), whole)


def test_a_clock_decides_on_the_patch_where_time_is_promised(workspace, monkeypatch):
    """Every look at the clock shows two percent more; an epoch has as many steps as cost so much as planned ones."""
    change_schedule(workspace, growing_patches=GROWING, time_per_fold_seconds=1e6, epochs=30, steps_per_epoch=2)
    shapes = record_shapes(monkeypatch)
    ticks = count()
    monkeypatch.setattr(Clock, "elapsed", lambda self: self.limit_seconds * 0.02 * next(ticks))
    train_fold(workspace, NAME, "0", TrainingOptions(device="cpu", precision="fp32", workers=0))
    kinds = [shape for shape, _ in groupby(shapes)]
    assert kinds == [(6, 1, 1, 4, 2), (3, 1, 4, 8, 8), (2, 1, 8, 16, 16)]
    lines = [json.loads(line) for line in (workspace.fold(NAME, "0") / "history.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 8  # two planned steps, of which each small one counts a quarter
    steps = [line["step"] for line in lines if line.get("patch_size") is None]
    assert set(np.diff(steps[:-1]).tolist()) <= {2}


def test_only_steps_with_the_own_patch_can_earn_compiling_back(workspace, monkeypatch):
    change_schedule(workspace, growing_patches=GROWING)
    asked = []

    def refuse(_choice, _device, steps, seconds, _earlier):
        asked.append((steps, seconds))
        return False

    monkeypatch.setattr(training, "choose_compiling", refuse)
    train_fold(workspace, NAME, "0", TEN_STEPS)
    assert asked == [(3, None)]
