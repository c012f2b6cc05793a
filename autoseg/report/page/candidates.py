"""What was compared before something was selected, as a table for the terminal."""

from rich.table import Table

from autoseg.metrics.comparison import format_names, format_score
from autoseg.records.selection import Interval, Selection


def candidate_table(selection: Selection) -> Table:
    """One line per candidate, the chosen one first; scores are of before post-processing, cost is of prediction."""
    table = Table(title="Candidates, before post-processing; the first is chosen")
    table.add_column("configuration")
    for column in ("mean Dice", "95 % interval", "cases", "folds", "cost"):
        table.add_column(column, justify="right")
    for one in selection.candidates:
        table.add_row(
            format_names(one.configurations),
            format_score(one.mean_foreground_dice),
            format_interval(one.interval),
            str(one.num_cases),
            " ".join(one.folds),
            "" if one.relative_cost is None else f"{one.relative_cost:.3g} x",
        )
    return table


def format_interval(interval: Interval | None) -> str:
    """`0.8123 to 0.8456`, or nothing."""
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
