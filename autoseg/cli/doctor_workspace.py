"""The part of `autoseg doctor` that concerns a workspace: damaged preprocessed cases and stale locks.

Tested in tests/cli/test_doctor_workspace.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from autoseg.cli.planned_workspace import find_planned_workspace

if TYPE_CHECKING:
    from autoseg.records.diagnosis import LockState, WorkspaceDiagnosis
    from autoseg.records.workspace import Workspace
    from autoseg.stages.repair import Damage


def examine_workspace(arguments: argparse.Namespace) -> WorkspaceDiagnosis:
    """Print what is wrong with a workspace, and correct it if that was asked for."""
    from autoseg.cli.options import worker_count
    from autoseg.cli.terminal import progress_bar
    from autoseg.records.diagnosis import WorkspaceDiagnosis
    from autoseg.stages.repair import find_damage, remove_leftovers, store_damaged_again
    from autoseg.text import format_command

    workspace, workers = find_planned_workspace(arguments), worker_count(arguments)
    locks = _print_locks(workspace)
    damage = find_damage(workspace, workers=workers, bar=progress_bar) if workspace.dataset.is_file() else {}
    _print_damage(workspace, damage)
    found = WorkspaceDiagnosis(
        workspace=str(workspace.root),
        locks=locks,
        damage={name: dict(cases) for name, cases in damage.items()},
        is_repaired=False,
    )
    if not arguments.repair:
        if not found.is_sound:
            command = format_command("autoseg", "doctor", workspace.root, "--repair")
            print(f"{'to correct it':>15}  {command}")
        return found
    removed = tuple(str(path) for path in remove_leftovers(workspace))
    for path in removed:
        print(f"{'removed':>15}  {path}")
    if damage:
        store_damaged_again(workspace, damage, workers=workers, bar=progress_bar)
        print(f"{'stored again':>15}  {sum(map(len, damage.values()))} preprocessed cases")
    return found.model_copy(update={"is_repaired": True, "removed": removed})


def _print_locks(workspace: Workspace) -> tuple[LockState, ...]:
    """Print the locks of a workspace, and return them."""
    from autoseg.locks import find_locks
    from autoseg.records.diagnosis import LockState

    locks = tuple(LockState(description=item.describe(), is_stale=item.is_stale) for item in find_locks(workspace))
    for lock in locks:
        state = "stale, its process does not run any more: " if lock.is_stale else ""
        print(f"{'lock':>15}  {state}{lock.description}")
    if not locks:
        print(f"{'locks':>15}  none")
    return locks


def _print_damage(workspace: Workspace, damage: Damage) -> None:
    for name, cases in damage.items():
        for case, what in cases.items():
            print(f"{'damaged':>15}  {workspace.preprocessed(name)}: case {case} {what}")
    if not damage:
        print(f"{'arrays':>15}  none damaged")
