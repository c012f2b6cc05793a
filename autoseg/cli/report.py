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
    """Write the HTML page; print suspects of wrong labels and the path of the page."""
    from autoseg.cli.main import DONE
    from autoseg.cli.suspect_table import print_suspects
    from autoseg.records.workspace import Workspace
    from autoseg.report.page.render import render_report

    workspace = Workspace(arguments.workspace)
    page = render_report(workspace)
    print_suspects(workspace)
    print(f"Report: {page}")
    return DONE
