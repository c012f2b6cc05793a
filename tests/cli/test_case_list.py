"""`--write-list` and the patterns, from the command line to the list; no image is opened."""

import json
from pathlib import Path

import pytest

from autoseg.cli.main import main
from tests.builders import touch_files


def make(folder: Path, *patterns: str) -> Path:
    return touch_files(folder, ("a", "b", "c"), *patterns)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_recognised_cases_and_the_next_command(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(make(tmp_path, "set/{0}/t1.nii", "set/{0}/adc.nii", "set/{0}/seg.nii"))
    assert main([command, "set", "--channels", "t1,adc", "--write-list", "my list.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: recognised one folder for each case: 3 cases, such as a with a/")
    assert lines[1:] == ["List: my list.csv (3 cases)", "Next: autoseg-plan 'my list.csv'"]
    assert Path("my list.csv").read_text().splitlines()[:2] == [
        "case,t1,adc,label",
        "a,set/a/t1.nii,set/a/adc.nii,set/a/seg.nii",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my list.csv", "set"]


def test_patterns_and_what_a_list_cannot_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make(tmp_path, "x/{0}_1.nii", "x/{0}_2.nii", "y/{0}.nii"))
    Path("dataset.json").write_text(json.dumps({"labels": {"liver": 1}, "channel_names": ["CT", "CT"]}))
    Path("y/c.nii").unlink()
    patterns = ["--image-pattern", "x/{case}_{channel}.nii", "--label-pattern", "y/{case}.nii"]
    assert main(["plan", ".", *patterns, "--write-list", "l.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "error: c: x/c_1.nii: there is no label map for this image",
        "List: l.csv (3 cases)",
        "Next: autoseg-plan l.csv --channels CT,CT --label-names liver=1",
    ]
    assert Path("l.csv").read_text().splitlines()[-1] == "c,x/c_1.nii,x/c_2.nii,"


@pytest.mark.parametrize(
    ("declared", "options", "expected"),
    [
        ({"labels": {"background": 0, "all": [1, 2], "core": 2}, "regions_class_order": [1, 2]}, [],
         "background=0,all=1+2,core=2"),
        ({"labels": {"background": 0, "all": [1, 2], "core": 2}, "regions_class_order": [2, 1]}, [], ""),
        (None, ["--label-names", "liver=1,spleen=3"], "liver=1,spleen=3"),
        (None, ["--label-names", "../names.json"], "../names.json"),
    ],
)  # fmt: skip
def test_labels_of_the_next_command(tmp_path, monkeypatch, capsys, declared, options, expected):
    monkeypatch.chdir(make(tmp_path / "set", "images/{0}.nii", "labels/{0}.nii"))
    (tmp_path / "names.json").write_text(json.dumps({"labels": {"liver": 1}}))
    if declared is not None:
        Path("dataset.json").write_text(json.dumps({**declared, "channel_names": ["CT"]}))
    assert main(["plan", ".", *options, "--write-list", "l.csv"]) == 0
    (following,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: "))
    assert following == f"Next: autoseg-plan l.csv{' --label-names ' if expected else ''}{expected}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-pattern", "{case}.nii"], "--image-pattern needs --label-pattern beside it"),
        (["--label-pattern", "{case}.nii"], "--label-pattern needs --image-pattern beside it"),
        (["--image-pattern", "x", "--label-pattern", "{case}"], "--image-pattern 'x': has no {case}"),
        (["--write-list", "l.txt"], "--write-list l.txt: the name of the list must end in .csv"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(make(tmp_path, "images/{0}.nii", "labels/{0}.nii"))
    assert main(["plan", ".", *options]) == 2
    assert message in capsys.readouterr().err
