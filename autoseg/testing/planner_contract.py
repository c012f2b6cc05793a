"""What a planner promises: each promise is one check, and each broken one is one sentence.

Tested in tests/test_testing.py.
"""

import math
from collections.abc import Collection, Iterator

from pydantic import ValidationError

from autoseg.errors import PlanningError
from autoseg.plugins import Planner, find_architectures
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.stages.plan import adopt_model
from autoseg.stages.plan_demands import find_ignored_model, find_ignored_options
from autoseg.testing.trials import THICK_SLICES, WEIGHTS, Trial, adoption_trial, make_trials

MIN_BATCH = 2
"""Patches; one alone makes the gradient too noisy."""

MIN_EDGE = 12
"""Voxels; a shorter axis may be padded to this, so that it can be pooled at all."""


def planner_violations(planner: Planner) -> list[str]:
    """Try a planner on varied datasets and budgets, and say which promises it breaks.

    A planner promises
    - a Plan or a PlanningError; a refusal says what cannot be had: the configuration, the memory, the option;
    - the same plan for the same input, whatever the order of cases; input left untouched and repeated in the plan;
    - a valid record, that is what can be written as JSON and read again: every field within its range, network,
      patch, normalisation and references between configurations fitting together;
    - patches no larger than the padded median image, and at least two of them per batch;
    - what the budget asks for: configurations, time per fold, spacing, patch, batch, the topology of another model;
    - only architectures that the function `architectures` of its module names, where there is one;
    - a reason for every decision.

    Args:
        planner: A function (fingerprint, budget) -> Plan.

    Returns:
        One sentence per broken promise and dataset; empty when all is well.
    """
    trials = [*make_trials(), *_adoption_trials(planner)]
    return [f"{trial.name}: {sentence}" for trial in trials for sentence in _try(planner, trial)]


def _adoption_trials(planner: Planner) -> Iterator[Trial]:
    """Start from a model that the planner planned itself; none where that already failed."""
    plan = _ask(planner, THICK_SLICES.model_copy(deep=True), Budget(installed_weights=WEIGHTS))
    if isinstance(plan, Plan) and plan.configurations and not list(_check_record(plan)):
        yield adoption_trial(adopt_model(plan, "a model of thick slices"))


def _ask(planner: Planner, fingerprint: Fingerprint, budget: Budget) -> object:
    """What a planner gives, or the exception that it raises."""
    try:
        return planner(fingerprint, budget)
    except Exception as error:  # noqa: BLE001  whatever a third-party function raises is what is being reported
        return error


def _try(planner: Planner, trial: Trial) -> Iterator[str]:
    lent = trial.fingerprint.model_copy(deep=True)
    answer = _ask(planner, lent, trial.budget)
    if lent != trial.fingerprint:
        yield "changes the fingerprint it was given"
    if isinstance(answer, Plan):
        yield from _check_plan(answer, trial)
        yield from _check_architectures(answer, find_architectures(planner, trial.budget))
        yield from _check_repeatability(answer, planner, trial)
    elif isinstance(answer, PlanningError):
        yield from _check_refusal(answer, trial)
    elif isinstance(answer, ValidationError):
        yield from _list_faults(answer)
    elif isinstance(answer, Exception):
        yield f"raises {type(answer).__name__} ({answer}) where only PlanningError is allowed"
    else:
        yield f"gives a {type(answer).__name__}, not a Plan"


def _check_refusal(error: PlanningError, trial: Trial) -> Iterator[str]:
    if trial.answer == "plan":
        yield f"PlanningError for data that can be planned: {error}"
    elif trial.refusal_names not in str(error):
        yield f"the PlanningError does not name {trial.refusal_names}: {error}"


def _check_repeatability(plan: Plan, planner: Planner, trial: Trial) -> Iterator[str]:
    lent = trial.fingerprint.model_copy(deep=True)
    if _ask(planner, lent, trial.budget) != plan:
        yield "gives different plans for the same input"
    elif _ask(planner, lent.model_copy(update={"cases": lent.cases[::-1]}), trial.budget) != plan:
        yield "gives another plan when the cases come in another order"


def _check_plan(plan: Plan, trial: Trial) -> Iterator[str]:
    if trial.answer == "refusal":
        yield "gives a plan where a PlanningError is due"
        return
    faults = list(_check_record(plan))
    yield from faults
    if faults:
        return  # what follows counts on a valid plan
    yield from _check_input_repeated(plan, trial)
    for ignored in (*find_ignored_options(plan, trial.budget), *find_ignored_model(plan, trial.budget)):
        yield f"ignores {ignored}"
    for name, configuration in plan.configurations.items():
        for sentence in _check_sizes(configuration, trial.budget):
            yield f"{name}: {sentence}"


def _check_architectures(plan: Plan, declared: Collection[str]) -> Iterator[str]:
    for name, configuration in plan.configurations.items():
        architecture = configuration.network.architecture
        if architecture not in declared:
            yield f"{name}: plans {architecture}, but `architectures` names {', '.join(declared) or 'nothing'}"


def _check_record(plan: Plan) -> Iterator[str]:
    try:
        again = Plan.model_validate_json(plan.model_dump_json(warnings=False))
    except ValidationError as error:
        yield from _list_faults(error)
        return
    if again != plan:
        yield "gives a plan that is another one when it is written as JSON and read again"


def _list_faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        path = ".".join(str(part) for part in fault["loc"]) or "as a whole"
        yield f"gives a plan that is not valid: {path}: {fault['msg'].removeprefix('Value error, ')}"


def _check_input_repeated(plan: Plan, trial: Trial) -> Iterator[str]:
    for name in ("dataset_name", "channel_names", "labels", "encoding", "orientation"):
        if getattr(plan, name) != getattr(trial.fingerprint, name):
            yield f"`{name}` of the plan is not that of the fingerprint"
    if plan.budget != trial.budget:
        yield "`budget` of the plan is not the one it was given"
    if not plan.configurations:
        yield "plans nothing"
    if not plan.decisions or not all(decision.reason.strip() for decision in plan.decisions):
        yield "has decisions without a reason, or none at all"


def _check_sizes(configuration: Configuration, budget: Budget) -> Iterator[str]:
    if budget.overrides.batch_size is None and configuration.batch_size < MIN_BATCH:
        yield f"batch size {configuration.batch_size}, below {MIN_BATCH}"
    if budget.like is not None or budget.overrides.patch_size is not None:
        return
    total = _total_stride(configuration)
    padded = [math.ceil(size / step) * step for size, step in zip(configuration.median_shape, total, strict=True)]
    if any(edge > max(most, MIN_EDGE) for edge, most in zip(configuration.patch_size, padded, strict=True)):
        yield f"patch {configuration.patch_size} is larger than the padded median image {tuple(padded)}"


def _total_stride(configuration: Configuration) -> tuple[int, ...]:
    return tuple(math.prod(axis) for axis in zip(*configuration.network.strides, strict=True))
