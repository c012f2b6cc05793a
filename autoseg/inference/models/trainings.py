"""Which trainings a recipe was chosen with, so that folds that were trained again since are noticed.

Tested in tests/stages/test_select.py.
"""

import logging
from collections.abc import Iterable, Sequence

from autoseg.records.checkpoint import Checkpoint, training_hash
from autoseg.records.files import read_record
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.predict")


def hash_trainings(
    workspace: Workspace, configurations: Iterable[str], folds: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Hash of the training of each network, by configuration and fold; networks without a record are left out."""
    hashes = {name: _find_trainings(workspace, name, folds) for name in configurations}
    return {name: found for name, found in hashes.items() if found}


def _find_trainings(workspace: Workspace, name: str, folds: Sequence[str]) -> dict[str, str]:
    """Hash of the training of each fold that has a record of its final weights."""
    records = {fold: workspace.fold(name, fold) / "checkpoint_final.json" for fold in folds}
    return {fold: training_hash(read_record(Checkpoint, path)) for fold, path in records.items() if path.exists()}


def warn_of_other_trainings(workspace: Workspace, selection: Selection) -> None:
    """Log a warning for each configuration with folds that were trained again since they were selected."""
    for name, scored in selection.weights.items():
        found = _find_trainings(workspace, name, [*scored])
        others = [fold for fold, training in found.items() if training != scored[fold]]
        if others:
            logger.warning(
                "%s: fold(s) %s of %s were trained again since; score, thresholds and post-processing are those of the "
                "earlier weights. Run autoseg select again",
                workspace.selection, ", ".join(others), name,
            )  # fmt: skip
