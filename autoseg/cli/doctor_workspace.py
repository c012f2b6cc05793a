"""The part of `autoseg doctor` that concerns a workspace: damaged preprocessed cases and stale locks.

Tested in tests/cli/test_doctor_workspace.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.records.workspace import Workspace
    from autoseg.stages.repair import Damage


def examine_workspace(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a workspace, correct it if that was asked for, and give the exit code."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.options import worker_count
    from autoseg.cli.terminal import progress_bar
    from autoseg.errors import UsageError
    from autoseg.records.workspace import Workspace
    from autoseg.stages.repair import find_damage, remove_leftovers, store_damaged_again
    from autoseg.text import format_command

    workspace, workers = Workspace(arguments.workspace), worker_count(arguments)
    if not workspace.plan.is_file():
        raise UsageError(f"{workspace.root}: not a workspace, it has no plan.json; give a folder of autoseg-plan")
    stale = _print_locks(workspace)
    damage = find_damage(workspace, workers=workers, bar=progress_bar) if workspace.dataset.is_file() else {}
    _print_damage(workspace, damage)
    if not arguments.repair:
        if stale or damage:
            command = format_command("autoseg", "doctor", workspace.root, "--repair")
            print(f"{'to correct it':>15}  {command}")
        return SOME_FAILED if stale or damage else DONE
    for path in remove_leftovers(workspace):
        print(f"{'removed':>15}  {path}")
    if damage:
        store_damaged_again(workspace, damage, workers=workers, bar=progress_bar)
        print(f"{'stored again':>15}  {sum(map(len, damage.values()))} preprocessed cases")
    return DONE


def _print_locks(workspace: Workspace) -> bool:
    """Print the locks of a workspace; returns whether any is stale."""
    from autoseg.locks import find_locks

    found = find_locks(workspace)
    for item in found:
        state = "stale, its process does not run any more: " if item.is_stale else ""
        print(f"{'lock':>15}  {state}{item.describe()}")
    if not found:
        print(f"{'locks':>15}  none")
    return any(item.is_stale for item in found)


def _print_damage(workspace: Workspace, damage: Damage) -> None:
    for name, cases in damage.items():
        for case, what in cases.items():
            print(f"{'damaged':>15}  {workspace.preprocessed(name)}: case {case} {what}")
    if not damage:
        print(f"{'arrays':>15}  none damaged")
