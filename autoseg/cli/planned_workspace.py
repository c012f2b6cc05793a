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
    from autoseg.errors import UsageError
    from autoseg.records.workspace import Workspace

    workspace = Workspace(arguments.workspace)
    if not workspace.root.is_dir():
        raise UsageError(f"{workspace.root}: there is no such folder; give the workspace that autoseg-plan wrote")
    if not workspace.plan.exists():
        raise UsageError(
            f"{workspace.root}: not a workspace, it has no plan.json; give the folder that autoseg-plan wrote"
        )
    return workspace
