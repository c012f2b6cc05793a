"""What the options of `autoseg train` become; the training itself is played by a stand-in."""

import argparse
import sys
import typing
from types import SimpleNamespace

import pytest
import torch

from autoseg.cli.main import main
from autoseg.cli.values import axis_letters
from autoseg.errors import TrainingError, UsageError
from autoseg.records.files import read_record, write_record
from autoseg.records.losses import LOSS_MODULES, LossName
from autoseg.records.plan import Plan

MODEL = ["-c", "3d_fullres", "-f", "0"]


@pytest.fixture
def asked(monkeypatch):
    """What would have been trained: (configuration, fold, options)."""
    calls: list[tuple[str, str, typing.Any]] = []

    def remember(_workspace, configuration, fold, options, **_bar):
        calls.append((configuration, fold, options))
        return SimpleNamespace(finished=True, step=7)

    monkeypatch.setattr("autoseg.stages.train.train_fold", remember)
    return calls


def train(workspace, *words):
    return main(["train", str(workspace.root), *MODEL, *words])


def test_every_loss_of_the_records_can_be_asked_for():
    assert typing.get_args(LossName) == tuple(LOSS_MODULES)


def test_options_reach_the_training(workspace, asked, tmp_path):
    words = (
        "--loss focal --mirror-axes z,x --lr 0.003 --optimizer adamw --warmup 0.05 --compile off --pretrained m "
        "--weight-average .99 --threads 3 "
        "--freeze-encoder --tracking mlflow --epochs 3 --steps-per-epoch 5 --max-time 10min --precision fp32 --seed 4 "
        "-j 2 --device cpu --restart"
    )
    assert train(workspace, *words.split()) == 0
    ((configuration, fold, options),) = asked
    assert (configuration, fold) == ("3d_fullres", "0")
    found = {name: value for name, value in vars(options).items() if name != "pretrained"}
    assert found == {
        "device": "cpu", "devices": 1, "precision": "fp32", "epochs": 3, "steps_per_epoch": 5,
        "max_time_seconds": 600.0, "restart": True, "seed": 4, "workers": 2, "loss": "focal", "mirror_axes": (0, 2),
        "learning_rate": 0.003, "optimizer": "adamw", "warmup_fraction": 0.05, "compile": "off",
        "weight_average_decay": 0.99, "threads": 3,
        "freeze_encoder": True, "tracking": "mlflow",
    }  # fmt: skip
    assert options.pretrained.name == "m"


@pytest.fixture
def planned_for_two(workspace):
    """A plan for two devices."""
    plan = read_record(Plan, workspace.plan)
    write_record(plan.model_copy(update={"budget": plan.budget.model_copy(update={"devices": 2})}), workspace.plan)
    return workspace


@pytest.mark.parametrize("words", [[], ["--devices", "2"]])
def test_as_many_processes_are_started_as_devices_were_planned_for(planned_for_two, asked, monkeypatch, words):
    started = []

    def launch(count, words):
        started.append((count, words))
        return 0

    monkeypatch.setattr("autoseg.training.distributed.launch", launch)
    assert train(planned_for_two, "--device", "cpu", *words) == 0
    assert started == [(2, ["train", str(planned_for_two.root), *MODEL, "--device", "cpu", *words])]
    assert asked == []


@pytest.mark.parametrize("number", ["1", "3"])
def test_other_devices_than_planned_are_refused(planned_for_two, asked, capsys, number):
    assert train(planned_for_two, "--device", "cpu", "--devices", number) == 2
    told = capsys.readouterr().err
    assert f"--devices {number}: {planned_for_two.plan} is for 2 devices" in told
    assert f"plan again with --devices {number}" in told
    assert asked == []


def test_what_is_not_asked_for_is_left_to_the_plan(workspace, asked):
    assert train(workspace) == 0
    ((_, _, options),) = asked
    planned = ("loss", "mirror_axes", "learning_rate", "optimizer", "warmup_fraction", "epochs", "pretrained")
    assert [getattr(options, name) for name in planned] == [None] * 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--loss", "huber"], "invalid choice: 'huber'"),
        (["--mirror-axes", "up"], "'up' is neither all nor none nor a list of axes"),
        (["--warmup", "1"], "'1' is not a fraction of at least 0 and below 1"),
        (["--warmup", "some"], "'some' is not a fraction"),
        (["--lr", "0"], "'0' is not a number above 0"),
        (["--devices", "0"], "'0' is not a whole number from 1 to 1024"),
        (["--resume", "--restart"], "not allowed with"),
        (["--preview-augmentation", "plan.json"], "'plan.json' does not end with .png"),
    ],
)
def test_wrong_words_are_refused(workspace, asked, capsys, words, told):
    with pytest.raises(SystemExit, match="2"):
        train(workspace, *words)
    assert told in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--freeze-encoder"], "--freeze-encoder needs --pretrained"),
        (["--mirror-axes", "z,y", "-c", "2d"], "patches of 2d have no axis z; those of patch_size in the plan are y,x"),
        (["--mirror-axes", "all", "-c", "3d_lowres"], "no configuration '3d_lowres'; it has 3d_fullres, 2d"),
    ],
)
def test_options_that_do_not_fit_are_one_line(workspace, asked, capsys, words, told):
    plan_with_2d(workspace)
    assert train(workspace, *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert asked == []


def plan_with_2d(workspace, **changes):
    plan = read_record(Plan, workspace.plan)
    flat = plan.configurations["3d_fullres"]
    network = flat.network.model_copy(
        update={
            "dimensions": 2,
            "strides": tuple(strides[1:] for strides in flat.network.strides),
            "kernel_sizes": tuple(sizes[1:] for sizes in flat.network.kernel_sizes),
        }
    )
    pairs = {name: getattr(flat, name)[1:] for name in ("spacing", "median_shape", "patch_size")}
    training = flat.training.model_copy(update={"mirror_axes": (0,)})
    flat = flat.model_copy(update={"network": network, "training": training, "preprocessed_as": "2d", **pairs})
    configurations = {"3d_fullres": plan.configurations["3d_fullres"], "2d": flat}
    write_record(plan.model_copy(update={"configurations": configurations} | changes), workspace.plan)


@pytest.mark.parametrize(
    ("configuration", "letters", "axes"),
    [
        ("3d_fullres", "all", (0, 1, 2)), ("2d", "all", (0, 1)), ("2d", "none", ()), ("2d", "x", (1,)),
        ("3d_fullres", "x,z", (0, 2)), ("2d", "x,y", (0, 1)),
    ],
)  # fmt: skip
def test_letters_are_axes_of_the_patch(workspace, asked, configuration, letters, axes):
    plan_with_2d(workspace)
    assert train(workspace, "--mirror-axes", letters, "-c", configuration) == 0
    assert asked[0][2].mirror_axes == axes


@pytest.mark.parametrize("text", ["", "z,z", "zy", "z,", "ALL", "0"])
def test_axes_are_letters_between_commas(text):
    with pytest.raises(argparse.ArgumentTypeError, match="neither all nor none"):
        axis_letters(text)


@pytest.mark.parametrize(
    ("labels", "changes", "letters", "warned"),
    [
        (["kidney left", "kidney right"], {}, "all", "swaps left and right, but labels have a side: kidney left,"),
        (["kidney left"], {}, "z,y", None),
        (["kidney"], {}, "all", None),
        (["kidney left"], {"transpose": (2, 0, 1)}, "z", "swaps left and right"),
        (["kidney left"], {"transpose": (2, 0, 1)}, "y,x", None),
        (["kidney left"], {"orientation": "as_stored"}, "y", "swaps what may be left and right"),
        (["kidney left"], {"orientation": "as_stored"}, "none", None),
    ],
)  # fmt: skip
def test_swapping_the_sides_of_labels_is_warned_of(workspace, asked, capsys, labels, changes, letters, warned):
    values = {"background": 0} | {name: value for value, name in enumerate(labels, start=1)}
    plan = read_record(Plan, workspace.plan)
    write_record(plan.model_copy(update={"labels": values, **changes}), workspace.plan)
    assert train(workspace, "--mirror-axes", letters) == 0
    error = capsys.readouterr().err
    assert (warned or "") in error
    assert ("side" in error) == (warned is not None)
    assert len(asked) == 1


def test_several_devices_start_as_many_processes_with_the_same_words(workspace, asked, monkeypatch):
    started: list[tuple[int, list[str]]] = []

    def launch(number, words):
        started.append((number, words))
        return 5

    monkeypatch.setattr("autoseg.training.distributed.launch", launch)
    words = ["train", str(workspace.root), *MODEL, "--devices", "2", "--lr", "0.1"]
    assert main(words) == 5
    assert started == [(2, words)]
    assert asked == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--devices", "99"], "--devices 99: a batch of 3d_fullres has"),
        (["--devices", "2", "--device", "tpu"], "device 'tpu' is unknown"),
        (["--devices", "2", "--device", "cuda"], "--devices 2: this machine has 1 GPUs"),
        (["--devices", "2", "--epochs", "1", "--max-time", "1h"], "give one"),
        (["--devices", "2", "-c", "3d"], "no configuration '3d'"),
    ],
)
def test_wrong_words_are_refused_before_others_are_started(workspace, monkeypatch, capsys, words, told):
    monkeypatch.setattr("autoseg.training.distributed.launch", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert train(workspace, *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_started_process_trains_and_leaves_the_talking_to_the_first(workspace, asked, monkeypatch, capsys):
    monkeypatch.setattr("autoseg.training.distributed.is_launched", lambda: True)
    monkeypatch.setattr("autoseg.training.distributed.is_first_process", lambda: False)
    monkeypatch.setattr("autoseg.training.distributed.launch", lambda *_: pytest.fail("started again"))
    assert train(workspace, "--devices", "2") == 0
    assert asked[0][2].devices == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "is_first", "lines"), [(UsageError, True, 1), (UsageError, False, 0), (TrainingError, False, 1)]
)
def test_of_several_processes_one_says_what_all_meet(workspace, monkeypatch, capsys, error, is_first, lines):
    def refuse(*_arguments, **_bar):
        raise error("no")

    monkeypatch.setattr("autoseg.stages.train.train_fold", refuse)
    monkeypatch.setattr("autoseg.training.distributed.is_launched", lambda: True)
    monkeypatch.setattr("autoseg.training.distributed.is_first_process", lambda: is_first)
    assert train(workspace) == 2
    assert capsys.readouterr().err.splitlines() == ["autoseg train: no"] * lines


def test_sides_are_warned_of_once_by_the_process_that_trains(workspace, asked, monkeypatch, capsys):
    plan = read_record(Plan, workspace.plan)
    write_record(plan.model_copy(update={"labels": {"background": 0, "kidney left": 1}}), workspace.plan)
    words = ["--mirror-axes", "all", "--devices", "2"]
    monkeypatch.setattr("autoseg.training.distributed.launch", lambda *_: 0)
    assert train(workspace, *words) == 0  # starts the others
    monkeypatch.setattr("autoseg.training.distributed.is_launched", lambda: True)
    monkeypatch.setattr("autoseg.training.distributed.is_first_process", lambda: False)
    assert train(workspace, *words) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("autoseg.training.distributed.is_first_process", lambda: True)
    assert train(workspace, *words) == 0
    assert capsys.readouterr().err.count("labels have a side: kidney left") == 1


def test_a_preview_is_drawn_instead_of_training(workspace, asked, monkeypatch, tmp_path, capsys):
    drawn = []
    preview = SimpleNamespace(preview_augmentation=lambda *arguments: drawn.append(arguments[1:]))
    monkeypatch.setitem(sys.modules, "autoseg.stages.preview", preview)
    words = ["--preview-augmentation", str(tmp_path / "a.png"), "--seed", "3", "--mirror-axes", "z,x"]
    assert train(workspace, *words) == 0
    ((*where, options),) = drawn
    assert where == ["3d_fullres", "0", tmp_path / "a.png"]
    assert (options.seed, options.mirror_axes) == (3, (0, 2))
    assert str(tmp_path / "a.png") in capsys.readouterr().out
    assert asked == []


def test_a_preview_has_the_same_options_refused_as_the_training(workspace, asked, monkeypatch, tmp_path, capsys):
    preview = SimpleNamespace(preview_augmentation=lambda *_: pytest.fail("drawn"))
    monkeypatch.setitem(sys.modules, "autoseg.stages.preview", preview)
    assert train(workspace, "--preview-augmentation", str(tmp_path / "a.png"), "--freeze-encoder") == 2
    assert "--freeze-encoder needs --pretrained" in capsys.readouterr().err


def test_a_stopped_training_says_how_to_go_on(workspace, monkeypatch, capsys):
    stopped = SimpleNamespace(finished=False, step=7)
    monkeypatch.setattr("autoseg.stages.train.train_fold", lambda *_arguments, **_bar: stopped)
    assert train(workspace) == 1
    assert "Stopped after step 7; the same command resumes" in capsys.readouterr().out
    assert train(workspace, "--restart") == 1  # which would wipe the checkpoint if it were given again
    assert "Stopped after step 7; the same command without --restart resumes" in capsys.readouterr().out
