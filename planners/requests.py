"""What users ask for and a plan for their data cannot have.

Tested in tests/planners/test_overrides.py, test_adoption.py and test_survival.py.
"""

from collections.abc import Container, Sequence

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from planners.configuration import ConfigurationPlanner
from planners.context import PlanningContext
from planners.rules.configurations import THICK_SLICE
from planners.rules.memory import check_adopted_memory


def check_requests(context: PlanningContext, planners: Sequence[ConfigurationPlanner], names: Container[str]) -> None:
    """Refuse what was asked for and does not exist for this data."""
    _check_patch_override(context.budget, planners)
    _check_neighbor_override(context.budget, names)
    _check_regularizer(context.budget, context.fingerprint)
    _check_adopted_memory(context, planners)


def check_options_with_model(budget: Budget) -> None:
    """Refuse options of a planner beside a model whose network is taken."""
    if budget.like is not None and budget.overrides.options:
        raise PlanningError(
            f"--planner-option {', '.join(sorted(budget.overrides.options))}: the network is that of --like "
            f"{budget.like.model}; leave one of them out."
        )


def _check_patch_override(budget: Budget, planners: Sequence[ConfigurationPlanner]) -> None:
    asked = budget.overrides.patch_size
    if asked is not None and all(len(asked) != planner.dimensions for planner in planners):
        needs = ", ".join(f"{planner.name} needs {planner.dimensions}" for planner in planners)
        raise PlanningError(f"--patch-size has {len(asked)} numbers, but {needs}.")


def _check_neighbor_override(budget: Budget, names: Container[str]) -> None:
    if budget.overrides.neighbor_slices is not None and THICK_SLICE not in names:
        raise PlanningError(
            f"--neighbor-slices is meant for the configuration {THICK_SLICE}, which is not planned. Add -c "
            f"{THICK_SLICE}, or leave it out."
        )


def _check_regularizer(budget: Budget, fingerprint: Fingerprint) -> None:
    asked = budget.overrides.regularizer
    if asked not in (None, "none") and fingerprint.encoding.ignore_value is None:
        raise PlanningError(
            f"--regularizer {asked} is for voxels whose label is not known, but the dataset {fingerprint.dataset_name} "
            "has no ignore label. Declare it (--label-names ...,ignore=N), or leave the option out."
        )


def _check_adopted_memory(context: PlanningContext, planners: Sequence[ConfigurationPlanner]) -> None:
    """A preset's reference counts feature maps of its own kind of network, so bytes decide about another's."""
    adopted = [planner for planner in planners if planner.adopted is not None]
    smallest_bytes = {planner.name: planner.estimate_smallest_bytes() for planner in adopted}
    check_adopted_memory(smallest_bytes, context.memory_gigabytes)
