"""Tables of scores in the terminal: narrow enough, complete, without columns that say nothing."""

import csv

import numpy as np
import pytest

from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.paired import NamedEvaluation, compare_evaluations
from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.tables.evaluations import (
    COMPARISON_COLUMNS,
    comparison_table,
    detail_columns,
    evaluation_columns,
    evaluation_detail_rows,
    evaluation_details_table,
    evaluation_rows,
    evaluation_table,
    write_case_table,
)
from tests.tables.shown import show


def evaluate(shift, tolerance_mm=2.0):
    """A box shifted along x in case a, missed in b, perfect in c."""
    reference = np.zeros((5, 30, 40), dtype=np.uint8)
    reference[1:4, 5:20, 10:20] = 1
    moved = np.roll(reference, shift, axis=2)
    cases = [
        measure_case(case, prediction, reference, {"[b]ar": 1}, (10.0, 2.0, 1.0), tolerance_mm)
        for case, prediction in (("a", moved), ("b", moved * 0), ("c", reference))
    ]
    return summarize(cases, ["[b]ar"])


def test_the_main_columns():
    (row,) = evaluation_rows(evaluate(2))
    assert len(row) == len(evaluation_columns())
    diagonal = np.linalg.norm([50.0, 60.0, 40.0])
    cells = dict(zip(evaluation_columns(), row, strict=True))
    assert cells["label"] == "[b]ar"
    assert cells["Dice"] == f"{(0.8 + 0 + 1) / 3:.3f}"
    assert cells["HD95 mm"] == f"{(2 + diagonal + 0) / 3:.2f}"
    assert cells["surface Dice"] == f"{2 / 3:.3f}"
    assert cells["volume ml"] == "-3"  # of three cases one misses 450 voxels of 0.02 ml
    assert cells["missed, false alarms, empty"] == "1 / 0 / 0"


def test_the_other_columns():
    (row,) = evaluation_detail_rows(evaluate(2))
    assert len(row) == len(detail_columns())
    cells = dict(zip(detail_columns(), row, strict=True))
    assert cells["precision"] == f"{(0.8 + 0 + 1) / 3:.3f}"
    assert cells["recall"] == f"{(0.8 + 0 + 1) / 3:.3f}"
    assert cells["RVD"] == "-0.333"
    assert cells["lesion F1"] == f"{2 / 3:.3f}"


@pytest.mark.parametrize(
    ("table", "last"),
    [(evaluation_table, "0"), (evaluation_details_table, "0.556")],  # both empty; panoptic quality (2/3 + 0 + 1) / 3
)
def test_figures_fit_into_eighty_columns(table, last):
    text = show(table(evaluate(2)))
    assert all(len(line) <= 80 for line in text.splitlines())
    line = next(line for line in text.splitlines() if "[b]ar" in line)
    assert "…" not in text
    assert line.split()[-1] == last


def test_columns_without_any_value_are_left_out():
    text = show(evaluation_table(evaluate(2, tolerance_mm=None)))
    assert "HD95" not in text
    assert "surface" not in text
    assert "IoU" in text
    assert "surface Dice at 2 mm" in show(evaluation_table(evaluate(2)), 120)


def test_a_comparison_shows_differences_and_their_test():
    comparison = compare_evaluations(NamedEvaluation("new", evaluate(1)), NamedEvaluation("old", evaluate(5)))
    text = show(comparison_table(comparison))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "new minus old, 3 cases" in text
    assert "+0.1333" in text  # (0.9 - 0.5) / 3
    assert "-1.3333" in text  # HD95, (1 - 5) / 3
    assert all(word in text for name in COMPARISON_COLUMNS for word in name.split())
    dice = next(line.split() for line in text.splitlines() if "Dice" in line and "+0.1333" in line)
    assert dice[-3:] == ["3", "1", "1"]  # cases, of which one differs, p


def make_scores(dice):
    counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 1)
    return LabelScores(dice=dice, iou=dice, predicted_voxels=2, reference_voxels=2, **counts)


def test_an_evaluation_is_shown_by_label_with_its_mean():
    cases = [CaseScores(case=name, labels={"liver": make_scores(dice)}) for name, dice in (("a", 0.5), ("b", 1.0))]
    evaluation = summarize(cases, ["liver"])
    assert evaluation_rows(evaluation) == [
        ("liver", "0.750", "0.500–1.000", "0.750", "–", "–", "–", "–", "2", "0 / 0 / 0")
    ]
    text = show(evaluation_table(evaluation))
    assert "2 cases" in text
    assert "0.500–1.000" in text.splitlines()[-2]  # the mean over labels
    assert evaluation_table(summarize(cases[:1], ["liver"])).title == "1 case"


def test_the_caption_speaks_of_volumes_where_there_are_any():
    shown = {unit: " ".join(show(evaluation_table(evaluate(2), unit), width=120).split()) for unit in ("mm", "pixels")}
    assert "diagonal of the image; volume: predicted minus reference" in shown["mm"]
    assert "counts as the diagonal of the image" in shown["pixels"]
    assert "predicted minus reference" not in shown["pixels"]


def test_labels_without_any_score_show_a_dash():
    assert evaluation_rows(summarize([], ["liver"])) == [("liver", *["–"] * 7, "0", "0 / 0 / 0")]


def test_brackets_in_names_are_no_markup():
    evaluation = summarize([], ["[red]liver"])
    assert "[red]liver" in show(evaluation_table(evaluation))


def test_every_case_and_label_is_a_line(tmp_path):
    reference = np.eye(6, 7, dtype=int)[None] * 2
    cases = [
        measure_case(case, reference * factor, reference, {'with, and "quotes"': 2, "empty": 1}, (3.0, 1.0, 1.0))
        for case, factor in (("a", 1), ("bä", 0))
    ]
    write_case_table(summarize(cases, list(cases[0].labels)), tmp_path / "evaluation.csv")

    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.csv"]
    raw = (tmp_path / "evaluation.csv").read_bytes()
    assert raw.count(b"\r\n") == raw.count(b"\n") == 5
    with (tmp_path / "evaluation.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["case", "label", *LabelScores.model_fields]
    assert [line[:2] for line in lines] == [
        ["a", 'with, and "quotes"'], ["a", "empty"], ["bä", 'with, and "quotes"'], ["bä", "empty"],
    ]  # fmt: skip
    hit, empty, missed, _ = (dict(zip(header, line, strict=True)) for line in lines)
    assert (hit["dice"], hit["hausdorff_mm"], hit["reference_voxels"]) == ("1.0", "0.0", "6")
    assert (missed["dice"], missed["hausdorff_mm"], missed["recall"]) == ("0.0", "", "0.0")
    assert (empty["dice"], empty["reference_voxels"]) == ("", "0")


def test_names_of_others_are_no_formulas(tmp_path):
    reference = np.eye(6, 7, dtype=int)[None]
    case = measure_case("@SUM(A1)", reference, reference, {"=1+1": 1}, (3.0, 1.0, 1.0))
    write_case_table(summarize([case], ["=1+1"]), tmp_path / "evaluation.csv")
    assert (tmp_path / "evaluation.csv").read_text().splitlines()[1].startswith("'@SUM(A1),'=1+1,1.0,")
