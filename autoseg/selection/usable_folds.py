"""Which trained folds take part in a selection: those that belong to plan and data as they are now.

Tested in tests/stages/test_select.py.
"""

import logging

from autoseg.errors import UsageError
from autoseg.folds import find_outdated_results, find_split
from autoseg.inference.models.cascade_maps import is_trained_on_maps_of_today
from autoseg.inference.models.correction import find_correcting
from autoseg.inference.models.recipes import TIE_ORDER, order_configurations
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.text import format_command

logger = logging.getLogger("autoseg.select")


def find_usable_folds(workspace: Workspace, plan: Plan) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Trained folds that belong to plan and data, by configuration, and one sentence for each of the others.

    Configurations come in the order in which the first of equals wins; one that only corrects by clicks is left out.

    Raises:
        UsageError: If there is none.
        RecordError: If a JSON file is damaged.
    """
    trained = _trained_configurations(workspace, plan)
    faults = {
        (name, fold): find_outdated_results(workspace, plan, name, fold)
        or _find_other_maps(workspace, plan, name, fold)
        for name, folds in trained.items()
        for fold in folds
    }
    reasons = [
        f"{name}: fold {fold} {fault}, so it was left out; "
        + format_command("autoseg-train", workspace.root, "-c", name, "-f", fold, "--restart")
        for (name, fold), fault in faults.items()
        if fault
    ]
    valid = {name: tuple(fold for fold in folds if not faults[name, fold]) for name, folds in trained.items()}
    if not any(valid.values()):
        raise UsageError(
            "\n".join([f"{workspace.root}: no trained fold belongs to plan and data as they are now:", *reasons])
        )
    for reason in reasons:
        logger.warning("warning: %s", reason)
    return {name: folds for name, folds in valid.items() if folds}, reasons


def _trained_configurations(workspace: Workspace, plan: Plan) -> dict[str, tuple[str, ...]]:
    """Trained folds by configuration, in tie order, but that which only corrects by clicks."""
    names = {path.name for path in (workspace.root / "models").glob("*") if path.is_dir()} - {find_correcting(plan)}
    ordered = order_configurations(sorted(names), TIE_ORDER)
    trained = {name: folds for name in ordered if (folds := workspace.trained_folds(name))}
    if not trained:
        raise UsageError(f"{workspace.root}: no fold is fully trained; run autoseg-train first")
    return trained


def _find_other_maps(workspace: Workspace, plan: Plan, name: str, fold: str) -> str:
    """Rest of a sentence about a fold of a cascade that was trained on label maps of other weights; else empty."""
    record = workspace.fold(name, fold) / "checkpoint_final.json"
    previous = plan.configurations[name].previous_configuration if name in plan.configurations else None
    if previous is None or not record.exists() or not workspace.dataset.exists():
        return ""
    split = find_split(workspace, read_record(DatasetDescription, workspace.dataset), fold)
    if is_trained_on_maps_of_today(workspace, plan, name, split, read_record(Checkpoint, record)):
        return ""
    return f"was trained on label maps of an earlier training of {previous}"
