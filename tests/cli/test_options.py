import argparse

import pytest

from autoseg.cli.options import channel_list, default_workspace, duration, gigabytes, positive_integer


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5 h", 5400), ("2m", 120), ("1d", 86400)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "min", "-5min", "0s", "5 parsecs"])
def test_no_durations(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize(("text", "expected"), [("8GB", 8), ("500MB", 0.5), ("24g", 24), ("1TB", 1000)])
def test_sizes(text, expected):
    assert gigabytes(text) == expected


def test_no_size():
    with pytest.raises(argparse.ArgumentTypeError, match="'8' is not a size such as 8GB"):
        gigabytes("8")


def test_channels():
    assert channel_list("CT, PET") == ("CT", "PET")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_no_count(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
        positive_integer(text)


def test_the_workspace_is_named_after_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Task04").mkdir()
    (tmp_path / "cases.csv").touch()
    assert default_workspace(tmp_path / "Task04") == tmp_path / "Task04.autoseg"
    assert default_workspace(tmp_path / "cases.csv") == tmp_path / "cases.autoseg"
