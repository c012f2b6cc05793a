"""Which candidate is chosen and which changes are kept, by figures worked out by hand, and the sentences about them."""

import numpy as np
import pytest

from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.selection.verdicts import (
    ENSEMBLE_MARGIN,
    MAX_REFUSALS,
    StepReport,
    Verdict,
    describe_steps,
    dice_table,
    judge_refinement,
    judge_step,
    rank_candidates,
)


def dice_of(case, **dice):
    """Counts are not looked at here."""
    counts = dict.fromkeys(
        ("true_positives", "false_positives", "false_negatives", "predicted_voxels", "reference_voxels"), 1
    )
    return CaseScores(
        case=case,
        labels={name: LabelScores(dice=value, iou=value, **counts) for name, value in dice.items()},
    )


def flat(*values):
    """One label, cases 0, 1, ... with these scores."""
    return [dice_of(str(number), a=value) for number, value in enumerate(values)]


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
    absent = {name: [dice_of("0", a=dice, b=None)] for name, dice in {A: 0.5, B: 0.4, AB: 0.7}.items()}
    candidates, _ = rank(absent, ("a", "b"))
    assert [(one.configurations, one.mean_foreground_dice) for one in candidates] == [(AB, 0.7), (A, 0.5), (B, 0.4)]
    # b is empty in both maps for one candidate, a false alarm for the other: (0.9 + 0) / 2 against 0.9
    alarm = {A: [dice_of("0", a=0.9, b=0.0)], B: [dice_of("0", a=0.9, b=None)]}
    assert chosen(alarm, ("a", "b")) == B


def test_without_any_score_the_first_single_wins():
    candidates, reasons = rank({A: flat(None), B: flat(None), AB: flat(None)})
    assert [one.configurations for one in candidates] == [A, B, AB]
    assert candidates[0].mean_foreground_dice is None
    assert candidates[0].interval is None
    assert "No ensemble was chosen: there is no score to compare." in reasons


def test_all_are_compared_on_the_cases_that_all_have():
    cases = {
        A: [dice_of("x", a=0.1), dice_of("y", a=0.9), dice_of("z", a=0.7)],
        B: [dice_of("z", a=0.6), dice_of("y", a=0.8)],
        AB: [dice_of("y", a=0.91), dice_of("z", a=0.73)],
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
    table = dice_table([dice_of("0", a=0.5, b=None), dice_of("1", a=None, b=0.25)], ("b", "a"))
    np.testing.assert_array_equal(table, [[np.nan, 0.5], [0.25, np.nan]])
    assert dice_table([], ("a", "b")).shape == (0, 2)


YES = Verdict(True, 0.5, 0.75, ())
NO = Verdict(False, 0.5, 0.25, ("a", "b"))


def test_judging_knows_no_score():
    before = {"a": 0.5, "b": None, "c": 0.25}
    rises = judge_step(before, {"a": 0.75, "b": None, "c": 0.25}, "a")
    assert (rises.is_accepted, rises.before, rises.after, rises.fallen) == (True, 0.5, 0.75, ())
    assert not judge_step(before, before, "a").is_accepted
    assert not judge_step(before, {"a": 0.75, "b": None, "c": 0.2}, "a").is_accepted
    assert judge_step(before, {"a": 0.75, "b": None, "c": 0.2}, None).fallen == ("c",)
    gone = judge_step({"a": 0.0, "b": 0.5}, {"a": None, "b": 0.5}, "a")
    assert (gone.is_accepted, gone.after, gone.fallen) == (False, None, ())
    assert judge_step({"a": 0.0, "b": 0.5}, {"a": None, "b": 0.5}, None).is_accepted


def test_every_step_has_its_figures_and_idle_ones_share_a_sentence():
    reports = [StepReport("a", None), StepReport("b", YES, "below 5 mm³"), StepReport("c", NO), StepReport("d", None)]
    assert list(describe_steps("Fill holes", reports)) == [
        "Fill holes of b: yes, below 5 mm³, Dice 0.5000 before, 0.7500 after.",
        "Fill holes of c: no, Dice 0.5000 before, 0.2500 after; lower for a, b.",
        "Fill holes of a, d: no, nothing would change.",
    ]
    assert list(describe_steps("Fill holes", [])) == []


def test_refusals_do_not_flood_the_page_and_nothing_accepted_is_left_out():
    reports = [StepReport(f"l{number}", NO) for number in range(MAX_REFUSALS + 2)] + [StepReport("last", YES)]
    said = list(describe_steps("Fill holes", reports))
    assert len(said) == MAX_REFUSALS + 2
    assert said[-2].startswith("Fill holes of last: yes")
    assert said[-1] == "Fill holes of l8, l9: no, Dice does not rise, or falls for another label."


def test_a_tiny_gain_is_shown_as_such():
    (said,) = describe_steps("Fill holes", [StepReport("a", Verdict(True, 0.5, 0.500002, ()))])
    assert said == "Fill holes of a: yes, Dice 0.5000 before, higher by 2e-06 after."
    (said,) = describe_steps("Fill holes", [StepReport("a", Verdict(False, 0.0, None, ()))])
    assert said.endswith("Dice 0.0000 before, none after.")


def scores(dice, surface, distance):
    return LabelScores(
        dice=dice, iou=None, true_positives=0, false_positives=0, false_negatives=0, predicted_voxels=1,
        reference_voxels=1, surface_dice=surface, hausdorff_95_mm=distance,
    )  # fmt: skip


def cases(*labels):
    """One case per entry, with the labels one and two."""
    return [
        CaseScores(case=str(number), labels={"one": scores(*one), "two": scores(*two)})
        for number, (one, two) in enumerate(labels)
    ]


def judge(before, after):
    return judge_refinement(before, after, ("one", "two"))


BEFORE = cases(((0.8, 0.7, 3.0), (0.6, 0.5, 4.0)), ((0.8, 0.9, 1.0), (0.8, 0.7, 2.0)))


@pytest.mark.parametrize(
    ("after", "accepted"),
    [
        (((0.8, 0.8, 3.0), (0.6, 0.5, 4.0)), True),  # surface Dice alone rises
        (((0.8, 0.7, 2.9), (0.6, 0.5, 4.0)), True),  # HD95 alone falls
        (((0.8, 0.6, 2.9), (0.6, 0.5, 4.0)), True),  # one of both is enough
        (((0.8, 0.7, 3.0), (0.6, 0.5, 4.0)), False),  # nothing changes
        (((0.8, 0.7039, 2.991), (0.6, 0.5, 4.0)), False),  # 0.00098 more, 0.0009 less
        (((0.8, 0.7041, 3.0), (0.6, 0.5, 4.0)), True),  # 0.001025 more
        (((0.8, 0.7, 2.989), (0.6, 0.5, 4.0)), True),  # 2.5 mm become 2.49725
        (((0.9, 0.7, 3.0), (0.7, 0.5, 4.0)), False),  # Dice is not what it is for
        (((0.9, 0.8, 2.0), (0.59, 0.6, 3.0)), False),  # one label's Dice falls, the mean rises
        (((0.7, 0.8, 2.0), (0.6, 0.6, 3.0)), False),  # the mean falls
    ],
)
def test_acceptance(after, accepted):
    assert judge(BEFORE, [*cases(after), BEFORE[1]]).is_accepted is accepted


def test_figures_are_means_over_labels_of_means_over_cases():
    verdict = judge(BEFORE, cases(((0.9, 0.8, 2.0), (0.6, 0.5, 4.0)), ((0.8, 0.9, 1.0), (0.8, 0.7, 2.0))))
    assert verdict.before.surface_dice == pytest.approx((0.8 + 0.6) / 2)
    assert verdict.after.surface_dice == pytest.approx((0.85 + 0.6) / 2)
    assert verdict.after.hausdorff_95_mm == pytest.approx((1.5 + 3.0) / 2)
    assert verdict.describe(1.5) == (
        "surface Dice at 1.5 mm 0.7000 before, 0.7250 after; HD95 2.500 mm before, 2.250 mm after; "
        "Dice 0.7500 before, 0.7750 after"
    )


def test_a_structure_that_is_lost_does_not_shorten_distances():
    """Case 0 loses label two: its distance of 4 mm leaves both means, and the Dice of 0 speaks."""
    verdict = judge(BEFORE, cases(((0.8, 0.7, 3.0), (0.0, 0.0, None)), ((0.8, 0.9, 1.0), (0.8, 0.7, 2.0))))
    assert verdict.before.hausdorff_95_mm == verdict.after.hausdorff_95_mm == pytest.approx((2.0 + 2.0) / 2)
    assert not verdict.is_accepted
    assert verdict.describe(1.5).endswith("lower for two")


def test_nothing_known_is_not_accepted():
    empty = cases(((None, None, None), (None, None, None)))
    verdict = judge(empty, empty)
    assert not verdict.is_accepted
    assert "HD95 unknown before" in verdict.describe(1.5)
