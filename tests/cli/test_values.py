import argparse

import pytest

from autoseg.cli.values import (
    MAX_SIZE,
    channel_list,
    count,
    duration,
    gigabytes,
    named_labels,
    positive_integer,
    positive_number,
    side_pair,
    size,
    worker_count_from_zero,
    worker_number,
)
from autoseg.records import network

HUGE = "9" * 400
"""As a float it is infinite."""


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5 h", 5400), ("2m", 120), ("1d", 86400)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "min", "-5min", "0s", "5 parsecs", "infs", f"{HUGE}s", f"{HUGE[:308]}d"])
def test_no_durations(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize(("text", "expected"), [("8GB", 8), ("500MB", 0.5), ("24g", 24), ("1TB", 1000)])
def test_sizes(text, expected):
    assert gigabytes(text) == expected


@pytest.mark.parametrize("text", ["8", "0GB", f"{HUGE}GB"])
def test_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a size such as 8GB"):
        gigabytes(text)


def test_channels():
    assert channel_list("CT, PET") == ("CT", "PET")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_no_count(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
        positive_integer(text)


@pytest.mark.parametrize("text", ["-1", "two", "1.5", "²", ""])
def test_no_count_from_zero(text):
    assert count("0") == 0
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 0 to"):
        count(text)


@pytest.mark.parametrize(
    ("text", "number"), [("0.75", 0.75), (".5", 0.5), ("1.", 1), ("1e0", 1), ("7.5E-1", 0.75), ("1", 1)]
)
def test_numbers_above_zero(text, number):
    assert positive_number(text) == number


@pytest.mark.parametrize(
    "text", ["0", "0.0", "-1", "-0", "nan", "inf", "-inf", "1e999", "1e-999", HUGE, "1mm", "²", ""]
)
def test_no_numbers_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a number above 0 and up to 1000000, such as 0\.75"):
        positive_number(text)


def test_named_labels():
    assert named_labels("liver=1, left kidney = 2,a=b=3").labels == {"liver": 1, "left kidney": 2, "a=b": 3}
    assert named_labels("whole=1+2, core= 2,ignore=255").labels == {"whole": (1, 2), "core": 2, "ignore": 255}
    for wrong in ("liver", "liver=", "=1", "liver=x", "liver=-1", "liver=1,", "liver=1,liver=2", "a=1+", "a=1+1"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected NAME=VALUE|given twice"):
            named_labels(wrong)


@pytest.mark.parametrize("text", ["1000000000000", f"1{'0' * 30}", "9" * 5000, "nan", "inf", "1e3", "-5", "١"])
@pytest.mark.parametrize("read", [positive_integer, size, worker_number, count, worker_count_from_zero])
def test_no_whole_number_is_without_bound(read, text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a whole number from [01] to [0-9]+$") as caught:
        read(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("read", "most"), [(size, 2**16), (worker_number, 1024), (positive_integer, 10**9)])
def test_the_largest_whole_number_is_accepted(read, most):
    assert read(str(most)) == most
    with pytest.raises(argparse.ArgumentTypeError):
        read(str(most + 1))


def test_the_largest_size_is_that_of_plans():
    assert MAX_SIZE == network.MAX_SIZE


@pytest.mark.parametrize("text", ["1e300", "nan", "inf", "-1", "0", "1000001"])
def test_no_number_is_without_bound(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number above 0 and up to 1000000"):
        positive_number(text)


@pytest.mark.parametrize("text", ["1e300h", f"1{'0' * 300}h", "100000d", "-1h", "nanh"])
def test_no_duration_is_without_bound(text):
    with pytest.raises(argparse.ArgumentTypeError, match="of at most ten years"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [("left kidney=right kidney", ("left kidney", "right kidney")), (" a = b ", ("a", "b")), ("none", None)],
)
def test_pairs_of_labels(text, pair):
    assert side_pair(text) == pair


@pytest.mark.parametrize("text", ["", "left", "left=", "=right", "="])
def test_no_pair_of_labels(text):
    with pytest.raises(
        argparse.ArgumentTypeError, match="is neither a pair such as 'left kidney=right kidney' nor none"
    ):
        side_pair(text)
