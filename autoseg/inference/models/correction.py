"""The networks that correct label maps by clicks, which a model may have beside those that predict.

Tested in tests/stages/test_correct.py.
"""

import logging
from collections.abc import Sequence

import torch

from autoseg.inference.models.loading import LoadedConfiguration, find_weights_of_other_plans, load_configuration
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.predict")


def find_correcting(plan: Plan) -> str | None:
    """Name of the configuration that corrects label maps by clicks; None: the plan has none."""
    return next((name for name, configuration in plan.configurations.items() if configuration.clicks is not None), None)


def load_correcting(
    workspace: Workspace, plan: Plan, folds: Sequence[str] | None, checkpoint: str, device: torch.device
) -> LoadedConfiguration | None:
    """Load the networks that correct by clicks, if any are trained.

    Args:
        workspace: Workspace with the weights.
        plan: Plan of the model.
        folds: Folds that were asked for, of which those that are trained are taken; None: all that are trained.
        checkpoint: `final` or `best`.
        device: Device of the networks.

    Returns:
        None where none is trained, or all of them were trained for another plan, which is logged.

    Raises:
        PredictionError: If a weights file is damaged.
    """
    name = find_correcting(plan)
    trained = () if name is None else workspace.trained_folds(name, checkpoint)
    chosen = trained if folds is None else tuple(fold for fold in folds if fold in trained)
    if name is None or not chosen:
        return None
    loaded = load_configuration(workspace, plan, name, () if folds is None else chosen, checkpoint, device)
    if others := find_weights_of_other_plans([loaded]):
        logger.warning("warning: %s, fold %s was trained for another plan and corrects nothing", *others[0])
        return None
    return loaded
