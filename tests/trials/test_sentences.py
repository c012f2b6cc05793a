"""What is said about trials, and the table of them."""

from autoseg.records.budget import Budget
from autoseg.records.trials import Candidate, Trial, TrialRound, Trials
from autoseg.trials.sentences import (
    describe_cases,
    describe_outline,
    describe_trials,
    explain_choice,
    explain_winner,
    list_results,
    tabulate,
)


def make_trial(candidate, number, dice, failure=""):
    seconds = (20.0, 80.0)[number]
    return Trial(
        candidate=candidate, round=number, training_seconds=seconds, steps=5, mean_foreground_dice=dice, failure=failure
    )


TRIALS = Trials(
    seconds=240.0,
    planner="auto",
    target="labels",
    budget=Budget(device="cpu"),
    data_hash="",
    candidates=tuple(Candidate(name=name, planner=name, configuration="2d") for name in "abcd"),
    by_rules="a",
    left_out={"e": "240 s are enough for 4 candidates."},
    round_sizes=(4, 2),
    num_validation_cases=40,
    validation_cases=("x", "y"),
    rounds=(
        TrialRound(candidates=tuple("abcd"), training_seconds=20.0),
        TrialRound(candidates=("b", "d"), training_seconds=80.0),
    ),
    trials=(
        make_trial("a", 0, 0.4),
        make_trial("b", 0, 0.5),
        make_trial("c", 0, None, "the memory of cpu is too small"),
        make_trial("d", 0, 0.6),
        make_trial("b", 1, 0.7),
        make_trial("d", 1, 0.65),
    ),
    chosen="b",
    reason="b is better than d by 0.050.",
)


def test_results_that_came_furthest_are_first():
    assert list_results(TRIALS) == (("b", 0.7, 80), ("d", 0.65, 80), ("a", 0.4, 20), ("c", None, 20))


def test_the_table_has_a_column_for_each_round():
    columns, rows = tabulate(TRIALS)
    assert columns == ["candidate", "20 s each", "80 s each", "remark"]
    assert rows == [
        ["b", "0.500", "0.700", "chosen"],
        ["d", "0.600", "0.650", ""],
        ["a", "0.400", "–", "what the rules plan"],
        ["c", "–", "–", "the memory of cpu is too small"],
    ]


def test_the_cases_are_counted():
    assert describe_cases(TRIALS) == "2 of 40 validation cases as whole volumes"
    every = TRIALS.model_copy(update={"num_validation_cases": 2})
    assert describe_cases(every) == "all 2 validation cases as whole volumes"
    one = TRIALS.model_copy(update={"num_validation_cases": 1, "validation_cases": ("x",)})
    assert describe_cases(one) == "the validation case as a whole volume"


def test_the_outline_adds_up_to_the_time():
    assert describe_outline(TRIALS) == (
        "Trials on fold 0 in 4 min: 4 for 30 s each, then 2 for 60 s each (a, b, c, d); preprocessing comes on top."
    )


def test_a_run_is_told_the_time_of_trials_and_trainings():
    outline, left_out, time = describe_trials(TRIALS, 5, 600.0)
    assert outline == describe_outline(TRIALS)
    assert left_out.startswith("not tried: e:")
    assert time.startswith("Time: at most 4 min for the trials, then 10 min for each of 5 folds")
    assert "54 min together" in time
    assert "full schedule" in describe_trials(TRIALS, 5, None)[-1]


def test_a_much_longer_training_is_named():
    near, far, full = (explain_choice(TRIALS, seconds) for seconds in (600.0, 4000.0, None))
    assert near.endswith("b is better than d by 0.050.")
    assert "20 s each, then 2 for 80 s each" in near
    assert far.endswith("A fold trains 50 times as long as the last trials, which say less about it.")
    assert full.endswith("The full schedule is many times longer than these trials, which say less about it.")


def test_the_winner_is_explained_against_the_second_and_the_rules():
    assert explain_winner("b", "a", {"b": 0.7, "d": 0.65}) == (
        "b is better than d by 0.050. a, which the rules plan, was not among the best of an earlier round, or failed."
    )
    assert explain_winner("a", "a", {"a": 0.7, "d": 0.65}).endswith("It is also what the rules plan.")
    assert explain_winner("d", "a", {"a": 0.6, "d": 0.65, "b": 0.61}) == "d is better than b by 0.040."
    assert explain_winner("d", None, {"d": 0.65, "b": 0.61}).endswith("0.040. What the rules plan was not tried.")
    assert "is better than a by 0.003 only" in explain_winner("a", "a", {"a": 0.647, "d": 0.65})
    assert explain_winner("a", "a", {"a": 0.7, "d": None}) == "a alone could be trained in the last round."
