"""`autoseg select`: the cross-validated choice."""

import argparse

from autoseg.cli.options import add_shared, add_workspace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg select`."""
    add_workspace(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Select, and print why."""
    from autoseg.cli.main import DONE
    from autoseg.records.workspace import Workspace
    from autoseg.stages.select import select_model

    workspace = Workspace(arguments.workspace)
    selection = select_model(workspace)
    for reason in selection.reasons:
        print(reason)
    print(f"Written: {workspace.selection}")
    return DONE
