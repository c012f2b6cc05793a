"""What predicts, as one sentence for the log.

Tested in tests/stages/test_predict.py and tests/stages/test_predict_cascade.py.
"""

import logging
from collections.abc import Sequence

from autoseg.inference.models.loading import LoadedConfiguration, find_weights_of_other_plans
from autoseg.inference.restoring.decisions import DEFAULT_THRESHOLDS, Thresholds
from autoseg.postprocessing import describe_step
from autoseg.records.selection import PostprocessingStep

logger = logging.getLogger("autoseg.predict")


def describe_recipe(
    members: Sequence[LoadedConfiguration],
    steps: Sequence[PostprocessingStep],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> str:
    """One sentence for the log: configurations with their folds, thresholds of regions, and post-processing."""
    networks = " and ".join(_describe_member(member) for member in members)
    recipe = "; ".join(map(describe_step, steps))
    limits = "".join(f"; {region} where its probability exceeds {limit:g}" for region, limit in thresholds.items())
    return f"predicting with {networks}{limits}; post-processing: {recipe or 'none'}"


def _describe_member(member: LoadedConfiguration) -> str:
    part = "" if member.weight is None else f"{member.weight:.0%} "
    own = f"{part}{member.name} (fold(s) {', '.join(member.folds)})"
    return own if member.previous is None else f"{own} after {_describe_member(member.previous)}"


def name_weights_of_other_plans(
    members: Sequence[LoadedConfiguration], coarser: LoadedConfiguration | None
) -> tuple[str, ...]:
    """Name the networks that predict although they were trained for another plan, also in a warning."""
    loaded = members if coarser is None else (*members, coarser)
    names = tuple(f"{name}, fold {fold}" for name, fold in find_weights_of_other_plans(loaded))
    if names:
        logger.warning(
            "warning: trained for another plan (spacing, normalisation, labels or network differ), but used with this "
            "one: %s; label maps may be wrong", "; ".join(names),
        )  # fmt: skip
    return names


def loaded_steps(member: LoadedConfiguration) -> tuple[str, ...]:
    """Names of a loaded configuration and, before it, of the cascade steps that are loaded with it."""
    return (member.name,) if member.previous is None else (*loaded_steps(member.previous), member.name)
