"""Planners of installed packages, found by the entry-point group `autoseg.planners`.

autoseg's own planners are found in the same way. A package adds one by naming its function in its metadata:

    [project.entry-points."autoseg.planners"]
    mine = "my_package.planner:plan"

A function `architectures(budget)` beside it, in the same module, says which kinds of networks it may plan, so that
only their speed is measured. `autoseg.testing.planner_violations` checks both. A function
`candidates(name, plan, trial_seconds)` says what is tried where the user asks for trials, and
`tried_architectures(budget)` which kinds of networks these may have, if they are others. A function
`external_networks(budget)` names networks of other packages, which are then measured before the planner is asked. A
function `variants(networks)` names sets of options that a list of networks shows.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from autoseg.entry_points import find_entries, load_function
from autoseg.errors import PlanningError, UsageError
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate

GROUP = "autoseg.planners"

DEFAULT_PLANNER = "auto"
"""The planner that decides where the user names none."""

Planner = Callable[[Fingerprint, Budget], Plan]
"""No files, no clock, no torch: equal input gives an equal plan."""


def planner_names() -> tuple[str, ...]:
    """Names of all installed planners, sorted."""
    return tuple(sorted(find_entries(GROUP)))


def find_planner(name: str) -> Planner:
    """Load an installed planner.

    Args:
        name: Name of the entry point.

    Returns:
        The planner's function.

    Raises:
        UsageError: If no package, or more than one, has a planner of that name.
        PlanningError: If the package that has it cannot be imported or names something that is not there.
    """
    packages = find_entries(GROUP).get(name, {})
    if not packages:
        installed = ", ".join(planner_names()) or "none; install autoseg again"
        raise UsageError(f"No planner is called '{name}'; installed: {installed}.")
    planner: Planner
    _, planner = load_function(f"The planner '{name}'", packages, PlanningError)
    return planner


def find_candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide, best first.

    Args:
        name: Name of an installed planner; `candidates(name, plan, trial_seconds)` in its module says what is tried.
            Each of its configurations without a cascade, where there is no such function.
        plan: What this planner plans.
        trial_seconds: Time of all trials together.
    """
    declare = getattr(sys.modules.get(find_planner(name).__module__), "candidates", None)
    if declare is not None:
        return tuple(declare(name, plan, trial_seconds))
    return tuple(
        Candidate(name=f"{name}-{key}", planner=name, configuration=key)
        for key, configuration in plan.configurations.items()
        if configuration.previous_configuration is None
    )


def find_tried_architectures(name: str, budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that the trials of a planner may have, in the order of `Architecture`."""
    planner = find_planner(name)
    declare = getattr(sys.modules.get(planner.__module__), "tried_architectures", None)
    if declare is None:
        return find_architectures(planner, budget)
    declared = declare(budget)
    every: tuple[Architecture, ...] = get_args(Architecture)
    return tuple(architecture for architecture in every if architecture in declared)


def find_architectures(planner: Planner, budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that a planner may build for a budget, in the order of `Architecture`.

    Args:
        planner: A planner's function; `architectures(budget)` in its module says what it may build. All, where there
            is no such function.
        budget: With a model to start from: what that model has.
    """
    every: tuple[Architecture, ...] = get_args(Architecture)
    if budget.like is not None:
        adopted = {configuration.network.architecture for configuration in budget.like.configurations.values()}
        return tuple(name for name in every if name in adopted)
    declare = getattr(sys.modules.get(planner.__module__), "architectures", None)
    declared = every if declare is None else declare(budget)
    return tuple(name for name in every if name in declared)


def find_external_networks(planner: Planner, budget: Budget) -> tuple[tuple[str, Mapping[str, str]], ...]:
    """Networks of other packages that a planner wants to plan, each with the network's own settings.

    Args:
        planner: A planner's function; `external_networks(budget)` in its module names them. None, where there is no
            such function.
        budget: With a model to start from: none, their costs are known.

    Raises:
        PlanningError: If the planner's options name none.
    """
    declare = getattr(sys.modules.get(planner.__module__), "external_networks", None)
    return () if declare is None or budget.like is not None else tuple(declare(budget))


def find_variants(planner: Planner, networks: Sequence[str]) -> tuple[Mapping[str, str], ...]:
    """Sets of planner options that a list of networks shows.

    Args:
        planner: A planner's function; `variants(networks)` in its module names them. The defaults alone, where there is
            no such function.
        networks: Installed networks of other packages.
    """
    declare = getattr(sys.modules.get(planner.__module__), "variants", None)
    return ({},) if declare is None else tuple(declare(networks))
