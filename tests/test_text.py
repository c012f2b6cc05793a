"""Durations and numbers as text: units, decimals, and a dash where there is no value."""

import subprocess
from pathlib import Path

import pytest

from autoseg.text import (
    comparable_name,
    format_cell,
    format_command,
    format_count,
    format_duration,
    format_folds,
    format_interval,
    format_memory,
    format_number,
    format_quantity,
    format_short,
    format_signed,
    format_tick,
    format_value,
    parse_cell,
)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59, "59 s"), (59.7, "1 min"), (60, "1 min"), (3569, "59 min"), (3600, "1 h 0 min"),
     (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)  # fmt: skip
def test_a_duration_has_at_most_two_units(seconds, expected):
    assert format_duration(seconds) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases")])
def test_a_single_thing_is_not_plural(count, expected):
    assert format_count(count, "case") == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.1 + 0.2, "0.3"), (1500, "1500"), (25_000, "25k"), (2e6, "2M"), (0, "0"), (-3e9, "-3G")]
)
def test_ticks_are_short(value, expected):
    assert format_tick(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(1_704_123, "1,704,000"), (35, "35"), (999.96, "1000"), (0.5, "0.5")])
def test_figures_have_no_exponent(value, expected):
    assert format_quantity(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(None, "–"), (0.5, "0.500"), (-0.25, "-0.250"), (123.4, "123")])
def test_figures_are_short(value, expected):
    assert format_short(value) == expected


def test_values_read_as_a_person_would_write_them():
    assert format_value(True) == "yes"
    assert format_value(0.1 + 0.2) == "0.3"
    assert format_value((3, 1.5)) == "3, 1.5"
    assert format_value(()) == "none"
    assert format_value(((1, 1), (2, 2))) == "1, 1; 2, 2"
    assert format_value(None) == "–"


def test_numbers_without_a_value_are_a_dash():
    assert [format_number(None), format_signed(None), format_interval(None)] == ["–"] * 3
    assert format_number(0.12345, 4) == "0.1235"
    assert [format_signed(0.5), format_signed(-12.345)] == ["+0.5", "-12.3"]
    assert format_interval((0.1, 0.25)) == "0.100 to 0.250"
    assert format_interval((0.1, 0.25), 1, separator="–") == "0.1–0.2"


@pytest.mark.parametrize(("size", "expected"), [(99_900_000, "99.9 MB"), (100_000_000, "0.10 GB")])
def test_memory_is_in_megabytes_below_a_tenth_of_a_gigabyte(size, expected):
    assert format_memory(size) == expected


@pytest.mark.parametrize(
    ("names", "expected"), [(("0",), "fold 0"), (("0", "3"), "folds 0, 3"), (("all",), "fold all")]
)
def test_folds_are_named_in_words(names, expected):
    assert format_folds(names) == expected


PASTED = ["autoseg-train", "-w", "my data.autoseg", "it's", "a;b", "$HOME", "(1)", "münchen", "a&b", "*"]


def test_a_command_arrives_as_it_was_given():
    command = format_command(*PASTED, windows=False)
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, check=True, text=True)
    assert shown.stdout.splitlines() == PASTED


def test_plain_commands_are_not_quoted():
    words: list[str | Path] = ["autoseg-train", Path("/data/Task01_X.autoseg"), "-c", "3d_fullres", "-f", "0"]
    for windows in (False, True):
        assert format_command(*words, windows=windows) == "autoseg-train /data/Task01_X.autoseg -c 3d_fullres -f 0"


def test_windows_knows_double_quotes_only():
    assert format_command("autoseg-train", r"C:\my data", r"C:\a&b", r"D:\x", windows=True) == (
        r'autoseg-train "C:\my data" "C:\a&b" D:\x'
    )


def test_a_folder_that_begins_with_a_hyphen_is_no_option():
    assert format_command("autoseg", "select", Path("-x"), "-f", windows=False) == "autoseg select ./-x -f"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x", "＝1+1"])
def test_what_a_spreadsheet_computes_gets_an_apostrophe_that_reading_takes_away(text):
    assert format_cell(text) == f"'{text}"
    assert parse_cell(format_cell(text)) == text


@pytest.mark.parametrize("text", ["liver", "-3.5", "+1e-5", "-inf", "", "'quoted'", "a=b", "'"])
def test_numbers_and_other_texts_stay_as_they_are(text):
    assert format_cell(text) == text
    assert parse_cell(text) == text


@pytest.mark.parametrize("name", ["left_kidney", "Left Kidney", " left-kidney ", "LEFT -_KIDNEY"])
def test_names_that_mean_the_same(name):
    assert comparable_name(name) == "left_kidney"
