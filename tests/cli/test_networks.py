"""`autoseg networks` as a user types it."""

import csv
import json

import pytest

from autoseg.cli.main import main

UNEXT = ["networks", "--planner", "unext", "--patch-size", "16", "32", "32"]


def test_the_table_shows_what_each_network_costs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(UNEXT) == 0
    printed = capsys.readouterr().out
    for text in ("unext width=s", "unext width=text", "32 x 32", "16 x 32 x 32", "parameters", "MACs", "batch of 2"):
        assert text in printed


def test_json_and_csv_have_the_same_rows(tmp_path, capsys):
    path = tmp_path / "networks.csv"
    assert main([*UNEXT, "--channels", "3", "--classes", "4", "--json", "--csv", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == ""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["rows"]) == 6
    for row, expected in zip(rows, found["rows"], strict=True):
        assert (row["macs"], row["parameters"]) == (str(expected["macs"]), str(expected["parameters"]))
        assert row["options"] == f"width={expected['options']['width']}"
        assert row["step_seconds"] == ""


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--patch-size", "64"], "expected two or three numbers"),
        (["--patch-size", "64", "0"], "each at least 1"),
        (["--classes", "1"], "--classes at least 2"),
        (["--planner", "nnet"], "No planner is called 'nnet'"),
        (["some.autoseg", "--channels", "2"], "are those of the workspace: leave them out"),
        (["some.autoseg"], "some.autoseg: not a workspace"),
    ],
)
def test_wrong_requests_are_refused(capsys, words, fault):
    assert main(["networks", *words]) == 2
    assert fault in capsys.readouterr().err
