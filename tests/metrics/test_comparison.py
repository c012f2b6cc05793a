"""Ranking of candidates with scores worked out by hand."""

import numpy as np
import pytest

from autoseg.metrics.comparison import ENSEMBLE_MARGIN, dice_table, rank_candidates
from autoseg.records.evaluation import CaseScores, LabelScores


def scores(case, **dice):
    """Counts are not looked at here."""
    counts = dict.fromkeys(
        ("true_positives", "false_positives", "false_negatives", "predicted_voxels", "reference_voxels"), 1
    )
    return CaseScores(
        case=case, labels={name: LabelScores(dice=value, iou=value, **counts) for name, value in dice.items()}
    )


def flat(*values):
    """One label, cases 0, 1, ... with these scores."""
    return [scores(str(number), a=value) for number, value in enumerate(values)]


def rank(cases, names=("a",)):
    return rank_candidates(cases, dict.fromkeys(cases, ("0",)), names)


def chosen(cases, names=("a",)):
    return rank(cases, names)[0][0].configurations


A, B, C, AB, AC, BC = ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.0019, A), (0.00199999, A), (0.002, AB), (0.0021, AB), (0.0, A), (-0.1, A)]
)
def test_an_ensemble_must_be_ahead_by_the_margin(gain, expected):
    assert ENSEMBLE_MARGIN == 0.002
    for level in (0.02, 0.3, 0.7, 0.9):  # binary fractions: 0.02 + 0.002 - 0.02 falls short of 0.002
        cases = {A: flat(level, level), B: flat(0.0, 0.0), AB: flat(level + gain, level + gain)}
        assert chosen(cases) == expected


def test_the_best_pair_is_compared_with_the_best_alone():
    cases = {A: flat(0.5), B: flat(0.8), C: flat(0.6), AB: flat(0.81), AC: flat(0.79), BC: flat(0.82)}
    candidates, reasons = rank(cases)
    assert [one.configurations for one in candidates] == [BC, AB, B, AC, C, A]
    assert reasons[0].startswith("b + c: mean foreground Dice 0.8200 over 1 cases, the best; others: a + b 0.8100")
    assert reasons[1].startswith("Best ensemble, b + c, against the best alone, b: Dice +0.0200, and 0.002 is required")
    assert reasons[1].endswith("chosen.")  # one case has no interval


def test_a_pair_that_is_barely_better_stays_behind_and_is_listed():
    candidates, reasons = rank({A: flat(0.9, 0.8), AB: flat(0.901, 0.801), B: flat(0.6, 0.5)})
    assert [one.configurations for one in candidates] == [A, AB, B]
    assert "the best alone; others: a + b 0.8510, b 0.5500" in reasons[0]
    assert "Dice +0.0010, and 0.002 is required, because it costs both; not chosen." in reasons[1]


def test_a_difference_of_all_cases_excludes_zero_one_of_few_may_be_chance():
    same = {A: flat(*np.linspace(0.5, 0.9, 9)), AB: flat(*np.linspace(0.51, 0.91, 9))}
    assert "95 % interval of the difference over cases: +0.0100 to +0.0100, which excludes zero." in rank(same)[1][1]
    few = {A: flat(*[0.7] * 9), AB: flat(0.9, *[0.7] * 8)}
    candidates, reasons = rank(few)
    assert candidates[0].configurations == AB
    assert "+0.0000 to" in reasons[1]
    assert reasons[1].endswith("which includes zero: it may be chance.")


def test_of_equal_pairs_the_first_wins_and_singles_before_pairs():
    assert chosen({A: flat(0.5), B: flat(0.5), C: flat(0.5), AB: flat(0.6), AC: flat(0.6), BC: flat(0.6)}) == AB
    candidates, _ = rank({AB: flat(0.5), A: flat(0.5), B: flat(0.5)})
    assert [one.configurations for one in candidates] == [A, B, AB]


def test_a_label_that_no_case_has_spoils_nothing_and_one_candidate_without_it_stays_comparable():
    absent = {name: [scores("0", a=dice, b=None)] for name, dice in {A: 0.5, B: 0.4, AB: 0.7}.items()}
    candidates, _ = rank(absent, ("a", "b"))
    assert [(one.configurations, one.mean_foreground_dice) for one in candidates] == [(AB, 0.7), (A, 0.5), (B, 0.4)]
    # b is empty in both maps for one candidate, a false alarm for the other: (0.9 + 0) / 2 against 0.9
    alarm = {A: [scores("0", a=0.9, b=0.0)], B: [scores("0", a=0.9, b=None)]}
    assert chosen(alarm, ("a", "b")) == B


def test_without_any_score_the_first_single_wins():
    candidates, reasons = rank({A: flat(None), B: flat(None), AB: flat(None)})
    assert [one.configurations for one in candidates] == [A, B, AB]
    assert candidates[0].mean_foreground_dice is None
    assert candidates[0].interval is None
    assert "No ensemble was chosen: there is no score to compare." in reasons


def test_all_are_compared_on_the_cases_that_all_have():
    cases = {
        A: [scores("x", a=0.1), scores("y", a=0.9), scores("z", a=0.7)],
        B: [scores("z", a=0.6), scores("y", a=0.8)],
        AB: [scores("y", a=0.91), scores("z", a=0.73)],
    }
    candidates, reasons = rank(cases)
    assert [(one.configurations, one.num_cases) for one in candidates] == [(AB, 2), (A, 2), (B, 2)]
    assert [one.mean_foreground_dice for one in candidates] == pytest.approx([0.82, 0.8, 0.7])
    assert reasons[0] == "The configurations have different validation cases: compared on the 2 shared."
    # ahead by 0.01 in y and by 0.03 in z, whatever the order of the files
    assert "Dice +0.0200" in reasons[2]
    assert "+0.0100 to +0.0300, which excludes zero" in reasons[2]


def test_intervals_hold_the_mean():
    candidates, _ = rank({A: flat(0.2, 0.4, 0.6, 0.8)})
    low, high = candidates[0].interval
    assert 0.2 <= low < 0.5 < high <= 0.8


def test_table_of_scores():
    table = dice_table([scores("0", a=0.5, b=None), scores("1", a=None, b=0.25)], ("b", "a"))
    np.testing.assert_array_equal(table, [[np.nan, 0.5], [0.25, np.nan]])
    assert dice_table([], ("a", "b")).shape == (0, 2)
