"""Trials on the phantoms; training and validation are stood in for, preprocessing and records are real."""

import logging
import shutil
from types import SimpleNamespace

import pytest

from autoseg.errors import LockedError, TrainingError, UsageError
from autoseg.imaging.arrays.resampling import resample_on_cpu
from autoseg.locks import lock
from autoseg.progress import no_progress
from autoseg.records.budget import Budget, Throughput
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record, write_record, write_text
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Split, Splits
from autoseg.records.trials import Trials
from autoseg.stages import trial_trainings
from autoseg.stages import trials as stage
from autoseg.stages.candidates import TrialRequest
from autoseg.stages.plan import make_plan
from autoseg.stages.trials import TrialTools, try_plans
from tests.builders import make_epoch

FAST = tuple(
    Throughput(
        architecture=name, dimensions=dimensions, base_features=8, macs_per_second=3e10, prediction_macs_per_second=1e11
    )
    for name in ("unet", "residual_unet", "unext")
    for dimensions in (2, 3)
)
BUDGET = Budget(device="cpu", time_per_fold_seconds=1200.0, throughput=FAST, configurations=("2d", "3d_fullres"))
TOOLS = TrialTools(device="cpu", resampler=resample_on_cpu)


@pytest.fixture
def request_(workspace):
    """Four candidates: two networks in 2D and 3D."""
    fingerprint = read_record(Fingerprint, workspace.fingerprint)
    description = read_record(DatasetDescription, workspace.dataset)
    dataset = workspace.root.parent / "phantoms"
    shutil.rmtree(workspace.root)
    workspace.root.mkdir()
    return TrialRequest(
        description=description.model_copy(update={"folder": str(dataset)}),
        fingerprint=fingerprint,
        splits=make_splits(fingerprint),
        rules=make_plan(fingerprint, BUDGET, "auto"),
        budget=BUDGET,
        planner="auto",
        target="labels",
        seconds=240.0,
    )


def make_splits(fingerprint):
    cases = tuple(case.case for case in fingerprint.cases)
    return Splits(folds=(Split(training=cases[2:], validation=cases[:2]),), reason="", folds_hash="")


class Training:
    """What stands in for training and validation: Dice by name of the trial, and what was called."""

    def __init__(self):
        self.dice = {
            "unet-2d-1": 0.4, "unet-3d_fullres-1": 0.5, "unext-2d-1": 0.3, "unext-3d_fullres-1": 0.6,
            "unet-3d_fullres-2": 0.7, "unext-3d_fullres-2": 0.65, "unext-2d-2": 0.9, "unet-2d-2": 0.8,
        }  # fmt: skip
        self.calls = []
        self.seconds = {}
        self.failing = {}
        self.stop_at = ""
        self.warmed_up = 0

    def train(self, fold, seconds, *, progress=no_progress):
        if fold.fold_name != "0":
            self.warmed_up += 1
            return SimpleNamespace(finished=self.stop_at != "warm-up")
        name = fold.configuration_name
        if name in self.failing:
            raise self.failing[name]
        self.calls.append(name)
        self.seconds[name] = seconds
        fold.folder.mkdir(parents=True, exist_ok=True)
        (fold.folder / "weights").write_bytes(b"many")
        epoch: EpochHistory = make_epoch(pseudo_dice={"body": 0.5, "core": None}, seconds=seconds)
        write_text(epoch.model_dump_json() + "\n", fold.folder / "history.jsonl")
        return SimpleNamespace(finished=name != self.stop_at, elapsed_seconds=seconds, step=11, epoch=1)

    def validate(self, fold):
        self.calls.append((fold.configuration_name, fold.split.validation))
        dice = self.dice[fold.configuration_name]
        return SimpleNamespace(mean_foreground_dice=dice, labels={"body": SimpleNamespace(dice=dice)})


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr(trial_trainings, "train_until_done", stand_in.train)
    monkeypatch.setattr(trial_trainings, "validate_fold", stand_in.validate)
    monkeypatch.setattr(stage, "estimate_validation_seconds", lambda _fold: 2.0)
    return stand_in


def trained(training):
    return [call for call in training.calls if isinstance(call, str)]


def test_the_best_of_each_round_go_on_and_the_best_of_the_last_is_planned(request_, workspace, training):
    plan = try_plans(request_, workspace, TOOLS)
    assert trained(training) == [
        "unet-2d-1", "unet-3d_fullres-1", "unext-2d-1", "unext-3d_fullres-1",
        "unet-3d_fullres-2", "unext-3d_fullres-2",
    ]  # fmt: skip
    assert list(plan.configurations) == ["3d_fullres"]
    assert plan.configurations["3d_fullres"].network.architecture == "unet"
    trials = read_record(Trials, workspace.trials_record)
    assert trials.chosen == "unet-3d_fullres"
    assert plan.decisions[0].value == (
        ("unet-3d_fullres", 0.7, round(training.seconds["unet-3d_fullres-2"])),
        ("unext-3d_fullres", 0.65, round(training.seconds["unext-3d_fullres-2"])),
        ("unet-2d", 0.4, round(training.seconds["unet-2d-1"])),
        ("unext-2d", 0.3, round(training.seconds["unext-2d-1"])),
    )
    assert trials.trials[0].curve[0].pseudo_dice == 0.5
    assert trials.trials[0].label_dice == {"body": 0.4}


def test_all_of_a_round_train_for_the_same_time_and_are_scored_on_the_same_cases(request_, workspace, training):
    try_plans(request_, workspace, TOOLS)
    first = {training.seconds[name] for name in training.seconds if name.endswith("-1")}
    second = {training.seconds[name] for name in training.seconds if name.endswith("-2")}
    assert len(first) == len(second) == 1
    # 120 s for each round; validation takes 2 s with a margin of 1.3, and a trial 1 s to begin
    assert first.pop() == pytest.approx(30.0 - 2.6 - 1.0, abs=0.5)
    assert second.pop() == pytest.approx(60.0 - 2.6 - 1.0, abs=0.5)
    assert {call[1] for call in training.calls if isinstance(call, tuple)} == {request_.splits.folds[0].validation}


def test_the_first_training_of_a_round_is_not_counted(request_, workspace, training):
    try_plans(request_, workspace, TOOLS)
    assert training.warmed_up == 2
    training.stop_at = "warm-up"
    shutil.rmtree(workspace.trials.root)
    with pytest.raises(TrainingError, match="interrupted"):
        try_plans(request_, workspace, TOOLS)


def test_nothing_large_stays_but_the_arrays_of_the_winner(request_, workspace, training):
    try_plans(request_, workspace, TOOLS)
    assert [path.name for path in (workspace.root / "preprocessed").iterdir()] == ["3d_fullres"]
    assert {path.name for path in workspace.trials.root.iterdir()} == {
        "trials.json", "plan.json", "dataset.json", "fingerprint.json", "splits.json",
    }  # fmt: skip


def test_arrays_of_losers_are_removed_after_their_round(request_, workspace, training, monkeypatch):
    seen = {}
    train = training.train

    def look(fold, seconds, *, progress=no_progress):
        seen[fold.configuration_name] = {path.name for path in (workspace.trials.root / "preprocessed").iterdir()}
        return train(fold, seconds, progress=progress)

    monkeypatch.setattr(trial_trainings, "train_until_done", look)
    try_plans(request_, workspace, TOOLS)
    assert seen["unet-2d-1"] == {"unet-2d-1", "unet-3d_fullres-1"}
    assert seen["unet-3d_fullres-2"] == {"unet-3d_fullres-1"}


def test_arrays_are_not_kept_where_they_are_not_wanted(request_, workspace, training):
    try_plans(request_, workspace, TOOLS, keep_arrays=False)
    assert not (workspace.root / "preprocessed").exists()
    assert not (workspace.trials.root / "preprocessed").exists()


def test_interrupted_trials_resume_where_they_were(request_, workspace, training, caplog):
    caplog.set_level("INFO")
    training.stop_at = "unext-2d-1"
    with pytest.raises(TrainingError, match=r"interrupted\. Run the same command again to resume"):
        try_plans(request_, workspace, TOOLS)
    assert not workspace.planning_lock.exists()
    before = read_record(Trials, workspace.trials_record)
    assert [trial.candidate for trial in before.trials] == ["unet-2d", "unet-3d_fullres"]
    training.stop_at, training.calls = "", []
    plan = try_plans(request_, workspace, TOOLS)
    assert trained(training)[:2] == ["unext-2d-1", "unext-3d_fullres-1"]
    after = read_record(Trials, workspace.trials_record)
    assert after.trials[:2] == before.trials
    assert after.rounds[0] == before.rounds[0]
    training.calls = []
    assert try_plans(request_, workspace, TOOLS) == plan
    assert not training.calls
    assert "are finished: unet-3d_fullres was chosen" in caplog.text


def test_a_speed_that_was_measured_again_changes_the_plan_and_no_trials(request_, workspace, training):
    plan = try_plans(request_, workspace, TOOLS)
    training.calls = []
    faster = tuple(point.model_copy(update={"macs_per_second": 9e10}) for point in FAST)
    budget = BUDGET.model_copy(update={"throughput": faster})
    again = TrialRequest(**{**vars(request_), "budget": budget})
    planned_again = try_plans(again, workspace, TOOLS)
    assert not training.calls
    assert planned_again.budget.throughput == faster
    assert planned_again.decisions[0] == plan.decisions[0]
    assert read_record(Trials, workspace.trials_record).budget == budget


@pytest.mark.parametrize(
    "changes", [{"seconds": 241.0}, {"budget": BUDGET.model_copy(update={"memory_gigabytes": 4.0})}]
)
def test_other_trials_are_replaced(request_, workspace, training, changes, caplog):
    caplog.set_level("INFO")
    try_plans(request_, workspace, TOOLS)
    training.calls = []
    try_plans(TrialRequest(**{**vars(request_), **changes}), workspace, TOOLS)
    assert len(trained(training)) == 6
    assert "were for other data, time or budget and are replaced" in caplog.text


def test_a_damaged_record_is_replaced(request_, workspace, training, caplog):
    caplog.set_level("INFO")
    workspace.trials.root.mkdir()
    workspace.trials_record.write_text("{")
    try_plans(request_, workspace, TOOLS)
    assert len(trained(training)) == 6
    assert "cannot be read and are replaced" in caplog.text


def test_a_candidate_that_fails_does_not_stop_the_others(request_, workspace, training, caplog):
    training.failing = {"unext-3d_fullres-1": MemoryError(), "unet-3d_fullres-2": TrainingError("it diverged")}
    plan = try_plans(request_, workspace, TOOLS)
    assert list(plan.configurations) == ["2d"]
    trials = read_record(Trials, workspace.trials_record)
    failures = {(trial.candidate, trial.round): trial.failure for trial in trials.trials if trial.failure}
    assert "the memory of cpu is too small" in failures["unext-3d_fullres", 0]
    assert failures["unet-3d_fullres", 1] == "it diverged"
    assert trials.reason == "unet-2d alone could be trained in the last round."
    assert "unext-3d_fullres: failed: " in caplog.text


def test_a_candidate_whose_validation_fails_for_memory_is_out(request_, workspace, training, monkeypatch):
    def estimate(fold):
        if fold.configuration.network.architecture == "unext":
            raise MemoryError
        return 2.0

    monkeypatch.setattr(stage, "estimate_validation_seconds", estimate)
    try_plans(request_, workspace, TOOLS)
    assert trained(training) == ["unet-2d-1", "unet-3d_fullres-1", "unet-2d-2", "unet-3d_fullres-2"]
    # the time of those that failed is that of the others
    assert training.seconds["unet-2d-1"] == pytest.approx(60.0 - 3.6, abs=0.5)


def test_no_candidate_at_all(request_, workspace, training):
    training.failing = {name: TrainingError("it diverged") for name in training.dice}
    with pytest.raises(TrainingError, match=r"(?s)no candidate could be trained:.*unet-2d: failed: it diverged"):
        try_plans(request_, workspace, TOOLS)


def test_a_slow_validation_is_made_of_fewer_cases_or_refused(request_, workspace, training, monkeypatch):
    monkeypatch.setattr(stage, "estimate_validation_seconds", lambda fold: 5.0 * len(fold.split.validation))
    plan = try_plans(request_, workspace, TOOLS)
    trials = read_record(Trials, workspace.trials_record)
    assert len(trials.validation_cases) == 1
    assert trials.num_validation_cases == 2
    assert "1 of 2 validation cases as whole volumes" in plan.decisions[0].reason
    shutil.rmtree(workspace.trials.root)
    monkeypatch.setattr(stage, "estimate_validation_seconds", lambda fold: 20.0 * len(fold.split.validation))
    with pytest.raises(UsageError, match=r"too short for 4 candidates on this data.*Give --trials 5 min or more"):
        try_plans(request_, workspace, TOOLS)


def test_advice_for_a_training_of_its_own_is_not_given(request_, workspace, training, monkeypatch, caplog):
    train = training.train

    def advise(fold, seconds, *, progress=no_progress):
        logging.getLogger("autoseg.train").warning("plan again with --measure-again")
        return train(fold, seconds, progress=progress)

    monkeypatch.setattr(trial_trainings, "train_until_done", advise)
    try_plans(request_, workspace, TOOLS)
    assert "--measure-again" not in caplog.text
    logging.getLogger("autoseg.train").warning("heard again")
    assert "heard again" in caplog.text


def test_nobody_trains_or_plans_meanwhile(request_, workspace, training):
    with lock(workspace.training_lock("2d", "0"), "trained (2d, fold 0)"), pytest.raises(LockedError, match="trained"):
        try_plans(request_, workspace, TOOLS)
    with lock(workspace.planning_lock, "planned"), pytest.raises(LockedError, match="planned"):
        try_plans(request_, workspace, TOOLS)
    assert not training.calls


def test_arrays_that_the_plan_has_already_stay(request_, workspace, training):
    kept = workspace.preprocessed("3d_fullres") / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    try_plans(request_, workspace, TOOLS)
    assert kept.read_text() == "mine"
    assert not (workspace.trials.root / "preprocessed").exists()


def test_a_full_disk_leaves_what_is_finished(request_, workspace, training, monkeypatch):
    written = []

    def write(record, path):
        if isinstance(record, Trials) and len(record.trials) > 1:
            written.append(path)
            raise OSError(28, "No space left on device")
        write_record(record, path)

    monkeypatch.setattr(stage, "write_record", write)
    with pytest.raises(OSError, match="No space left"):
        try_plans(request_, workspace, TOOLS)
    monkeypatch.setattr(stage, "write_record", write_record)
    assert written
    training.calls = []
    try_plans(request_, workspace, TOOLS)
    assert trained(training)[0] == "unet-3d_fullres-1"
