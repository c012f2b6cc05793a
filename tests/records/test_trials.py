import pytest

from autoseg.records.files import read_record, write_record
from autoseg.records.trials import Candidate, Trials
from tests.builders import make_trial, make_trials


def test_trials_are_read_as_they_were_written(tmp_path):
    trials = make_trials(
        trials=(make_trial("a", 0, None, failure="no memory"), make_trial("b", 0, 0.5, label_dice={"x": None})),
        chosen="b",
        reason="It is.",
    )
    write_record(trials, tmp_path / "trials.json")
    assert read_record(Trials, tmp_path / "trials.json") == trials


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chosen": "c"}, "'c', expected one of a, b"),
        ({"trials": (make_trial("c", 0, 0.5),)}, r"trials\.0\.candidate.*'c'"),
        ({"candidates": (Candidate(name="a", planner="a", configuration="2d"),) * 2}, "names that differ"),
    ],
)
def test_names_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        make_trials(**changes)


def test_a_name_that_leads_out_of_the_workspace_is_refused():
    with pytest.raises(ValueError, match="leads out of its folder"):
        Candidate(name="../other", planner="a", configuration="2d")
