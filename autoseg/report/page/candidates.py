"""Candidates that `select` compared, as a table for the terminal.

Tested in tests/cli/test_select.py.
"""

from rich.table import Table

from autoseg.metrics.comparison import format_names, format_score
from autoseg.records.selection import Interval, Selection


def candidate_table(selection: Selection) -> Table:
    """Table with one row per candidate, the selected one first; scores before post-processing, cost of prediction."""
    table = Table(title="Candidates, before post-processing; the first is selected")
    table.add_column("configuration")
    for column in ("mean Dice", "95 % interval", "cases", "folds", "cost"):
        table.add_column(column, justify="right")
    for candidate in selection.candidates:
        table.add_row(
            format_names(candidate.configurations),
            format_score(candidate.mean_foreground_dice),
            format_interval(candidate.interval),
            str(candidate.num_cases),
            " ".join(candidate.folds),
            "" if candidate.relative_cost is None else f"{candidate.relative_cost:.3g} x",
        )
    return table


def format_interval(interval: Interval | None) -> str:
    """Lower and upper bound, such as `0.8123 to 0.8456`; empty without an interval."""
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
