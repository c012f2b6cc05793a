"""Tables of scores in the terminal: narrow enough, complete, without columns that say nothing."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.paired import NamedEvaluation, compare_evaluations
from autoseg.metrics.summary import summarize
from autoseg.report.tables.evaluation_tables import (
    COMPARISON_COLUMNS,
    DETAIL_COLUMNS,
    comparison_table,
    evaluation_detail_rows,
    evaluation_details_table,
)
from autoseg.report.tables.tables import EVALUATION_COLUMNS, evaluation_rows, evaluation_table


def show(table, width=80):
    file = StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


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
    assert len(row) == len(EVALUATION_COLUMNS)
    diagonal = np.linalg.norm([50.0, 60.0, 40.0])
    cells = dict(zip(EVALUATION_COLUMNS, row, strict=True))
    assert cells["label"] == "[b]ar"
    assert cells["Dice"] == f"{(0.8 + 0 + 1) / 3:.3f}"
    assert cells["HD95 mm"] == f"{(2 + diagonal + 0) / 3:.2f}"
    assert cells["surface Dice"] == f"{2 / 3:.3f}"
    assert cells["volume ml"] == "-3"  # of three cases one misses 450 voxels of 0.02 ml
    assert cells["missed, false, empty"] == "1 / 0 / 0"


def test_the_other_columns():
    (row,) = evaluation_detail_rows(evaluate(2))
    assert len(row) == len(DETAIL_COLUMNS)
    cells = dict(zip(DETAIL_COLUMNS, row, strict=True))
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
