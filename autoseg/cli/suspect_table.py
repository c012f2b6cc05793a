"""Suspects of wrong labels in the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autoseg.metrics.label_noise import MIN_CASES
from autoseg.records.files import read_record
from autoseg.records.suspects import Suspects
from autoseg.records.workspace import Workspace

MAX_ROWS = 15
"""Suspects in the table; suspects.csv has all."""


def print_suspects(workspace: Workspace) -> None:
    """Print the first suspects of a selection; nothing where none were looked for."""
    if not workspace.suspects.exists():
        return
    found = read_record(Suspects, workspace.suspects)
    if not found.num_cases:
        print(f"Suspects of wrong labels: not looked for; {MIN_CASES} validation cases with the same label are needed.")
        return
    if not found.suspects:
        print(f"Suspects of wrong labels: none among {found.num_cases} validation cases.")
        return
    Console().print(suspect_table(found))
    print(
        f"Suspects of wrong labels: {len(found.suspects)} of {found.num_cases} validation cases, in "
        f"{workspace.suspects_table}; look at them in the report."
    )


def suspect_table(found: Suspects) -> Table:
    """The first suspects with their reasons."""
    table = Table(title="Suspects of wrong labels")
    for column in ("case", "Dice", "expected", "what is wrong"):
        table.add_column(column)
    for suspect in found.suspects[:MAX_ROWS]:
        figures = (f"{suspect.label} {suspect.dice:.2f}", f"{suspect.expected_dice:.2f}")
        table.add_row(*map(escape, (suspect.case, *figures, suspect.reason)))
    return table
