"""The evaluate command."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from autoseg.cli.main import DONE, SOME_FAILED, UNUSABLE, main


def write_squares(folder, **starts):
    """One picture per case: a square of 6 pixels, so far from the left."""
    folder.mkdir()
    for case, start in starts.items():
        picture = np.zeros((14, 21), dtype=np.uint8)
        picture[4:10, start : start + 6] = 1
        Image.fromarray(picture).save(folder / f"{case}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    """References, predictions shifted by 1 and 2 pixels, and others shifted by 3."""
    return (
        write_squares(tmp_path / "references", a=4, b=4),
        write_squares(tmp_path / "predictions", a=5, b=6),
        write_squares(tmp_path / "others", a=7, b=7),
    )


def evaluate(folders, *words):
    references, predictions, _ = folders
    return main(["evaluate", str(predictions), str(references), "-j", "1", *map(str, words)])


def read(path):
    return json.loads(path.read_text())


def test_surfaces_are_measured_and_all_cases_listed(folders, capsys):
    assert evaluate(folders) == DONE
    _, predictions, _ = folders
    evaluation = read(predictions / "evaluation.json")
    hausdorff = evaluation["labels"]["label_1"]["metrics"]["hausdorff_mm"]
    assert (hausdorff["mean"], hausdorff["mean_with_misses"]) == (1.5, 1.5)
    assert evaluation["surface_tolerance_mm"] == 1.0
    with (predictions / "evaluation.csv").open(newline="") as file:
        assert [(line["case"], line["hausdorff_mm"]) for line in csv.DictReader(file)] == [("a", "1.0"), ("b", "2.0")]
    shown = capsys.readouterr().out
    assert "surface Dice at 1 pixel;" in shown  # the label maps are PNG
    assert "precision" not in shown


@pytest.mark.parametrize("words", [[], ["--instances"]])
def test_cases_are_compared_by_as_many_processes_as_memory_has_room_for(folders, capsys, words):
    references, predictions, _ = folders
    assert main(["evaluate", str(predictions), str(references), "-j", "2", "--max-memory", "130MB", *words]) == DONE
    said = " ".join(capsys.readouterr().err.split())  # 14 x 21 pixels take 9 kB
    assert "evaluation: 1 instead of 2 worker processes, because the largest case takes about" in said


def test_verbose_shows_the_other_metrics(folders, capsys):
    assert evaluate(folders, "-v") == DONE
    assert "precision" in capsys.readouterr().out


def test_the_tolerance_can_be_chosen(folders):
    assert evaluate(folders, "--tolerance", "2") == DONE
    evaluation = read(folders[1] / "evaluation.json")
    assert evaluation["surface_tolerance_mm"] == 2.0
    assert evaluation["labels"]["label_1"]["metrics"]["surface_dice"]["mean"] == 1.0


def test_fast_metrics_leave_surfaces_out(folders, capsys):
    assert evaluate(folders, "--metrics", "fast") == DONE
    metrics = read(folders[1] / "evaluation.json")["labels"]["label_1"]["metrics"]
    assert {"dice", "recall", "pixel_accuracy"} <= metrics.keys()
    assert not {"hausdorff_mm", "surface_dice", "lesion_f1"} & metrics.keys()
    assert "HD95" not in capsys.readouterr().out


@pytest.mark.parametrize("as_file", [False, True], ids=["a folder", "its evaluation.json"])
def test_predictions_are_compared_with_others_of_the_same_cases(folders, tmp_path, capsys, as_file):
    references, predictions, other = folders
    if as_file:
        assert main(["evaluate", str(other), str(references), "-j", "1"]) == DONE
        other = other / "evaluation.json"
    assert evaluate(folders, "--compare", other, "-o", tmp_path / "out" / "e.json") == DONE
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["e.csv", "e.json", "e_comparison.json"]
    comparison = read(tmp_path / "out" / "e_comparison.json")
    assert (comparison["first"], comparison["second"]) == (str(predictions), str(other))
    assert comparison["cases"] == ["a", "b"]
    compared = comparison["labels"]["label_1"]
    assert compared["hausdorff_mm"]["mean_difference"] == -1.5
    assert compared["dice"]["mean_difference"] == pytest.approx(4.5 / 6 - 3 / 6)
    assert compared["dice"]["p_value"] == 0.5
    assert "+0.2500" in capsys.readouterr().out


def test_the_json_is_what_is_written(folders, tmp_path, capsys):
    assert evaluate(folders, "--json") == DONE
    shown = capsys.readouterr()
    assert json.loads(shown.out) == read(folders[1] / "evaluation.json")
    assert "label_1" in shown.err
    assert "Written: " in shown.err
    assert evaluate(folders, "--json", "--compare", folders[2], "-o", tmp_path / "e.json") == DONE
    found = json.loads(capsys.readouterr().out)
    assert found.pop("comparison") == read(tmp_path / "e_comparison.json")
    assert found == read(tmp_path / "e.json")
    assert evaluate(folders, "--json", "--instances") == DONE
    assert json.loads(capsys.readouterr().out) == read(folders[1] / "instance_evaluation.json")


def test_the_json_of_an_incomplete_evaluation_has_exit_code_1(folders, capsys):
    (folders[1] / "b.png").unlink()
    assert evaluate(folders, "--json") == SOME_FAILED
    shown = capsys.readouterr()
    assert json.loads(shown.out)["missing_predictions"] == ["b"]
    assert "not scored: b" in shown.err
    assert evaluate((folders[0], folders[0] / "nowhere", None), "--json") == UNUSABLE
    assert capsys.readouterr().out == ""


def test_a_case_missing_from_the_others_is_told(folders, capsys):
    (folders[2] / "b.png").unlink()
    assert evaluate(folders, "--compare", folders[2]) == SOME_FAILED
    shown = capsys.readouterr()
    assert "1 cases of" in shown.out
    assert "not scored: b: reference without prediction" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "fast", "--tolerance", "2"], "--tolerance is for the surface Dice"),
        (["--compare", "nowhere"], "--compare nowhere: no such folder or file"),
        (["-o", "e.csv"], "-o e.csv: name the .json file"),
    ],
)
def test_contradictions_are_refused_before_any_work(folders, capsys, words, message):
    assert evaluate(folders, *words) == UNUSABLE
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in folders[1].iterdir()) == ["a.png", "b.png"]


def test_the_table_is_shown_even_when_the_file_cannot_be_written(tmp_path, capsys):
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.eye(5, 7, dtype=np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "file").touch()
    words = [
        "evaluate",
        str(tmp_path / "predictions"),
        str(tmp_path / "references"),
        "-o",
        str(tmp_path / "file/e.json"),
    ]
    assert main([*words, "--workers", "1"]) == UNUSABLE
    shown = capsys.readouterr()
    assert "label_1" in shown.out
    assert "e.json: cannot be written" in shown.err
