"""In which order `run` trains, and what it leaves out; the stages themselves are stood in for."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from autoseg.costs.runs import Training
from autoseg.errors import TrainingError, UsageError
from autoseg.inference.models import cascade_maps
from autoseg.pipeline import PipelineOptions, PlannedDataset, PlanningOptions, describe_run, planning, whole_run
from autoseg.progress import no_bar
from autoseg.records.budget import Budget
from autoseg.records.files import write_record
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from autoseg.report.page import render
from autoseg.stages import select, train, train_all
from autoseg.stages.train_all import training_order
from autoseg.training import distributed
from tests.builders import CASCADE, make_cascade_plan, make_case_fingerprint, make_dataset, make_fingerprint, make_plan


def plan_in_order(*names, **previous):
    """The cascade's plan, its configurations in another order; `previous` replaces previous configurations."""
    plan = make_cascade_plan((2.0, 2.0, 2.0), (1.0, 1.0, 1.0), budget=Budget(device="cpu"))
    configurations = {
        name: plan.configurations[name].model_copy(update={"previous_configuration": previous[name]})
        if name in previous
        else plan.configurations[name]
        for name in names
    }
    return plan.model_copy(update={"configurations": configurations})


@pytest.mark.parametrize(
    ("planned", "expected"),
    [
        (("3d_lowres", "3d_fullres", CASCADE), ("3d_lowres", "3d_fullres", CASCADE)),
        ((CASCADE, "3d_fullres", "3d_lowres"), ("3d_fullres", "3d_lowres", CASCADE)),
    ],
)
def test_a_cascade_comes_after_its_previous_stage(planned, expected):
    assert training_order(plan_in_order(*planned)) == expected


def test_a_cascade_of_three_stages():
    plan = plan_in_order(CASCADE, "3d_fullres", "3d_lowres", **{"3d_lowres": "3d_fullres"})
    assert training_order(plan) == ("3d_fullres", "3d_lowres", CASCADE)


@pytest.fixture
def done(monkeypatch):
    """What `run` does after planning, in order; training leaves nothing behind."""
    calls: list[object] = []

    def train_fold(_workspace, configuration, fold, _options, *, bar):
        assert isinstance(bar("title"), nullcontext)
        calls.append((configuration, fold))
        return SimpleNamespace(finished=True)

    monkeypatch.setattr(train, "train_fold", train_fold)
    monkeypatch.setattr(select, "select_model", lambda _workspace, **_options: calls.append("select"))
    monkeypatch.setattr(render, "render_report", lambda _workspace: calls.append("report"))
    return calls


@pytest.fixture
def maps_of_every_fold(monkeypatch, done):
    """A previous stage has label maps of the cases that its trained folds hold out."""

    def load_previous(_workspace, plan, name, cases):
        previous = plan.configurations[name].previous_configuration
        if missing := [case for case in cases if (previous, case) not in done]:
            raise TrainingError(f"no label maps of {', '.join(missing)}")

    monkeypatch.setattr(cascade_maps, "load_previous", load_previous)


def run(tmp_path, monkeypatch, *, num_folds=2, folds=()):
    """Fold k holds the case of the same name out."""
    workspace = Workspace(tmp_path / "w")
    cases = [str(number) for number in range(max(num_folds, 1))]
    splits = [Split(training=tuple(other for other in cases if other != case), validation=(case,)) for case in cases]
    kept = Splits(folds=tuple(splits[:num_folds]), reason="by hand")
    write_record(kept, workspace.splits)
    plan = plan_in_order(CASCADE, "3d_fullres", "3d_lowres")
    description = make_dataset(cases, plan)
    write_record(description, workspace.dataset)
    planned = PlannedDataset(description, make_fingerprint([make_case_fingerprint("0")], plan), plan, kept)
    monkeypatch.setattr(whole_run, "check_dataset", lambda *_, **__: description)
    monkeypatch.setattr(whole_run, "decide_plan", lambda *_, **__: planned)
    monkeypatch.setattr(whole_run, "write_plan", lambda *_, **__: None)
    return whole_run.run_pipeline(tmp_path, workspace, Budget(), PlanningOptions(), PipelineOptions(folds=folds))


@pytest.mark.usefixtures("maps_of_every_fold")
def test_run_trains_every_fold_of_every_configuration(tmp_path, monkeypatch, done):
    run(tmp_path, monkeypatch)
    trained = [(name, fold) for name in ("3d_fullres", "3d_lowres", CASCADE) for fold in ("0", "1")]
    assert done == [*trained, "select", "report"]


@pytest.mark.usefixtures("maps_of_every_fold")
def test_run_trains_some_folds_of_a_cascade_when_its_previous_stage_has_all(tmp_path, monkeypatch, done, caplog):
    run(tmp_path, monkeypatch, num_folds=3, folds=("1",))
    assert done == [("3d_fullres", "1"), ("3d_lowres", "1"), "select", "report"]
    assert caplog.messages == ["warning: 3d_cascade_fullres is skipped: no label maps of 0, 2"]
    done += [("3d_lowres", "0"), ("3d_lowres", "2")]
    run(tmp_path, monkeypatch, num_folds=3, folds=("1",))
    assert (CASCADE, "1") in done


@pytest.mark.parametrize(
    ("num_folds", "reason"),
    [
        (3, r"missing or outdated:.*fold 0 is not trained.*fold 2 is not .*Run first:.* -c 3d_lowres -f 0"),
        (0, "1 cases, 0 first, are in the validation part of no fold.*Plan with more folds"),
    ],
)
def test_run_ends_without_a_cascade_that_lacks_label_maps_and_says_why(
    tmp_path, monkeypatch, done, caplog, num_folds, reason
):
    run(tmp_path, monkeypatch, num_folds=num_folds)
    assert not any(call[0] == CASCADE for call in done)
    assert ("3d_lowres", "all" if num_folds == 0 else "2") in done
    assert done[-2:] == ["select", "report"]
    (message,) = caplog.messages
    assert re.search(f"warning: 3d_cascade_fullres is skipped: .*{reason}", message, re.DOTALL)


@pytest.mark.usefixtures("maps_of_every_fold")
def test_a_fold_that_cannot_be_trained_does_not_stop_the_others(tmp_path, monkeypatch, done, caplog):
    succeed = train.train_fold

    def train_fold(workspace, configuration, fold, options, *, bar):
        if (configuration, fold) == ("3d_fullres", "0"):
            raise TrainingError("180 s are too few.")
        workspace.fold(configuration, fold).mkdir(parents=True)
        (workspace.fold(configuration, fold) / "checkpoint_final.safetensors").touch()
        return succeed(workspace, configuration, fold, options, bar=bar)

    monkeypatch.setattr(train, "train_fold", train_fold)
    _, failures = run(tmp_path, monkeypatch)
    assert failures == ["3d_fullres, fold 0: 180 s are too few."]
    assert caplog.messages == ["failed: 3d_fullres, fold 0: 180 s are too few."]
    assert done == [
        ("3d_fullres", "1"),
        *((name, fold) for name in ("3d_lowres", CASCADE) for fold in ("0", "1")),
        "select",
        "report",
    ]


@pytest.mark.parametrize(("code", "failed"), [(0, False), (2, True), (1, True)])
def test_what_is_planned_for_two_devices_is_trained_by_two_processes(tmp_path, monkeypatch, done, code, failed):
    started = []

    def launch(count, words):
        started.append((count, words))
        return code if words[3:6] == ["3d_fullres", "-f", "0"] else 0

    monkeypatch.setattr(distributed, "launch", launch)
    workspace, plan = Workspace(tmp_path / "w"), plan_in_order("3d_fullres")
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"devices": 2})})
    monkeypatch.setattr(train_all, "_refuse_to_select_nothing", lambda *_: None)
    failures = train_all.train_folds(workspace, plan, ["0", "1"], "cpu", no_bar)
    words = [["train", str(workspace.root), "-c", "3d_fullres", "-f", fold, "--device", "cpu"] for fold in "01"]
    assert started == [(2, words[0]), (2, words[1])]
    assert done == []  # this process trains nothing itself
    assert [("2 processes trained together and failed" in failure) for failure in failures] == [True] * failed


def test_a_signal_to_processes_that_train_together_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "launch", lambda _count, _words: 143)
    plan = plan_in_order("3d_fullres")
    plan = plan.model_copy(update={"budget": plan.budget.model_copy(update={"devices": 2})})
    with pytest.raises(TrainingError, match="3d_fullres, fold 0: training was interrupted"):
        train_all.train_folds(Workspace(tmp_path / "w"), plan, ["0", "1"], "cpu", no_bar)


@pytest.mark.usefixtures("done")
def test_without_any_trained_fold_there_is_nothing_to_select(tmp_path, monkeypatch):
    def train_fold(*_arguments, **_options):
        raise TrainingError("180 s are too few.")

    monkeypatch.setattr(train, "train_fold", train_fold)
    with pytest.raises(TrainingError, match=r"no fold could be trained:\n3d_fullres, fold 0: 180 s are too few."):
        run(tmp_path, monkeypatch)


@pytest.mark.usefixtures("maps_of_every_fold", "done")
def test_run_says_first_what_it_takes_and_which_training_begins(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="autoseg.pipeline")
    run(tmp_path, monkeypatch, folds=("0",))
    lines = [message for message in caplog.messages if not message.startswith("warning")]
    assert lines[0] == (
        "This run trains 3 configurations (3d_fullres, 3d_lowres, 3d_cascade_fullres) on fold 0: 3 trainings."
    )
    assert lines[1].startswith("Time: as long as the planned steps take")
    assert re.match(r"Disk: at most [0-9.]+ [MG]B in .*; [0-9.]+ GB are free\.", lines[2])
    assert lines[3:] == [
        "training 1 of 3: 3d_fullres, fold 0 (fold 1 of 1)",
        "training 2 of 3: 3d_lowres, fold 0 (fold 1 of 1)",
    ]


def with_time(plan, seconds):
    """The plan with a limit of time for every fold."""
    configurations = {
        name: one.model_copy(update={"training": one.training.model_copy(update={"time_per_fold_seconds": seconds})})
        for name, one in plan.configurations.items()
    }
    return plan.model_copy(update={"configurations": configurations})


def test_the_time_of_a_run_is_that_of_the_trainings_that_are_left(tmp_path, caplog):
    plan = with_time(make_plan({"2d": (1.0, 1.0), "3d_fullres": (1.0, 1.0, 1.0)}), 1800.0)
    cases = [str(number) for number in range(5)]
    splits = [Split(training=tuple(other for other in cases if other != case), validation=(case,)) for case in cases]
    planned = PlannedDataset(
        make_dataset(cases, plan),
        make_fingerprint([make_case_fingerprint(case) for case in cases], plan),
        plan,
        Splits(folds=tuple(splits), reason="by hand"),
    )
    workspace = Workspace(tmp_path / "w")
    trained = workspace.fold("2d", "3")
    trained.mkdir(parents=True)
    (trained / "checkpoint_final.safetensors").touch()
    what, duration, _ = describe_run(planned, workspace)
    assert what == (
        "This run trains 2 configurations (2d, 3d_fullres) on folds 0, 1, 2, 3, 4: 10 trainings; 1 of them finished "
        "earlier."
    )
    assert duration.startswith("Time: at most 4 h 30 min for training, 30 min each")
    caplog.set_level("INFO", logger="autoseg.pipeline")
    trainings = tuple(Training(name, fold) for name in ("2d", "3d_fullres") for fold in cases)
    first, second, third, finished = trainings[:4]
    clock = train_all._RunClock(plan, trainings, {finished}, {first: 600.0, second: 1200.0})
    clock.announce(third, 5)  # two of 15 minutes by what the others took, five of 30
    assert caplog.messages == ["training 3 of 10: 2d, fold 2 (fold 3 of 5); about 3 h 0 min left for all trainings"]


def test_the_ignore_label_is_not_listed_among_the_labels(tmp_path, monkeypatch, caplog):
    description = make_dataset("ab", make_plan(labels={"background": 0, "liver": 1, "ignore": 2}))
    monkeypatch.setattr(planning, "describe_dataset", lambda *_, **__: description)
    caplog.set_level("INFO", logger="autoseg.pipeline")
    planning.check_dataset(tmp_path, PlanningOptions())
    assert caplog.messages == ["made: 2 cases, channels MR, labels liver"]


@pytest.mark.parametrize(
    ("planned_for", "device", "is_refused"), [("cuda", "auto", True), ("cuda", "cpu", False), ("cpu", "auto", False)]
)
def test_what_was_planned_for_a_gpu_is_not_trained_on_the_cpu_for_weeks(monkeypatch, planned_for, device, is_refused):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan = make_plan(budget=Budget(device=planned_for))
    if not is_refused:
        train_all.check_training_device(plan, device)
        return
    with pytest.raises(UsageError, match=r"planned for a GPU, and torch would train on the CPU: .*--device cpu"):
        train_all.check_training_device(plan, device)
