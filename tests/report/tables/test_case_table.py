"""The table of all cases, read back with Python's own reader."""

import csv

import numpy as np

from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import LabelScores
from autoseg.report.tables.case_table import write_case_table


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
