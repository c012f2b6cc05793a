"""Which candidates are tried, what each of them plans, and what is refused."""

from typing import Any

import pytest

from autoseg.errors import PlanningError, UsageError
from autoseg.records.budget import Budget, Throughput
from autoseg.records.plan import Split, Splits
from autoseg.records.trials import Candidate, Trial
from autoseg.stages.candidates import TrialRequest, name_trial, outline_trials, plan_candidate, plan_trials, plan_winner
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint
from tests.builders import make_dataset

FINGERPRINT = synthetic_fingerprint([(10.0, 1.4, 1.4)] * 10, [(10, 128, 108)] * 10)
CASES = tuple(case.case for case in FINGERPRINT.cases)
FAST = tuple(
    Throughput(
        architecture=name, dimensions=dimensions, base_features=8, macs_per_second=3e10, prediction_macs_per_second=1e11
    )
    for name in ("unet", "residual_unet", "unext")
    for dimensions in (2, 3)
)


def make_request(seconds=600.0, planner="auto", validation=CASES[:2], **limits):
    values: dict[str, Any] = {"device": "cpu", "time_per_fold_seconds": 1200.0, "throughput": FAST}
    budget = Budget(**(values | limits))
    fold = Split(training=tuple(case for case in CASES if case not in validation), validation=validation)
    return TrialRequest(
        description=make_dataset(CASES),
        fingerprint=FINGERPRINT,
        splits=Splits(folds=(fold,) if validation else (), reason="", folds_hash=""),
        rules=make_plan(FINGERPRINT, budget, planner),
        budget=budget,
        planner=planner,
        target="labels",
        seconds=seconds,
    )


def test_time_decides_how_many_are_tried():
    few, many = outline_trials(make_request(90.0)), outline_trials(make_request(600.0))
    names = [candidate.name for candidate in many.candidates]
    assert [candidate.name for candidate in few.candidates] == names[:3] == ["unet-2d", "unet-3d_fullres", "unext-2d"]
    assert few.round_sizes == (3,)
    assert len(names) == many.round_sizes[0] > 5
    assert few.left_out[names[-1]] == "2 min are enough for 3 candidates."
    assert few.num_validation_cases == 2


def test_a_candidate_is_planned_for_the_time_of_its_round():
    request = make_request(360.0)
    trials = outline_trials(request)
    plan = plan_trials(request, trials)
    assert len(plan.configurations) == len(trials.candidates) * len(trials.round_sizes)
    for number, size in enumerate(trials.round_sizes):
        for candidate in trials.candidates:
            training = plan.configurations[name_trial(candidate.name, number)].training
            assert training.time_per_fold_seconds == pytest.approx(360.0 / len(trials.round_sizes) / size)


def test_candidates_of_one_configuration_share_their_arrays():
    request = make_request()
    plan = plan_trials(request, outline_trials(request))
    used = {configuration.preprocessed_as for configuration in plan.configurations.values()}
    assert used == {"unet-2d-1", "unet-3d_fullres-1"}
    assert plan.configurations["unext-3d_fullres-2"].preprocessed_as == "unet-3d_fullres-1"
    type(plan).model_validate_json(plan.model_dump_json())


def test_the_winner_is_planned_for_the_whole_budget_with_its_reason():
    request = make_request()
    trials = outline_trials(request)
    tried = tuple(
        Trial(candidate=name, round=0, training_seconds=20.0, steps=9, mean_foreground_dice=dice)
        for name, dice in (("unet-2d", 0.5), ("unext-2d", 0.75))
    )
    trials = trials.model_copy(update={"trials": tried, "chosen": "unext-2d", "reason": "It is better."})
    plan = plan_winner(request, trials)
    assert list(plan.configurations) == ["2d"]
    assert plan.configurations["2d"].network.architecture == "unext"
    assert plan.configurations["2d"].training.time_per_fold_seconds == 1200.0
    decision = plan.decisions[0]
    assert decision.what == "trials"
    assert decision.value == (("unext-2d", 0.75, 20), ("unet-2d", 0.5, 20))
    assert "It is better." in decision.reason
    assert plan == type(plan).model_validate_json(plan.model_dump_json())


def test_a_learning_rate_that_was_tried_is_planned_and_said():
    slow = Candidate(name="slow", planner="unet", configuration="2d", learning_rate_factor=0.25)
    usual = slow.model_copy(update={"learning_rate_factor": 1.0})
    request = make_request()
    plan, other = plan_candidate(request, slow), plan_candidate(request, usual)
    rate = other.configurations["2d"].training.learning_rate
    assert plan.configurations["2d"].training.learning_rate == pytest.approx(rate / 4)
    (decision,) = [decision for decision in plan.decisions if decision.what == "2d.learning_rate"]
    assert decision.value == pytest.approx(rate / 4)
    assert plan.configurations["2d"].network == other.configurations["2d"].network


def test_only_what_was_asked_for_is_tried():
    trials = outline_trials(make_request(configurations=("3d_fullres",)))
    assert {candidate.configuration for candidate in trials.candidates} == {"3d_fullres"}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"seconds": 45.0}, UsageError, "--trials 45 s: too short to compare two networks. Give --trials 1 min"),
        ({"validation": ()}, UsageError, "too few cases for a fold with validation cases"),
    ],
)
def test_what_cannot_be_tried_is_refused(changes, error, said):
    with pytest.raises(error, match=said):
        outline_trials(make_request(**changes))


def test_a_slow_machine_is_told_a_time_that_suffices():
    slow = tuple(point.model_copy(update={"macs_per_second": 2e5}) for point in FAST)
    with pytest.raises(UsageError, match=r"too short .* on this data. Give --trials (\d+) min or more") as caught:
        outline_trials(make_request(60.0, throughput=slow, time_per_fold_seconds=36000.0))
    minutes = int(str(caught.value).rpartition("--trials ")[2].split()[0])
    trials = outline_trials(make_request(60.0 * minutes, throughput=slow, time_per_fold_seconds=36000.0))
    assert len(trials.candidates) == 2
    with pytest.raises(UsageError):
        outline_trials(make_request(60.0 * (minutes - 1), throughput=slow, time_per_fold_seconds=36000.0))


def test_a_candidate_that_cannot_be_planned_is_left_out_and_named(monkeypatch):
    from autoseg.stages import candidates

    listed = [
        Candidate(name="unet-2d", planner="unet", configuration="2d"),
        Candidate(name="gone-2d", planner="gone", configuration="2d"),
        Candidate(name="unext-2d", planner="unext", configuration="2d"),
    ]
    monkeypatch.setattr(candidates, "find_candidates", lambda *_: listed)
    trials = outline_trials(make_request())
    assert [candidate.name for candidate in trials.candidates] == ["unet-2d", "unext-2d"]
    assert "No planner is called 'gone'" in trials.left_out["gone-2d"]
    assert trials.by_rules == "unet-2d"
    monkeypatch.setattr(candidates, "find_candidates", lambda *_: [listed[1], listed[0], listed[2]])
    assert outline_trials(make_request()).by_rules is None
    monkeypatch.setattr(candidates, "find_candidates", lambda *_: listed[:2])
    with pytest.raises(PlanningError, match=r"(?s)not two candidates to choose from.*gone-2d: No planner"):
        outline_trials(make_request())
    monkeypatch.setattr(candidates, "find_candidates", lambda *_: listed[:1])
    with pytest.raises(PlanningError, match=r"nothing to choose from \(unet-2d\)"):
        outline_trials(make_request())
