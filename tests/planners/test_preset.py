"""Planner options: text to values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import PlanningError
from planners.preset import check_options, choice, whole_number, yes_or_no


def test_known_options_pass():
    check_options({}, (), "p")
    check_options({"width": "8"}, ("width", "depth"), "p")


@pytest.mark.parametrize(
    ("options", "known", "message"),
    [
        (
            {"wdth": "8", "width": "8"},
            ("width", "depth"),
            r"wdth: the planner 'p' has no such .* has: width, depth\.",
        ),
        ({"z": "1", "a": "1"}, ("width",), r"--planner-option a, z: .* it has: width\."),
        ({"a": "1"}, (), r"it has: none\."),
        ({"Width": "8"}, ("width",), r"--planner-option Width: "),
    ],
)
def test_unknown_options_name_the_known(options, known, message):
    with pytest.raises(PlanningError, match=message):
        check_options(options, known, "p")


WIDTHS = {"s": 8, "base": 16}


def test_choice():
    assert choice({"width": "s"}, "width", WIDTHS, "base") == 8
    assert choice({"other": "s"}, "width", WIDTHS, "base") == 16


@pytest.mark.parametrize("text", ["", "S", "8", "text", "base "])
def test_wrong_choice_names_the_values(text):
    with pytest.raises(PlanningError, match=f"--planner-option width={text}: expected one of s, base"):
        choice({"width": text}, "width", WIDTHS, "base")


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("032", 32), ("128", 128)])
def test_whole_number(text, number):
    assert whole_number({"n": text}, "n", 1, 128) == number


def test_absent_options_are_none():
    assert whole_number({"m": "3"}, "n", 1, 128) is None
    assert yes_or_no({"m": "true"}, "n") is None


@pytest.mark.parametrize("text", ["", "0", "129", "-1", "+5", "8.0", "1e1", "eight", " 8", "²"])
def test_wrong_number_names_the_range(text):
    with pytest.raises(PlanningError, match=r"--planner-option n=.*: expected a whole number from 1 to 128"):
        whole_number({"n": text}, "n", 1, 128)


@given(st.text(max_size=6))
def test_any_text_is_a_number_in_range_or_refused(text):
    try:
        number = whole_number({"n": text}, "n", 3, 77)
    except PlanningError:
        return
    assert number == int(text)
    assert 3 <= number <= 77


def test_yes_or_no():
    assert yes_or_no({"skip": "true"}, "skip") is True
    assert yes_or_no({"skip": "false"}, "skip") is False


@pytest.mark.parametrize("text", ["", "yes", "True", "1", "FALSE"])
def test_wrong_yes_or_no(text):
    with pytest.raises(PlanningError, match=f"--planner-option skip={text}: expected true or false"):
        yes_or_no({"skip": text}, "skip")
