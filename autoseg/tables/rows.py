"""Rows of tables.

Tested in tests/tables/test_evaluations.py.
"""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from autoseg.text import Row


def add_rows(table: Table, rows: Sequence[Row]) -> None:
    """Append rows whose cells are plain text."""
    for row in rows:
        table.add_row(*map(escape, row))  # square brackets in names are not markup
