"""A fold on the phantoms: artifacts, resuming, stopping. Networks are tiny; what they learn is not the point here."""

import json
import logging
import shutil
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg.errors import LockedError, TrainingError, UsageError
from autoseg.imaging.arrays.storage import open_case, save_case
from autoseg.locks import find_locks, lock
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, Splits
from autoseg.stages import train
from autoseg.stages.fingerprint import extract_fingerprint
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.stages.train import train_fold
from autoseg.stages.validate import validate_fold
from autoseg.training.folds import planned_data, training
from autoseg.training.folds.fold_logs import fold_log
from autoseg.training.options import TrainingOptions
from tests.training.small_folds import (
    NAME,
    SHORT,
    add_cascade,
    change_schedule,
    equal,
    short,
    shrink_plan,
    snapshot,
    weights,
)


@pytest.fixture(autouse=True)
def tiny(workspace):
    shrink_plan(workspace)


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


def test_a_training_that_was_too_short_to_learn_is_named(workspace, caplog):
    train_fold(workspace, NAME, "0", SHORT)
    evaluation = read_record(Evaluation, workspace.fold(NAME, "0") / "validation" / "evaluation.json")
    low = {name: summary.dice for name, summary in evaluation.labels.items() if (summary.dice or 0.0) < 0.2}
    assert low
    found = ", ".join(f"{name} {dice:.3f}" for name, dice in low.items())
    sentence = (
        f"{NAME}, fold 0 was trained too briefly to learn: 6 steps, Dice of validation cases below 0.2 for {found}."
    )
    (message,) = [message for message in caplog.messages if "too briefly" in message]
    assert message.startswith(sentence)


def test_a_fold_that_another_process_trains_is_refused_and_others_train_beside_it(workspace):
    with lock(workspace.training_lock(NAME, "0"), f"trained ({NAME}, fold 0)"):
        before = snapshot(workspace.root)
        with pytest.raises(LockedError, match=rf"it is being trained \({NAME}, fold 0\) by process \d+ on "):
            train_fold(workspace, NAME, "0", SHORT)
        assert snapshot(workspace.root) == before
        assert train_fold(workspace, NAME, "1", SHORT).finished
    assert train_fold(workspace, NAME, "0", SHORT).finished
    assert find_locks(workspace) == []


def test_no_fold_is_trained_while_the_workspace_is_planned(workspace):
    with lock(workspace.planning_lock, "planned"), pytest.raises(LockedError, match="it is being planned by process"):
        train_fold(workspace, NAME, "0", SHORT)
    assert not workspace.fold(NAME, "0").exists()


def flip_a_bit(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)


def test_a_flipped_bit_in_an_array_keeps_the_fold_from_training(workspace):
    case = read_record(Splits, workspace.splits).folds[0].validation[0]
    path = workspace.preprocessed(NAME) / f"{case}.b2nd"
    flip_a_bit(path, path.stat().st_size // 2)
    with pytest.raises(TrainingError, match=rf"1 of 6 preprocessed cases are damaged: {case} .*doctor .* --repair"):
        train_fold(workspace, NAME, "0", SHORT)


def test_a_fold_whose_arrays_cannot_all_be_compared_in_time_says_so(workspace, monkeypatch, caplog):
    monkeypatch.setattr(planned_data, "MAX_CHECK_SECONDS", -1.0)
    with caplog.at_level("INFO", "autoseg"):
        train_fold(workspace, NAME, "0", SHORT)
    assert any("0 of 6 preprocessed cases were compared" in message for message in caplog.messages)


def test_final_weights_with_a_flipped_bit_are_made_again(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    trained = {name: tensor.clone() for name, tensor in weights(workspace).items()}  # the file is changed below
    path = workspace.fold(NAME, "0") / "checkpoint_final.safetensors"
    flip_a_bit(path, -3)
    train_fold(workspace, NAME, "0", SHORT)
    assert equal(weights(workspace), trained)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_sentence_with_what_to_do(workspace, monkeypatch, error):
    def exhaust(*_arguments, **_options):
        raise error

    monkeypatch.setattr(train, "train_until_done", exhaust)
    with pytest.raises(TrainingError, match=rf"^{NAME}, fold 0: the memory of cpu is too small.*--memory SIZE, then "):
        train_fold(workspace, NAME, "0", SHORT)


def test_other_faults_of_a_training_stay_as_they_are(workspace, monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(train, "train_until_done", fail)
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        train_fold(workspace, NAME, "0", SHORT)


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


def test_a_killed_validation_goes_on_with_the_weights_and_cases_that_are_finished(workspace, monkeypatch):
    def end_after_one(fold, _progress):
        def end(_done, _total):
            raise KeyboardInterrupt

        return validate_fold(fold, end)

    with monkeypatch.context() as patched:
        patched.setattr(train, "validate_fold", end_after_one)
        with pytest.raises(KeyboardInterrupt):
            train_fold(workspace, NAME, "0", SHORT)
    folder = workspace.fold(NAME, "0")
    finished = [folder / "checkpoint_final.safetensors", *(folder / "validation").glob("*.nii.gz")]
    assert len(finished) == 2
    before = [path.stat().st_mtime_ns for path in finished]
    train_fold(workspace, NAME, "0", SHORT)
    assert [path.stat().st_mtime_ns for path in finished] == before
    assert (folder / "validation" / "evaluation.json").exists()


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
    write_record(plan.model_copy(update={"channel_names": ("another",)}), workspace.plan)
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
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        train_fold(workspace, NAME, "0", TrainingOptions(**{**vars(SHORT), "restart": True}))
    assert not list(workspace.fold(NAME, "0").glob("checkpoint_*"))
    assert not list((workspace.fold(NAME, "0") / "validation").iterdir())


def test_a_refused_command_leaves_a_finished_fold_as_it_is(workspace, monkeypatch, tmp_path):
    train_fold(workspace, NAME, "0", SHORT)
    folder = workspace.fold(NAME, "0")
    before = snapshot(folder)
    assert {"checkpoint_final.safetensors", "checkpoint_last.safetensors", "evaluation.json", "history.jsonl"} <= {
        path.name for path in before
    }
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    refused: Mapping[str, TrainingOptions] = {
        "--tracking needs a package": short(restart=True, tracking="tensorboard"),
        "1 s are too few": TrainingOptions(device="cpu", restart=True, max_time_seconds=1.0),
        "neither a workspace nor a fold's folder": short(restart=True, pretrained=tmp_path),
        "was trained with loss dice_ce, and ce is requested now": short(epochs=50, loss="ce"),
    }
    for message, options in refused.items():
        with pytest.raises((UsageError, TrainingError), match=message):
            train_fold(workspace, NAME, "0", options)
        assert snapshot(folder) == before, message

    plan = read_record(Plan, workspace.plan)
    spacing = tuple(2 * edge for edge in plan.configurations[NAME].spacing)
    changed = plan.configurations[NAME].model_copy(update={"spacing": spacing})
    write_record(plan.model_copy(update={"configurations": {NAME: changed}}), workspace.plan)
    with pytest.raises(UsageError, match="preprocessed for another plan"):
        train_fold(workspace, NAME, "0", short(restart=True))
    assert snapshot(folder) == before


OTHER_TRAININGS: list[tuple[dict[str, object], str]] = [
    ({"loss": "ce"}, r"with loss dice_ce, and ce is requested now"),
    ({"optimizer": "sgd"}, r"with optimizer adamw, and sgd is requested now"),
    ({"mirror_axes": ()}, r"with mirror_axes \(1, 2\), and \(\) is requested now"),
    ({"weight_average_decay": 0.5}, r"with weight_average_decay None, and 0.5 is requested now"),
    ({"seed": 1, "loss": "ce"}, r"with loss .* requested now; with seed 0, and 1 is requested now"),
]


@pytest.fixture
def trained_otherwise(workspace, caplog):
    """A finished fold whose plan has changed since: what was trained is not what would be trained now."""
    change_schedule(workspace, optimizer="adamw", mirror_axes=(1, 2), learning_rate=0.01, warmup_fraction=0.0)
    train_fold(workspace, NAME, "0", SHORT)
    caplog.set_level(logging.INFO, "autoseg.train")
    caplog.clear()
    return workspace


def test_another_training_is_not_taken_for_the_one_that_was(trained_otherwise):
    for epochs, (changes, message) in product((1, 2, 3), OTHER_TRAININGS):  # fewer, as many, and more than were trained
        with pytest.raises(TrainingError, match=rf"was trained {message}.*--restart"):
            train_fold(trained_otherwise, NAME, "0", short(epochs=epochs, **changes))


def test_what_the_plan_says_now_matters_to_an_unfinished_fold_only(trained_otherwise, caplog):
    change_schedule(trained_otherwise, optimizer="sgd", mirror_axes=())
    before = snapshot(trained_otherwise.fold(NAME, "0"))
    assert train_fold(trained_otherwise, NAME, "0", SHORT).training.optimizer == "adamw"
    assert snapshot(trained_otherwise.fold(NAME, "0")) == before
    assert caplog.messages == [
        "3d_fullres, fold 0 is trained and validated; --restart trains it again",
        "it stays as it was trained, with optimizer adamw (now it would be sgd), "
        "mirror_axes (1, 2) (now it would be ())",
    ]
    with pytest.raises(
        TrainingError, match=r"with optimizer adamw, .*; with mirror_axes \(1, 2\), and \(\) is requested"
    ):
        train_fold(trained_otherwise, NAME, "0", short(epochs=3))


def test_options_that_come_too_late_are_said(trained_otherwise, caplog, tmp_path):
    train_fold(trained_otherwise, NAME, "0", short(learning_rate=0.5, warmup_fraction=0.0, pretrained=tmp_path))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "learning_rate 0.5 is ignored: training of the fold is complete, with 0.01; --restart trains it again",
        "--pretrained is ignored: training of the fold is complete; --restart trains it again",
    ]
    caplog.clear()
    train_fold(trained_otherwise, NAME, "0", short(epochs=3, learning_rate=0.5, pretrained=tmp_path))
    assert "--pretrained is ignored: training resumes after step 6; --restart starts over" in caplog.messages
    assert not any(message.startswith("learning_rate") for message in caplog.messages)


def test_a_missing_dataset_is_said_before_training(workspace):
    (workspace.root.parent / "phantoms").unlink()
    with pytest.raises(UsageError, match="the dataset is missing"):
        train_fold(workspace, NAME, "0", SHORT)


def test_cases_that_are_not_preprocessed_are_said_before_training(workspace):
    case = read_record(Splits, workspace.splits).folds[0].training[0]
    (workspace.preprocessed(NAME) / f"{case}.json").unlink()
    with pytest.raises(UsageError, match=f"1 cases are not preprocessed for {NAME}, {case} first.*autoseg-plan"):
        train_fold(workspace, NAME, "0", SHORT)


def test_labels_that_no_training_case_has_are_named_before_training(workspace, monkeypatch, caplog):
    plan, folder = read_record(Plan, workspace.plan), workspace.preprocessed(NAME)
    (rod,) = [index for index, head in enumerate(plan.encoding.heads) if head.name == "rod"]
    for case in read_record(Splits, workspace.splits).folds[0].training:
        stored = open_case(folder, case)
        voxels = stored.array[:]
        labels = np.where(voxels[-1] == rod, 0, voxels[-1]).astype(np.int16)
        locations = {**stored.locations, rod: stored.locations[rod][:0]}
        save_case(folder, stored.record, voxels[:-1], labels, (locations, stored.annotated), (16, 16, 16))

    def stop(*_arguments):
        raise TrainingError("training begins")

    monkeypatch.setattr(train, "_train_in_time", stop)
    with pytest.raises(TrainingError, match="training begins"), caplog.at_level("WARNING"):
        train_fold(workspace, NAME, "0", SHORT)
    (found,) = [message for message in caplog.messages if "after preprocessing" in message]
    assert found.startswith("warning: none of the 4 training cases of fold 0 has the label 'rod' after preprocessing")


def test_a_time_that_cannot_be_kept_is_refused_before_training(workspace):
    with pytest.raises(TrainingError, match="too few"):
        train_fold(workspace, NAME, "0", TrainingOptions(device="cpu", max_time_seconds=1.0))


def test_the_checkpoint_says_how_it_was_really_trained(workspace):
    options = TrainingOptions(**{**vars(SHORT), "loss": "tversky", "mirror_axes": (1,), "optimizer": "adamw"})
    trained = train_fold(workspace, NAME, "0", options).training
    assert (trained.loss, trained.mirror_axes, trained.optimizer) == ("tversky", (1,), "adamw")
    assert trained.learning_rate == 3e-3
    assert read_record(Checkpoint, workspace.fold(NAME, "0") / "checkpoint_final.json").training == trained


def test_other_parameters_do_not_go_on_from_a_checkpoint(workspace):
    change_schedule(workspace, optimizer="adamw")
    train_fold(workspace, NAME, "0", SHORT)
    with pytest.raises(TrainingError, match=r"another parameter; are others frozen now\?\).*--restart"):
        train_fold(workspace, NAME, "0", short(epochs=3, freeze_encoder=True))


def test_the_checkpoint_says_which_weights_it_holds(workspace):
    change_schedule(workspace, weight_average_decay=0.5)
    checkpoint = train_fold(workspace, NAME, "0", SHORT)
    folder = workspace.fold(NAME, "0")
    last = {
        name.removeprefix("network."): value
        for name, value in load_file(folder / "checkpoint_last.safetensors").items()
        if name.startswith("network.")
    }
    assert "with the last weights" in (folder / "log.txt").read_text()
    assert equal(last, weights(workspace)) is (checkpoint.weights == "last")
    assert read_record(Checkpoint, folder / "checkpoint_final.json").weights == checkpoint.weights
    assert train_fold(workspace, NAME, "all", SHORT).weights == "average"


def test_history_knows_the_peak_memory(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    lines = [json.loads(line) for line in (workspace.fold(NAME, "0") / "history.jsonl").read_text().splitlines()]
    assert all(50e6 < line["peak_memory_bytes"] < 50e9 for line in lines)


def test_a_training_may_start_from_an_encoder_of_nnssl(workspace, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    stem, stage = torch.randn(4, 1, 3, 3, 3), torch.randn(8, 4, 3, 3, 3)
    content = {
        "network_weights": {
            "encoder.stages.0.0.convs.0.conv.weight": stem,
            "encoder.stages.1.0.convs.0.all_modules.0.weight": stage,
        },
        "nnssl_adaptation_plan": {
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stages.0",
            "architecture_plans": {"arch_class_name": "PlainConvUNet"},
        },
    }
    torch.save(content, tmp_path / "encoder.pth")
    train_fold(workspace, NAME, "0", short(epochs=1, pretrained=tmp_path / "encoder.pth", learning_rate=0.0))
    trained, channels = (
        weights(workspace),
        read_record(Plan, workspace.plan).configurations[NAME].network.input_channels,
    )
    assert torch.equal(trained["encoder.levels.1.0.convolution.weight"], stage)
    flat = stem.sum(dim=2, keepdim=True) / channels  # the first kernel does not look along z
    torch.testing.assert_close(
        trained["encoder.levels.0.0.convolution.weight"], flat.expand(-1, channels, -1, -1, -1).contiguous()
    )
    assert any("1 tensors loaded, 1 adapted" in message for message in caplog.messages)


def test_a_training_may_begin_with_the_weights_of_another(workspace):
    train_fold(workspace, NAME, "1", SHORT)
    options = {**vars(SHORT), "pretrained": workspace.fold(NAME, "1"), "learning_rate": 0.0}
    train_fold(workspace, NAME, "0", TrainingOptions(**options))
    assert equal(weights(workspace, "1"), weights(workspace, "0"))


def test_a_frozen_encoder_stays_as_it_was(workspace):
    train_fold(workspace, NAME, "1", SHORT)
    options = {**vars(SHORT), "pretrained": workspace.fold(NAME, "1"), "freeze_encoder": True}
    train_fold(workspace, NAME, "0", TrainingOptions(**options))
    first, second = weights(workspace, "1"), weights(workspace, "0")
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"decoder"}


def test_a_cascade_names_the_folds_that_it_needs_before_training(workspace):
    add_cascade(workspace)
    train_fold(workspace, NAME, "1", SHORT)
    with pytest.raises(TrainingError, match=r"(?s)3d_cascade_fullres takes the label maps.*-f 0.*-f 2"):
        train_fold(workspace, "3d_cascade_fullres", "0", SHORT)
    assert not workspace.fold("3d_cascade_fullres", "0").exists()


def test_cases_are_preprocessed_for_the_next_stage_before_the_first_one_is_trained(workspace):
    add_cascade(workspace)
    plan = read_record(Plan, workspace.plan)
    cascade = plan.configurations["3d_cascade_fullres"].model_copy(update={"preprocessed_as": "3d_cascade_fullres"})
    configurations = {NAME: plan.configurations[NAME], "3d_cascade_fullres": cascade}
    write_record(plan.model_copy(update={"configurations": configurations}), workspace.plan)
    case = read_record(Splits, workspace.splits).folds[0].validation[0]
    with pytest.raises(UsageError, match=f"2 cases are not preprocessed for 3d_cascade_fullres, {case} first"):
        train_fold(workspace, NAME, "0", SHORT)
    assert not workspace.fold(NAME, "0").exists()
    assert train_fold(workspace, NAME, "all", SHORT).finished  # makes no label maps


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_log_that_cannot_be_written_ends_with_one_warning(tmp_path, caplog, capfd):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with fold_log(tmp_path):
        logging.getLogger("autoseg.train").info("first")
        logging.getLogger("autoseg.train").info("second")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "log.txt ends here: it cannot be written" in warnings[0]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_cascade_learns_from_the_label_maps_of_all_folds(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    add_cascade(workspace)
    for fold in ("0", "1", "2"):  # fold 0 is trained, and only makes its label maps now
        train_fold(workspace, NAME, fold, SHORT)
    checkpoint = train_fold(workspace, "3d_cascade_fullres", "0", SHORT)
    assert checkpoint.finished
    trained = load_file(workspace.fold("3d_cascade_fullres", "0") / "checkpoint_final.safetensors")
    first = next(value for name, value in trained.items() if name.startswith("encoder") and value.ndim == 5)
    assert first.shape[1] == 4
    assert (workspace.fold("3d_cascade_fullres", "0") / "validation" / "evaluation.json").exists()


def with_spacing(plan, factor):
    """The plan with voxels of another size, as `autoseg plan --spacing` makes it."""
    spacing = tuple(factor * edge for edge in plan.configurations[NAME].spacing)
    changed = plan.configurations[NAME].model_copy(update={"spacing": spacing})
    return plan.model_copy(update={"configurations": {**plan.configurations, NAME: changed}})


def plan_again(workspace, plan):
    write_record(plan, workspace.plan)
    dataset = read_record(DatasetDescription, workspace.dataset)
    preprocess_dataset(dataset, plan, workspace, (NAME,), workers=1)


def test_a_fold_is_not_validated_on_what_was_planned_while_it_trained(workspace, monkeypatch):
    plan, train_in_time = read_record(Plan, workspace.plan), train._train_in_time
    scores = workspace.fold(NAME, "0") / "validation" / "evaluation.json"

    def train_while_somebody_plans(*arguments):
        checkpoint = train_in_time(*arguments)
        plan_again(workspace, with_spacing(plan, 1.3))
        return checkpoint

    monkeypatch.setattr(train, "_train_in_time", train_while_somebody_plans)
    with pytest.raises(TrainingError, match=r"planned again, with another result, while 3d_fullres, fold 0 was"):
        train_fold(workspace, NAME, "0", SHORT)
    assert not scores.exists()
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="belongs to another plan"):
        train_fold(workspace, NAME, "0", SHORT)
    plan_again(workspace, plan)
    assert train_fold(workspace, NAME, "0", SHORT).step == 6
    disturbed = read_record(Evaluation, scores)
    train_fold(workspace, NAME, "0", short(restart=True))
    assert read_record(Evaluation, scores) == disturbed


def test_batches_are_not_drawn_from_cases_that_were_preprocessed_again(workspace, monkeypatch):
    """A plan that is still at work: the arrays are new, plan.json is written."""
    plan, begin = read_record(Plan, workspace.plan), training._begin

    def begin_while_somebody_plans(*arguments):
        state = begin(*arguments)
        plan_again(workspace, with_spacing(plan, 1.3))
        return state

    monkeypatch.setattr(training, "_begin", begin_while_somebody_plans)
    with pytest.raises(TrainingError, match=r"was preprocessed again, for another plan or from other files"):
        train_fold(workspace, NAME, "0", SHORT)


@pytest.fixture
def own_dataset(workspace):
    """A copy of the dataset that a test may change, and the cases of fold 0."""
    folder = workspace.root.parent / "phantoms"
    source = folder.resolve()
    folder.unlink()
    shutil.copytree(source, folder)
    return folder, read_record(Splits, workspace.splits).folds[0]


def move_label(path):
    image = nibabel.load(path)
    moved = np.roll(np.asarray(image.dataobj), 2, axis=1)
    nibabel.save(nibabel.Nifti1Image(moved, image.affine), path)


@pytest.mark.parametrize("part", ["training", "validation"])
def test_a_label_map_that_was_changed_after_planning_is_noticed(workspace, own_dataset, part):
    folder, split = own_dataset
    case = getattr(split, part)[0]
    move_label(folder / "labelsTr" / f"{case}.nii.gz")
    with pytest.raises(UsageError, match=rf"1 case\(s\), {case} first, was changed after"):
        train_fold(workspace, NAME, "0", SHORT)


def test_a_label_map_that_is_changed_during_training_is_noticed_before_it_is_scored(
    workspace, own_dataset, monkeypatch
):
    folder, split = own_dataset
    train_in_time = train._train_in_time

    def train_while_somebody_draws(*arguments):
        checkpoint = train_in_time(*arguments)
        move_label(folder / "labelsTr" / f"{split.validation[0]}.nii.gz")
        return checkpoint

    monkeypatch.setattr(train, "_train_in_time", train_while_somebody_draws)
    with pytest.raises(UsageError, match="was changed after"):
        train_fold(workspace, NAME, "0", SHORT)


def test_touched_and_removed_files_are_not_taken_for_changed_ones(workspace, own_dataset):
    """Copies have other times of change; the arrays of training cases are enough."""
    folder, split = own_dataset
    for path in (folder / "labelsTr").iterdir():
        path.touch()
    for path in (folder / "imagesTr").glob(f"{split.training[0]}*"):
        path.unlink()
    assert train_fold(workspace, NAME, "0", SHORT).finished


def test_a_fold_is_outdated_when_a_label_map_was_corrected_and_planned_again(workspace, own_dataset):
    folder, split = own_dataset
    train_fold(workspace, NAME, "0", SHORT)
    move_label(folder / "labelsTr" / f"{split.validation[0]}.nii.gz")
    dataset = read_record(DatasetDescription, workspace.dataset)
    write_record(extract_fingerprint(dataset, folder, workers=1), workspace.fingerprint)
    plan_again(workspace, read_record(Plan, workspace.plan))
    with pytest.raises(TrainingError, match=r"images or label maps of this fold were changed.*--restart"):
        train_fold(workspace, NAME, "0", SHORT)
    assert train_fold(workspace, NAME, "0", short(restart=True)).finished


@pytest.mark.parametrize("damage", [lambda content: content[:-1000], lambda _: b""])
def test_a_fold_whose_final_weights_are_damaged_is_not_finished(workspace, caplog, damage):
    train_fold(workspace, NAME, "0", SHORT)
    path = workspace.fold(NAME, "0") / "checkpoint_final.safetensors"
    before, last = weights(workspace), (path.parent / "checkpoint_last.json").read_bytes()
    content = path.read_bytes()
    path.unlink()  # `before` still reads it
    path.write_bytes(damage(content))
    assert train_fold(workspace, NAME, "0", SHORT).finished
    assert "is not taken for finished" in caplog.text
    assert equal(weights(workspace), before)
    assert json.loads((path.parent / "checkpoint_last.json").read_bytes())["step"] == json.loads(last)["step"]
    assert (path.parent / "validation" / "evaluation.json").exists()


def test_a_fold_with_the_final_weights_of_another_fold_is_not_finished(workspace):
    train_fold(workspace, NAME, "0", SHORT)
    train_fold(workspace, NAME, "1", SHORT)
    before = weights(workspace)
    name = "checkpoint_final.safetensors"
    (workspace.fold(NAME, "0") / name).unlink()  # `before` still reads it
    shutil.copyfile(workspace.fold(NAME, "1") / name, workspace.fold(NAME, "0") / name)
    assert train_fold(workspace, NAME, "0", SHORT).finished
    assert equal(weights(workspace), before)
