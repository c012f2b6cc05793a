"""Trials: train candidates on fold 0 for a short time, round after round, and choose the one with the best Dice.

    outline_trials -> trials/plan.json -> preprocess -> train and validate each candidate, the best ones again, longer
                                                     -> trials/trials.json

Every candidate of a round trains for the same time on the same cases with the same seed, from fresh weights, and is
scored on the same whole validation volumes. Of a finished trial its record stays; weights and label maps are removed,
and with the last candidate that needs them preprocessed arrays. Trials that were interrupted resume: finished ones are
kept. Weights of the winner are not kept as a start: a fold that had trained longer than its promised time would not be
comparable with the other folds.

Also tested in tests/pipeline/test_trials.py.
"""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoseg.cluster.dask_workers import Workers
from autoseg.errors import RecordError, TrainingError, UsageError
from autoseg.imaging.arrays.resampling import ImageResampler
from autoseg.locks import lock, refuse_trainings
from autoseg.progress import ProgressBar, no_bar
from autoseg.records.files import read_record, real_path, relative_path, write_record
from autoseg.records.fingerprint import data_hash
from autoseg.records.plan import Plan
from autoseg.records.trials import Trial, TrialRound, Trials
from autoseg.records.workspace import Workspace
from autoseg.stages.candidates import FOLD, TrialRequest, name_trial, outline_trials, plan_trials, plan_winner
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.stages.train import naming_lack_of_memory, prepare_fold
from autoseg.stages.trial_trainings import failed_trial, train_candidate, warm_up, with_validation_cases, without_advice
from autoseg.stages.validate import estimate_validation_seconds
from autoseg.text import format_duration
from autoseg.training.folds.fold import Fold
from autoseg.training.options import TrainingOptions
from autoseg.trials.halving import (
    MIN_FINALISTS,
    MIN_TRAINING_SECONDS,
    choose_survivors,
    choose_training_seconds,
    choose_winner,
    count_validation_cases,
    slot_seconds,
)
from autoseg.trials.sentences import describe_cases, describe_outline, describe_trial, explain_winner

logger = logging.getLogger("autoseg.trials")

STARTUP_SECONDS = 1.0
"""Seconds of a trial besides training and validation: opening cases, building the network, writing weights."""

VALIDATION_MARGIN = 1.3
"""Factor on the measured time of a validation: later cases may be larger, and the machine busier."""


@dataclass(frozen=True, kw_only=True)
class TrialTools:
    """What preprocesses and trains the candidates."""

    device: str = "auto"
    """Device for training: a name of `choose_device`."""
    workers: Workers = 1
    """Processes for preprocessing."""
    resampler: ImageResampler
    bar: ProgressBar = no_bar


def try_plans(request: TrialRequest, workspace: Workspace, tools: TrialTools, *, keep_arrays: bool = True) -> Plan:
    """Plan the candidate that is best on fold 0; trials that were interrupted resume, finished ones are kept.

    Args:
        request: Data, budget and time.
        workspace: Workspace of the plan; trials work in its folder `trials`. Nothing else is written but the arrays.
        tools: Device, processes and progress.
        keep_arrays: Whether the preprocessed arrays of the plan are kept.

    Raises:
        UsageError: If the time is too short for two candidates; names the time that suffices.
        PlanningError: If there are not two candidates to choose from.
        TrainingError: If a signal interrupted the trials, or no candidate could be trained.
        LockedError: If another process plans the workspace or trains in it.
    """
    with lock(workspace.planning_lock, "planned by trials"):
        refuse_trainings(workspace, "Planning again would change what is trained.")
        trials = _try_candidates(request, workspace, tools)
        plan = plan_winner(request, trials)
        if keep_arrays:
            _hand_over_arrays(workspace, trials, plan)
        shutil.rmtree(workspace.trials.root / "preprocessed", ignore_errors=True)
    return plan


def _try_candidates(request: TrialRequest, workspace: Workspace, tools: TrialTools) -> Trials:
    trials = find_earlier_trials(request, workspace)
    if trials is None:
        shutil.rmtree(workspace.trials.root, ignore_errors=True)
        trials = outline_trials(request)
        write_record(trials, workspace.trials_record)
    elif trials.chosen is not None:
        logger.info("the trials of this data and budget are finished: %s was chosen", trials.chosen)
        trials = trials.model_copy(update={"budget": request.budget})  # its speed may have been measured again
        write_record(trials, workspace.trials_record)
        return trials
    logger.info("%s", describe_outline(trials))
    for name, reason in trials.left_out.items():
        logger.info("not tried: %s: %s", name, reason)
    plan = _write_workspace(request, workspace, trials)
    for number in range(len(trials.round_sizes)):
        trials = _run_round(request, workspace, plan, trials, number, tools)
    return _finish(workspace, trials)


def find_earlier_trials(request: TrialRequest, workspace: Workspace) -> Trials | None:
    """Trials of the workspace for the same data, time and budget, finished or not; None without any.

    The speed of the device may have been measured again since: it does not count.
    """
    path = workspace.trials_record
    if not path.exists():
        return None
    try:
        trials = read_record(Trials, path)
    except RecordError as error:
        logger.info("the earlier trials cannot be read and are replaced: %s", error)
        return None
    same_budget = trials.budget.model_copy(update={"throughput": ()}) == request.budget.model_copy(
        update={"throughput": ()}
    )
    asked = (request.seconds, request.planner, request.target, _hash_of_data(request))
    if same_budget and asked == (trials.seconds, trials.planner, trials.target, trials.data_hash):
        return trials
    logger.info("%s: the earlier trials were for other data, time or budget and are replaced", path)
    return None


def _hash_of_data(request: TrialRequest) -> str:
    return data_hash(request.fingerprint, request.splits.folds[0]) if request.splits.folds else ""


def _write_workspace(request: TrialRequest, workspace: Workspace, trials: Trials) -> Plan:
    """Write what training a fold needs into the workspace of the trials; returns their plan."""
    own = workspace.trials
    plan = plan_trials(request, trials)
    description = request.description
    recorded = relative_path(real_path(Path(description.folder)), real_path(own.root))
    write_record(description.model_copy(update={"folder": recorded}), own.dataset)
    write_record(request.fingerprint, own.fingerprint)
    write_record(request.splits, own.splits)
    write_record(plan, own.plan)
    return plan


def _run_round(
    request: TrialRequest, workspace: Workspace, plan: Plan, trials: Trials, number: int, tools: TrialTools
) -> Trials:
    """Train the candidates that are left, as far as they are not finished; one alone has won."""
    names = _find_entrants(trials, number)
    finished = {trial.candidate for trial in trials.trials if trial.round == number}
    if len(names) < MIN_FINALISTS or finished >= set(names):
        return trials
    _preprocess(request, workspace, plan, names, tools)
    folds = {
        name: _prepare(workspace, name_trial(name, number), tools.device) for name in names if name not in finished
    }
    warm_up(next(iter(folds.values())))
    if len(trials.rounds) <= number:
        trials = _begin_round(workspace, trials, number, folds)
    for name in trials.rounds[number].candidates:
        if name in folds and not any((trial.candidate, trial.round) == (name, number) for trial in trials.trials):
            fold = with_validation_cases(folds[name], trials.validation_cases)
            trial = train_candidate(fold, name, number, trials.rounds[number].training_seconds, tools.bar)
            trials = _keep_trial(workspace, trials, trial)
            shutil.rmtree(fold.folder, ignore_errors=True)
    _remove_arrays(workspace, plan, _find_entrants(trials, number + 1))
    return trials


def _find_entrants(trials: Trials, number: int) -> tuple[str, ...]:
    """Candidates of a round: all, or the best ones of the round before; after the last round the best one."""
    if number == 0:
        return tuple(candidate.name for candidate in trials.candidates)
    size = trials.round_sizes[number] if number < len(trials.round_sizes) else 1
    return choose_survivors(_dice_of_round(trials, number - 1), size)


def _dice_of_round(trials: Trials, number: int) -> dict[str, float | None]:
    """Dice by name, in the order of the candidates."""
    found = {trial.candidate: trial.mean_foreground_dice for trial in trials.trials if trial.round == number}
    return {candidate.name: found[candidate.name] for candidate in trials.candidates if candidate.name in found}


def _preprocess(
    request: TrialRequest, workspace: Workspace, plan: Plan, names: tuple[str, ...], tools: TrialTools
) -> None:
    needed = _arrays_of(plan, names)
    with tools.bar("preprocessing") as progress:
        preprocess_dataset(
            request.description, plan, workspace.trials, needed, tools.workers, progress, tools.resampler
        )


def _arrays_of(plan: Plan, names: tuple[str, ...]) -> tuple[str, ...]:
    """Configurations whose arrays these candidates use, in the order of the plan."""
    used = {plan.configurations[name_trial(name, 0)].preprocessed_as for name in names}
    return tuple(name for name in plan.configurations if name in used)


def _remove_arrays(workspace: Workspace, plan: Plan, names: tuple[str, ...]) -> None:
    """Remove the preprocessed arrays that none of these candidates uses."""
    kept = _arrays_of(plan, names)
    for folder in (workspace.trials.root / "preprocessed").glob("*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(workspace: Workspace, name: str, device: str) -> Fold:
    return prepare_fold(workspace.trials, name, FOLD, TrainingOptions(device=device))


def _begin_round(workspace: Workspace, trials: Trials, number: int, folds: Mapping[str, Fold]) -> Trials:
    """Decide for how long the candidates of a round train, and in the first one which cases score all trials.

    Raises:
        UsageError: If the time is too short; names the time that suffices.
    """
    began = time.monotonic()
    whole: dict[str, float] = {}
    for name, fold in folds.items():
        try:
            with naming_lack_of_memory(fold), without_advice():
                whole[name] = estimate_validation_seconds(with_validation_cases(fold, trials.validation_cases))
        except TrainingError as error:
            trials = _keep_trial(workspace, trials, failed_trial(name, number, error))
    slowest = VALIDATION_MARGIN * max(whole.values(), default=0.0)
    if not trials.validation_cases:
        slot = slot_seconds(trials.seconds, trials.round_sizes, 0)
        cases = next(iter(folds.values())).split.validation
        count = count_validation_cases(slot, len(cases), slowest)
        spread = tuple(cases[index * len(cases) // count] for index in range(count))
        trials = trials.model_copy(update={"validation_cases": spread})
        slowest *= count / len(cases)
    left = trials.seconds / len(trials.round_sizes) - (time.monotonic() - began)
    seconds = choose_training_seconds(left, max(len(whole), 1), slowest + STARTUP_SECONDS)
    if seconds < MIN_TRAINING_SECONDS:
        needed = trials.seconds + len(trials.round_sizes) * len(folds) * (MIN_TRAINING_SECONDS - seconds)
        raise UsageError(
            f"--trials {format_duration(trials.seconds)}: too short for {len(folds)} candidates on this data, whose "
            f"validation takes up to {slowest:.0f} s each. Give --trials {format_duration(60 * -(-needed // 60))} or "
            "more, or fewer candidates with --planner or -c."
        )
    begun = TrialRound(candidates=tuple(folds), training_seconds=seconds)
    trials = trials.model_copy(update={"rounds": (*trials.rounds, begun)})
    write_record(trials, workspace.trials_record)
    logger.info(
        "round %d of %d: %d candidates, %.0f s of training each, scored on %s",
        number + 1, len(trials.round_sizes), len(folds), seconds, describe_cases(trials),
    )  # fmt: skip
    return trials


def _keep_trial(workspace: Workspace, trials: Trials, trial: Trial) -> Trials:
    logger.log(logging.WARNING if trial.failure else logging.INFO, "%s", describe_trial(trial))
    trials = trials.model_copy(update={"trials": (*trials.trials, trial)})
    write_record(trials, workspace.trials_record)
    return trials


def _finish(workspace: Workspace, trials: Trials) -> Trials:
    """Choose by the last round that has a result.

    Raises:
        TrainingError: If no candidate could be trained.
    """
    by_round = [_dice_of_round(trials, number) for number in range(len(trials.round_sizes))]
    scored = [dice for dice in by_round if any(value is not None for value in dice.values())]
    if not scored:
        failures = [describe_trial(trial) for trial in trials.trials]
        raise TrainingError("\n".join(["no candidate could be trained:", *failures]))
    chosen = choose_winner(scored[-1], trials.by_rules)
    reason = explain_winner(chosen, trials.by_rules, scored[-1])
    trials = trials.model_copy(update={"chosen": chosen, "reason": reason})
    write_record(trials, workspace.trials_record)
    logger.info("%s", trials.reason)
    shutil.rmtree(workspace.trials.root / "models", ignore_errors=True)
    return trials


def _hand_over_arrays(workspace: Workspace, trials: Trials, plan: Plan) -> None:
    """Move the winner's preprocessed arrays to its plan, where the workspace has none of this configuration."""
    source = workspace.trials.root / "preprocessed"
    if not source.is_dir() or trials.chosen is None:
        return
    (own,) = _arrays_of(read_record(Plan, workspace.trials.plan), (trials.chosen,))
    (name,) = plan.configurations
    target = workspace.preprocessed(name)
    if (source / own).is_dir() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        (source / own).rename(target)
