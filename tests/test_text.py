"""Durations as text."""

import pytest

from autoseg.text import format_duration


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59, "59 s"), (59.7, "1 min"), (60, "1 min"), (3569, "59 min"), (3600, "1 h 0 min"),
     (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)  # fmt: skip
def test_a_duration_has_at_most_two_units(seconds, expected):
    assert format_duration(seconds) == expected
