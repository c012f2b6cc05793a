"""When refined boundaries are accepted, by figures worked out by hand."""

import pytest

from autoseg.metrics.refinement import judge_refinement
from autoseg.records.evaluation import CaseScores, LabelScores


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
