"""The table of trials in the terminal."""

from rich.markup import escape
from rich.table import Table

from autoseg.records.trials import Trials
from autoseg.trials.sentences import tabulate


def trial_table(trials: Trials) -> Table:
    """Dice of every candidate in every round, the ones that came furthest first."""
    columns, rows = tabulate(trials)
    table = Table(title="Trials on fold 0: mean Dice of whole validation cases")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
