"""`autoseg report`: one HTML page about a workspace.

Tested in tests/cli/test_import_nnunet.py.
"""

import argparse

from autoseg.cli.options import add_shared, add_workspace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg report`."""
    add_workspace(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the HTML page and print its path."""
    from autoseg.cli.main import DONE
    from autoseg.records.workspace import Workspace
    from autoseg.report.page.render import render_report

    print(f"Report: {render_report(Workspace(arguments.workspace))}")
    return DONE
