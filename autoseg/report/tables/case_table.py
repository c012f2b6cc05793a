"""All cases of an evaluation as one table of comma-separated values, for spreadsheets and statistics programs."""

import csv
from pathlib import Path

from autoseg.records.evaluation import Evaluation, LabelScores
from autoseg.records.files import replacing


def write_case_table(evaluation: Evaluation, path: Path) -> None:
    """Write a row per case and label: `case`, `label`, then every field of LabelScores; missing values are empty cells.

    UTF-8, lines end in CR LF, cells with commas or quotes are quoted (RFC 4180). Written atomically.
    """
    fields = list(LabelScores.model_fields)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "label", *fields))
        for case in evaluation.cases:
            for label, scores in case.labels.items():
                writer.writerow((case.case, label, *(getattr(scores, field) for field in fields)))
