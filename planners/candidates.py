"""What is tried where a plan is decided by trials: planners with settings, the most promising first.

`autoseg plan --trials` trains them for a short time on fold 0. Time decides how many of a list are tried, so it begins
with what differs most: other networks and configurations, then patches that grow, the learning rate, and the width.

A new planner takes part once its name stands in `planners.auto.TRIED`.
"""

from collections.abc import Mapping, Sequence

from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate

SLOW_FACTOR = 1 / 3
"""The planned learning rate times this is tried, too. Not a higher one: twice the rate has not improved the Dice of the
hippocampus (`planners.rules.schedule`)."""

MAX_FOLD_FRACTION = 0.5
"""Widths are tried where a fold trains at most for this part of the time of all trials: then the last trials are about
as long. What is best in a much shorter training is too narrow for the whole one, which the rules for widths know."""


def list_configurations(planner: str, plan: Plan, allowed: Sequence[str] | None = None) -> tuple[Candidate, ...]:
    """One candidate for each configuration that a planner may be asked for.

    Args:
        planner: Name of the planner.
        plan: What the rules plan; its cascades are left out, which need another training before their own.
        allowed: Configurations that the planner has; None: all.
    """
    names = [name for name, configuration in plan.configurations.items() if not configuration.previous_configuration]
    return tuple(
        Candidate(name=f"{planner}-{name}", planner=planner, configuration=name)
        for name in names
        if allowed is None or name in allowed
    )


def list_variants(planner: str, plan: Plan, widths: Sequence[int], trial_seconds: float) -> tuple[Candidate, ...]:
    """Candidates of one planner with other settings than planned.

    Args:
        planner: Name of the planner.
        plan: Its plan, or one with the same widths.
        widths: Values of its option `base_features`; empty: it has none.
        trial_seconds: Time of all trials together.
    """
    own = list_configurations(planner, plan)
    growing = [
        candidate.model_copy(update={"name": f"{candidate.name}-growing", "progressive": True})
        for candidate in own
        if plan.budget.overrides.progressive is None
        and not plan.configurations[candidate.configuration].training.growing_patches
    ]
    slow = [
        candidate.model_copy(update={"name": f"{candidate.name}-slow", "learning_rate_factor": SLOW_FACTOR})
        for candidate in own
    ]
    wider = [
        candidate.model_copy(update={"name": f"{candidate.name}-w{width}", "options": {"base_features": str(width)}})
        for candidate in own
        for width in _find_neighbours(plan, candidate.configuration, widths, trial_seconds)
    ]
    return (*growing, *slow, *wider)


def _find_neighbours(plan: Plan, name: str, widths: Sequence[int], trial_seconds: float) -> list[int]:
    """Next narrower and next wider width than the planned one, where trials can tell; none if the user chose it."""
    configuration = plan.configurations[name]
    promised = configuration.training.time_per_fold_seconds
    if (
        promised is None
        or promised > MAX_FOLD_FRACTION * trial_seconds
        or "base_features" in plan.budget.overrides.options
    ):
        return []
    planned = configuration.network.features[0]
    narrower = [width for width in widths if width < planned]
    wider = [width for width in widths if width > planned]
    return [*([max(narrower)] if narrower else []), *([min(wider)] if wider else [])]


def list_candidates(
    tried: Mapping[str, Sequence[str] | None], plan: Plan, widths: Sequence[int], trial_seconds: float
) -> tuple[Candidate, ...]:
    """All candidates, the one that the rules plan first.

    Args:
        tried: Names of planners, the one of the rules first, with the configurations that each has; None: all.
        plan: What the rules plan.
        widths: Values of the option `base_features` of the first planner; empty: it has none.
        trial_seconds: Time of all trials together.
    """
    networks = [
        candidate for planner, allowed in tried.items() for candidate in list_configurations(planner, plan, allowed)
    ]
    return (*networks, *list_variants(next(iter(tried)), plan, widths, trial_seconds))
