"""Choice of the cases to label next, on numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.records.suggestions import CaseSigns
from autoseg.selection.next_cases import choose_next, place_cases, rank_unknown


def make_signs(case, uncertainty, place=(0.0,), disagreement=None):
    return CaseSigns(
        case=case, origin="", uncertainty=uncertainty, disagreement=disagreement, expected_dice=None,
        features={"appearance": tuple(place)},
    )  # fmt: skip


def choose(signs, count):
    return choose_next(signs, [(f"{own.case}.nii.gz",) for own in signs], count)


def test_the_most_uncertain_comes_first_and_the_next_is_far_from_it():
    signs = [make_signs("a", 0.1, (9.0,)), make_signs("b", 0.9, (0.0,)), make_signs("c", 0.8, (1.0,))]
    found = choose(signs, 2)
    # b is first; then a scores 1/3 * 9/9, c 2/3 * 1/9
    assert [own.case for own in found] == ["b", "a"]
    assert [own.rank for own in found] == [1, 2]
    assert [own.score for own in found] == pytest.approx([1, 1 / 3])
    assert [own.distance for own in found] == [1, 1]
    assert found[0].images == ("b.nii.gz",)
    assert found[0].reason == "uncertainty 0.90, number 1 of 3"
    assert found[1].reason == "uncertainty 0.10, number 3 of 3; distance 1.00 from the cases before"


def test_of_two_copies_the_other_comes_last():
    signs = [make_signs(str(number), 0.5 + number / 100, (number,)) for number in range(6)]
    found = choose([*signs, make_signs("copy", 0.55, (5.0,))], 7)
    assert {found[0].case, found[-1].case} == {"5", "copy"}
    assert found[-1].score == 0


def test_only_the_least_known_compete():
    far = [make_signs(f"far {number}", 0.1, (10.0 * number,)) for number in range(1, 5)]
    near = [make_signs(f"near {number}", 0.8 + number / 100, (number / 100,)) for number in range(4)]
    copies = [make_signs("copy", 0.83, (0.03,))] * 3
    assert [own.case for own in choose([*copies, *far, *near], 2)] in (["near 3", "near 0"], ["copy", "near 0"])
    assert {own.case for own in choose([*copies, *far, *near], 8)} - {"copy"} > {own.case for own in far}


def test_disagreement_counts_as_much_as_uncertainty_where_all_cases_have_it():
    signs = [make_signs("a", 0.9, disagreement=0.0), make_signs("b", 0.5, disagreement=0.2)]
    signs.append(make_signs("c", 0.7, disagreement=0.1))
    assert rank_unknown(signs) == pytest.approx([(1 + 1 / 3) / 2, (1 / 3 + 1) / 2, 2 / 3])
    signs.append(make_signs("d", 0.1))
    assert rank_unknown(signs) == pytest.approx([1, 0.5, 0.75, 0.25])


def test_every_kind_of_feature_counts_equally_and_constant_ones_do_not():
    values = {"one": ((0.0,), (3.0,)), "many": ((1.0, 2.0, 7.0), (5.0, -2.0, 7.0))}
    signs = [
        make_signs(str(number), 0.5).model_copy(
            update={"features": {kind: own[number] for kind, own in values.items()}}
        )
        for number in range(2)
    ]
    points = place_cases(signs)
    difference = points[0] - points[1]
    # deviations are half the differences, so that each feature is 2 apart
    assert np.abs(difference) == pytest.approx([2, 2 / np.sqrt(2), 2 / np.sqrt(2)])


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=12),
    st.integers(1, 15),
)
def test_each_case_is_chosen_once_and_scores_fall(rows, count):
    signs = [make_signs(str(number), row[0], row[1:]) for number, row in enumerate(rows)]
    found = choose(signs, count)
    assert len({own.case for own in found}) == len(found) == min(count, len(signs))
    scores = [own.score for own in found]
    assert scores == sorted(scores, reverse=True)


def test_nothing_to_choose_from():
    assert choose([], 3) == ()
