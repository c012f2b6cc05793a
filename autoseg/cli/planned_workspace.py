"""The workspace that a command works on, once it is planned."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.records.workspace import Workspace


def find_planned_workspace(arguments: argparse.Namespace) -> "Workspace":
    """Give the workspace that a command names.

    Raises:
        UsageError: If there is no such folder, or it has no plan.
    """
    from autoseg.folds import check_planned
    from autoseg.records.workspace import Workspace

    workspace = Workspace(arguments.workspace)
    check_planned(workspace)
    return workspace
