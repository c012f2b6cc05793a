"""Candidates: which ways to plan are tried on fold 0, what each of them plans, and the plan of the one that wins.

The planner that was asked for lists its candidates (`plugins.find_candidates`); time decides how many are tried. A
candidate is planned for the time of its trial by the planner's own rules, which fit width, batch and patch to it, and
the winner is planned again for the time of a fold. So networks compete, not sizes that suit one of the times.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autoseg.errors import BudgetError, PlanningError, UsageError
from autoseg.plugins import find_candidates
from autoseg.records.budget import Budget
from autoseg.records.dataset import DatasetDescription
from autoseg.records.fingerprint import Fingerprint, data_hash
from autoseg.records.plan import Configuration, Decision, Plan, Splits, Target
from autoseg.records.trials import Candidate, Trials
from autoseg.stages.plan import make_plan
from autoseg.text import format_duration
from autoseg.trials.halving import MIN_FINALISTS, MIN_SLOT_SECONDS, count_affordable, find_round_sizes, slot_seconds
from autoseg.trials.sentences import explain_choice, list_results

logger = logging.getLogger("autoseg.plan")

FOLD = "0"
"""Fold that all candidates are tried on."""


@dataclass(frozen=True, kw_only=True)
class TrialRequest:
    """What the user wants to be decided by trials."""

    description: DatasetDescription
    fingerprint: Fingerprint
    splits: Splits
    rules: Plan
    """What is planned without trials."""
    budget: Budget
    """Budget of the plan that is decided."""
    planner: str
    """Planner whose candidates are tried."""
    target: Target
    seconds: float
    """Time of all trials together, without preprocessing."""


def outline_trials(request: TrialRequest) -> Trials:
    """Decide which candidates are tried, and in which rounds; nothing is trained yet.

    Raises:
        UsageError: If the dataset has no fold with validation cases, or the time is too short for two candidates; names
            the time that suffices.
        PlanningError: If there are not two candidates to choose from.
    """
    if not request.splits.folds or not request.splits.folds[0].validation:
        raise UsageError(
            "--trials: there are too few cases for a fold with validation cases, by which candidates could be "
            "compared. Plan without --trials."
        )
    listed = find_candidates(request.planner, request.rules, request.seconds)
    refused: dict[str, PlanningError | UsageError] = {}
    for number in range(count_affordable(request.seconds, len(listed)), MIN_FINALISTS - 1, -1):
        sizes = find_round_sizes(number)
        refused = dict(_find_refusals(request, listed, slot_seconds(request.seconds, sizes, 0)))
        tried = [candidate for candidate in listed if candidate.name not in refused][:number]
        if len(tried) == number:
            left = [candidate.name for candidate in listed if candidate not in tried and candidate.name not in refused]
            reasons = {name: str(error) for name, error in refused.items()}
            reasons |= dict.fromkeys(left, f"{format_duration(request.seconds)} are enough for {number} candidates.")
            by_rules = listed[0].name if listed[0] in tried else None
            return _make_trials(request, tried, by_rules, reasons)
    raise _refuse(request, listed, refused)


def _find_refusals(
    request: TrialRequest, candidates: Sequence[Candidate], seconds: float
) -> Iterator[tuple[str, PlanningError | UsageError]]:
    """Name and fault of each candidate that cannot be planned for this time per fold."""
    for candidate in candidates:
        try:
            plan = plan_candidate(request, candidate, seconds)
        except (PlanningError, UsageError) as error:  # UsageError: the planner is not installed
            yield candidate.name, error
        else:
            if plan.transpose != request.rules.transpose:
                yield candidate.name, PlanningError("It has another order of axes than the planner that was asked for.")


def _make_trials(
    request: TrialRequest, tried: Sequence[Candidate], by_rules: str | None, left_out: Mapping[str, str]
) -> Trials:
    fold = request.splits.folds[0]
    return Trials(
        seconds=request.seconds,
        planner=request.planner,
        target=request.target,
        budget=request.budget,
        data_hash=data_hash(request.fingerprint, fold),
        candidates=tuple(tried),
        by_rules=by_rules,
        left_out=dict(left_out),
        round_sizes=find_round_sizes(len(tried)),
        num_validation_cases=len(fold.validation),
    )


def _refuse(
    request: TrialRequest, listed: Sequence[Candidate], refused: Mapping[str, PlanningError | UsageError]
) -> PlanningError | UsageError:
    """The error where not two candidates fit the time; names a time that suffices, where more time helps."""
    asked = f"--trials {format_duration(request.seconds)}"
    if len(listed) < MIN_FINALISTS:
        names = ", ".join(candidate.name for candidate in listed) or "none"
        return PlanningError(f"{asked}: there is nothing to choose from ({names}). Plan without --trials.")
    if not refused:
        needed = format_duration(MIN_FINALISTS * MIN_SLOT_SECONDS)
        return UsageError(f"{asked}: too short to compare two networks. Give --trials {needed} or more.")
    needs = sorted(
        error.needed for error in refused.values()
        if isinstance(error, BudgetError) and error.limit == "--time-per-fold"
    )  # fmt: skip
    missing = MIN_FINALISTS - (len(listed) - len(refused))
    if len(needs) >= missing:
        needed = format_duration(60.0 * -(-MIN_FINALISTS * needs[missing - 1] // 60))
        return UsageError(f"{asked}: too short to compare two networks on this data. Give --trials {needed} or more.")
    reasons = "\n".join(f"  {name}: {error}" for name, error in refused.items())
    return PlanningError(f"{asked}: there are not two candidates to choose from:\n{reasons}\nPlan without --trials.")


def plan_candidate(request: TrialRequest, candidate: Candidate, seconds: float | None = None) -> Plan:
    """The plan of a candidate.

    Args:
        request: Data and budget.
        candidate: What is planned.
        seconds: Time per fold; None: that of the budget.

    Raises:
        PlanningError: If it cannot be planned.
        UsageError: If its planner is not installed.
    """
    overrides = request.budget.overrides
    own: dict[str, object] = {"options": {**overrides.options, **candidate.options}}
    if candidate.progressive:
        own["progressive"] = True
    changes: dict[str, object] = {
        "configurations": (candidate.configuration,),
        "overrides": overrides.model_copy(update=own),
    }
    if seconds is not None:
        changes["time_per_fold_seconds"] = seconds
    budget = request.budget.model_copy(update=changes)
    plan = make_plan(request.fingerprint, budget, candidate.planner, request.target)
    plan = plan.model_copy(update={"file_ending": request.description.file_ending})
    if candidate.learning_rate_factor == 1.0:
        return plan
    return _with_learning_rate(plan, candidate)


def _with_learning_rate(plan: Plan, candidate: Candidate) -> Plan:
    name = candidate.configuration
    configuration = plan.configurations[name]
    rate = configuration.training.learning_rate * candidate.learning_rate_factor
    training = configuration.training.model_copy(update={"learning_rate": rate})
    changed = configuration.model_copy(update={"training": training})
    reason = f"The planned rate times {candidate.learning_rate_factor:.3g}, which is what was tried."
    decision = Decision(what=f"{name}.learning_rate", value=rate, reason=reason)
    decisions = (*plan.decisions, decision)
    return plan.model_copy(update={"configurations": {**plan.configurations, name: changed}, "decisions": decisions})


def name_trial(candidate: str, number: int) -> str:
    """Name of the configuration that a candidate trains in a round."""
    return f"{candidate}-{number + 1}"


def plan_trials(request: TrialRequest, trials: Trials) -> Plan:
    """One plan with the configuration of every candidate in every round, named by `name_trial`.

    Candidates whose images are preprocessed in the same way share their arrays, those of the first of them.

    Raises:
        PlanningError: If a candidate cannot be planned for the longer times of later rounds.
    """
    request = replace(request, budget=trials.budget)
    configurations: dict[str, Configuration] = {}
    for number in range(len(trials.round_sizes)):
        seconds = slot_seconds(trials.seconds, trials.round_sizes, number)
        for candidate in trials.candidates:
            name = name_trial(candidate.name, number)
            planned = plan_candidate(request, candidate, seconds).configurations[candidate.configuration]
            shared = _find_shared(configurations, planned) or name
            configurations[name] = planned.model_copy(update={"preprocessed_as": shared})
    return request.rules.model_copy(update={"configurations": configurations, "decisions": ()})


def _find_shared(configurations: Mapping[str, Configuration], planned: Configuration) -> str | None:
    """Name of the first configuration whose preprocessed arrays serve another one; None without any."""
    for name, other in configurations.items():
        if all(
            getattr(other, field) == getattr(planned, field) for field in ("spacing", "normalization", "resampling")
        ):
            return name
    return None


def plan_winner(request: TrialRequest, trials: Trials) -> Plan:
    """The plan of the candidate that won, for the whole budget; its first decision lists what was tried.

    Raises:
        PlanningError: If it cannot be planned for the whole budget.
    """
    winner = next(candidate for candidate in trials.candidates if candidate.name == trials.chosen)
    plan = plan_candidate(request, winner)
    seconds = plan.configurations[winner.configuration].training.time_per_fold_seconds
    decision = Decision(what="trials", value=list_results(trials), reason=explain_choice(trials, seconds))
    return plan.model_copy(update={"decisions": (decision, *plan.decisions)})
