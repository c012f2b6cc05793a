"""Which changes are kept, by figures worked out by hand, and the sentences about them."""

import pytest

from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.selection.verdicts import (
    MAX_REFUSALS,
    StepReport,
    Verdict,
    describe_steps,
    judge_refinement,
    judge_step,
)

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
    return judge_refinement(before, after, ("one", "two"), 1.5)


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
    assert verdict.figures == (
        "surface Dice at 1.5 mm 0.7000 before, 0.7250 after; HD95 2.500 mm before, 2.250 mm after; "
        "Dice 0.7500 before, 0.7750 after"
    )


def test_a_structure_that_is_lost_does_not_shorten_distances():
    """Case 0 loses label two: its distance of 4 mm leaves both means, and the Dice of 0 speaks."""
    verdict = judge(BEFORE, cases(((0.8, 0.7, 3.0), (0.0, 0.0, None)), ((0.8, 0.9, 1.0), (0.8, 0.7, 2.0))))
    assert verdict.before.hausdorff_95_mm == verdict.after.hausdorff_95_mm == pytest.approx((2.0 + 2.0) / 2)
    assert not verdict.is_accepted
    assert verdict.figures.endswith("lower for two")


def test_nothing_known_is_not_accepted():
    empty = cases(((None, None, None), (None, None, None)))
    verdict = judge(empty, empty)
    assert not verdict.is_accepted
    assert "HD95 unknown before" in verdict.figures
