"""The section about trials: its points, and what is said around them."""

from autoseg.report.page.trials_section import list_cost, list_curve, list_points, render_trials
from tests.builders import make_trial, make_trials

ROUNDS = make_trials(
    left_out={"<c>": "too slow"},
    trials=(
        make_trial("a", 0, 0.25),
        make_trial("b", 0, 0.5),
        make_trial("a", 1, None, failure="no memory"),
        make_trial("b", 1, 0.75),
    ),
    rounds=make_trials().rounds * 2,
    chosen="b",
    reason="b is best.",
)


def test_points_are_seconds_and_dice_of_what_was_trained():
    assert list_points(ROUNDS, "b") == [(25.0, 0.5), (75.0, 0.75)]
    assert list_points(ROUNDS, "a") == [(25.0, 0.25)]
    assert list_curve(make_trials(), "a") == [(5.0, 0.1)]
    assert list_curve(make_trials(), "b") == []


def test_the_section_has_chart_table_and_what_was_not_tried():
    html = str(render_trials(ROUNDS))
    assert "b is best." in html
    assert "b: 0.750 at 75" in html
    assert "no memory" in html
    assert "Not tried: &lt;c&gt;: too slow" in html
    assert "all 3 validation cases" in html


def test_costs_are_seconds_per_validation_case_of_the_longest_trial():
    trials = make_trials(
        trials=(
            make_trial("a", 0, 0.25, validation_seconds=30.0),
            make_trial("a", 1, 0.5, validation_seconds=4.5),
            make_trial("b", 0, 0.75),
        ),
        rounds=make_trials().rounds * 2,
    )
    assert list_cost(trials, "a") == [(1.5, 0.5)]
    assert list_cost(trials, "b") == []
    html = str(render_trials(trials))
    assert "a: 0.500 at 1.5" in html
    assert "Dice against cost" in html
    assert "Dice against cost" not in str(render_trials(ROUNDS))


def test_nothing_is_shown_before_the_first_trial_is_finished():
    assert render_trials(make_trials(trials=(), rounds=())) is None
