"""Which configurations and folds predict: those asked for, those that `select` chose, or the preferred ones.

Tested in tests/inference/models/test_loading.py.
"""

import logging
from collections.abc import Iterable, Sequence

from autoseg.errors import PredictionError
from autoseg.folds import find_retrained_folds
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.predict")

PREFERENCE = ("3d_cascade_fullres", "3d_fullres", "3d_lowres", "2.5d", "2d")
"""Order of configurations without a selection: most detailed 3D first, with context before without."""
TIE_ORDER = ("2d", "2.5d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""Order of configurations with equal scores: cheaper ones first, as in nnU-Net."""


def choose_recipe(
    workspace: Workspace, plan: Plan, configuration: str | None, folds: Sequence[str] | None, checkpoint: str
) -> Selection:
    """Recipe that the user asked for, else the one that `select` chose, else the preferred trained configuration.

    Args:
        workspace: Workspace with the weights and, maybe, selection.json.
        plan: Plan with the configurations.
        configuration: Name that the user asked for; None: none.
        folds: Folds that the user asked for; None: none.
        checkpoint: `final` or `best`.

    Returns:
        Configurations, folds (empty: all that are trained), thresholds, refinement and post-processing to follow.

    Raises:
        PredictionError: If the configuration is unknown, or nothing is trained.
    """
    asked = tuple(folds or ())
    if configuration is not None:
        if configuration not in plan.configurations:
            raise PredictionError(
                f"{workspace.plan}: no configuration {configuration!r}; it has {', '.join(plan.configurations)}"
            )
        return recipe_of(configuration, asked)
    if workspace.selection.is_file():
        selection = read_record(Selection, workspace.selection)
        if not asked:
            _warn_of_other_folds(workspace, selection, checkpoint)
        for sentence in find_retrained_folds(workspace, selection):
            logger.warning("%s", sentence)
        return selection.model_copy(update={"folds": asked or selection.folds})
    for name in order_configurations(plan.configurations, PREFERENCE):
        if all(workspace.trained_folds(step, checkpoint) for step in cascade_steps(plan, name)):
            return recipe_of(name, asked)
    raise PredictionError(
        f"{workspace.root}: no configuration has a checkpoint_{checkpoint}.safetensors; run autoseg-train first"
    )


def recipe_of(configuration: str, folds: Sequence[str]) -> Selection:
    """Recipe of one configuration as it is, without a score; no folds: all that are trained."""
    return Selection(
        configurations=(configuration,), folds=tuple(folds), mean_foreground_dice=None, candidates=(), reasons=()
    )


def order_configurations(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Names of configurations in a given order; names that are not in it follow in their own."""
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def cascade_steps(plan: Plan, name: str) -> tuple[str, ...]:
    """Names of a configuration and, before it, of all cascade steps that it follows."""
    steps = [name]
    while (previous := plan.configurations[steps[0]].previous_configuration) is not None:
        steps.insert(0, previous)
    return tuple(steps)


def _warn_of_other_folds(workspace: Workspace, selection: Selection, checkpoint: str) -> None:
    for name in selection.configurations:
        others = [
            fold for fold in workspace.trained_folds(name, checkpoint) if fold != "all" and fold not in selection.folds
        ]
        if others:
            logger.warning(
                "%s: chosen without fold(s) %s of %s, which are trained now and not used; run autoseg select again",
                workspace.selection, ", ".join(others), name,
            )  # fmt: skip
