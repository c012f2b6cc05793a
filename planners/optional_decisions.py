"""Decisions that a plan lists only where somebody asked for them, or where they are not nothing.

Tested in tests/planners/test_overrides.py and test_heads.py.
"""

from typing import Any

from autoseg.records.budget import Budget
from autoseg.records.training import GrowingPatch
from planners.context import PlanningContext
from planners.preset import Preset
from planners.rules import Decided
from planners.rules.channels import choose_channel_dropout


def list_asked(context: PlanningContext, neighbor_slices: Decided[int]) -> dict[str, Decided[Any]]:
    """What is a decision only where it was asked for, or is not nothing."""
    overrides = context.budget.overrides
    asked = {"contrasts": overrides.contrasts, "regularizer": overrides.regularizer}
    neighbors = {"neighbor_slices": neighbor_slices} if neighbor_slices.value else {}
    requested = {what: Decided(value, "Requested.") for what, value in asked.items() if value is not None}
    dropout = choose_channel_dropout(context.fingerprint)
    return {**neighbors, **requested, **({"channel_dropout": dropout} if dropout.value else {})}


def list_growth(budget: Budget, growth: Decided[tuple[GrowingPatch, ...]]) -> dict[str, Decided[Any]]:
    """Growing patches are a decision of its own only where there are some, or somebody wanted none."""
    if budget.overrides.progressive is None and not growth.value:
        return {}
    return {"growing_patches": Decided(tuple(growing.patch_size for growing in growth.value), growth.reason)}


def list_of_preset(preset: Preset) -> dict[str, Decided[Any]]:
    """Head and weights that a planner starts from, where it has some."""
    found = {"head": preset.head, "initial_weights": preset.initial_weights}
    return {what: decided for what, decided in found.items() if decided is not None}
