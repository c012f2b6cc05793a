"""What a terminal shows of tables."""

from io import StringIO

from rich.console import Console


def show(*tables, width=80):
    """Text of tables in a terminal of so many columns."""
    file = StringIO()
    console = Console(file=file, width=width)
    for table in tables:
        console.print(table)
    return file.getvalue()
