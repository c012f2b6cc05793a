"""Scores of predicted instances, as `predict --instances` wrote them beside the maps of instances.

Tested in tests/inference/files/test_instance_scores.py.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autoseg.errors import UsageError
from autoseg.inference.files.tables import INSTANCES_FILE
from autoseg.records.evaluation import ScoreSource
from autoseg.text import parse_cell

COLUMNS: tuple[Literal["score", "mean_probability"], ...] = ("score", "mean_probability")
"""Columns that rank instances, the better one first."""


@dataclass(frozen=True)
class InstanceScoreTable:
    """Scores by case and number of the instance."""

    source: ScoreSource = "none"
    by_case: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def read_instance_scores(folder: Path) -> InstanceScoreTable:
    """Read the scores of all instances in a folder; none where it has no table.

    Args:
        folder: Folder of label maps; its `instances.csv` has a row for each instance, whose score may be empty.

    Raises:
        UsageError: If the table cannot be read, or a cell is not a number.
    """
    path = folder / INSTANCES_FILE
    if not path.is_file():
        return InstanceScoreTable()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        source = next((column for column in COLUMNS if rows and column in rows[0]), None)
        if source is None:
            return InstanceScoreTable()
        by_case: dict[str, dict[int, float]] = {}
        for row in rows:
            if None in row.values():
                raise ValueError(f"the row of case {row['case']} is too short")
            if row[source]:
                by_case.setdefault(parse_cell(row["case"]), {})[int(row["id"])] = float(row[source])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read as a table of instances ({error}), expected the columns case, id and "
            f"{' or '.join(COLUMNS)} as autoseg predict --instances writes them. Move it away: without it all "
            "instances have score one."
        ) from error
    return InstanceScoreTable(source, by_case)
