"""The rule of successive halving, against what must hold for any time and number of candidates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.trials.halving import (
    MIN_SLOT_SECONDS,
    choose_survivors,
    choose_training_seconds,
    choose_winner,
    count_affordable,
    count_validation_cases,
    find_round_sizes,
    slot_seconds,
)


@given(st.integers(2, 60))
def test_rounds_shrink_to_two_or_three(number):
    sizes = find_round_sizes(number)
    assert sizes[0] == number
    assert 2 <= sizes[-1] <= 3
    assert list(sizes) == sorted(set(sizes), reverse=True)


@given(st.floats(60.0, 1e5), st.integers(2, 40))
def test_all_rounds_together_take_the_time_that_was_asked_for(seconds, wanted):
    number = count_affordable(seconds, wanted)
    sizes = find_round_sizes(number)
    slots = [slot_seconds(seconds, sizes, index) for index in range(len(sizes))]
    assert sum(slot * size for slot, size in zip(slots, sizes, strict=True)) == pytest.approx(seconds)
    assert all(slot >= MIN_SLOT_SECONDS for slot in slots)
    assert slots == sorted(slots)
    # one more would get less than its shortest time, or was not wanted
    assert number == wanted or slot_seconds(seconds, find_round_sizes(number + 1), 0) < MIN_SLOT_SECONDS


def test_a_time_for_less_than_two_candidates():
    assert count_affordable(59.0, 9) == 0
    assert count_affordable(600.0, 1) == 0


def test_validation_of_the_slowest_candidate_is_taken_off():
    assert choose_training_seconds(180.0, 6, 8.0) == 22.0
    assert choose_training_seconds(20.0, 2, 15.0) < 0


@pytest.mark.parametrize(("whole", "expected"), [(0.0, 40), (9.9, 40), (20.0, 20), (1e6, 1)])
def test_as_many_cases_as_a_third_of_the_time_allows(whole, expected):
    assert count_validation_cases(30.0, 40, whole) == expected


def test_the_best_go_on_in_the_order_of_the_rules():
    assert choose_survivors({"a": 0.5, "b": 0.7, "c": 0.6, "d": None}, 2) == ("b", "c")
    assert choose_survivors({"a": 0.6, "b": 0.6, "c": 0.6}, 2) == ("a", "b")
    assert choose_survivors({"a": None, "b": 0.1}, 2) == ("b",)
    assert choose_survivors({"a": None}, 2) == ()


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ({"rules": 0.800, "other": 0.804}, "rules"),
        ({"rules": 0.800, "other": 0.806}, "other"),
        ({"rules": 0.800, "other": 0.700}, "rules"),
        ({"rules": None, "other": 0.001}, "other"),
        ({"third": 0.5, "other": 0.501}, "other"),
    ],
)
def test_the_rules_decide_among_equals(dice, expected):
    assert choose_winner(dice, "rules") == expected


def test_the_best_wins_where_that_of_the_rules_is_not_tried():
    assert choose_winner({"first": 0.5, "best": 0.501}, None) == "best"
