"""What is said about trials: before they begin, after each of them, and as the reason in the plan."""

from collections.abc import Mapping

from autoseg.records.trials import Trial, Trials
from autoseg.text import format_duration, format_number
from autoseg.trials.halving import MIN_GAIN, slot_seconds

MAX_TIMES_LONGER = 20.0
"""Ratio of a fold's time to that of the last trials from which the reason warns."""


def describe_outline(trials: Trials) -> str:
    """What will be tried, for how long, as one sentence."""
    rounds = ", then ".join(
        f"{size} for {slot_seconds(trials.seconds, trials.round_sizes, number):.0f} s each"
        for number, size in enumerate(trials.round_sizes)
    )
    names = ", ".join(candidate.name for candidate in trials.candidates)
    return f"Trials on fold 0 in {format_duration(trials.seconds)}: {rounds} ({names}); preprocessing comes on top."


def describe_trials(trials: Trials, num_folds: int, fold_seconds: float | None) -> list[str]:
    """Say before a run what its trials will do, and how long they and the trainings after them take.

    Args:
        trials: Not begun.
        num_folds: Folds that are trained afterwards.
        fold_seconds: Time that a fold trains; None: the full schedule.
    """
    time = f"Time: at most {format_duration(trials.seconds)} for the trials"
    if fold_seconds is None:
        time += "; then all folds of the configuration that is chosen train for the full schedule."
    else:
        total = trials.seconds + num_folds * fold_seconds
        time += (
            f", then {format_duration(fold_seconds)} for each of {num_folds} folds of the configuration that is "
            f"chosen: {format_duration(total)} together; preprocessing and selection come on top."
        )
    left_out = [f"not tried: {name}: {reason}" for name, reason in trials.left_out.items()]
    return [describe_outline(trials), *left_out, time]


def describe_trial(trial: Trial) -> str:
    """How a trial went, as one sentence."""
    if trial.failure:
        return f"{trial.candidate}: failed: {trial.failure}"
    return (
        f"{trial.candidate}: Dice {format_number(trial.mean_foreground_dice)} after {trial.training_seconds:.0f} s and "
        f"{trial.steps} steps; {trial.validation_seconds:.0f} s of validation"
    )


def find_longest(trials: Trials) -> dict[str, Trial]:
    """The longest trial of each candidate, by name, in the order of the candidates."""
    found = {trial.candidate: trial for trial in trials.trials}
    return {candidate.name: found[candidate.name] for candidate in trials.candidates if candidate.name in found}


def list_results(trials: Trials) -> tuple[tuple[str, float | None, int], ...]:
    """Name, Dice and seconds of training of each candidate's longest trial; the best ones first."""
    longest = sorted(
        find_longest(trials).values(),
        key=lambda trial: (-trial.round, -(trial.mean_foreground_dice or 0.0)),
    )
    return tuple(
        (trial.candidate, _rounded(trial.mean_foreground_dice), round(trial.training_seconds)) for trial in longest
    )


def tabulate(trials: Trials) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of trials: one row for each candidate, with its Dice of each round.

    The candidates that came furthest are first. A dash: it was not among the best of the round before.
    """
    columns = ["candidate", *(f"{part.training_seconds:.0f} s each" for part in trials.rounds), "remark"]
    found = {(trial.candidate, trial.round): trial for trial in trials.trials}
    rows = []
    for name, _, _ in list_results(trials):
        of_rounds = [found.get((name, number)) for number in range(len(trials.rounds))]
        dice = [format_number(None if trial is None else trial.mean_foreground_dice) for trial in of_rounds]
        rows.append([name, *dice, _remark(trials, name)])
    return columns, rows


def _remark(trials: Trials, name: str) -> str:
    remarks = ["chosen"] if name == trials.chosen else []
    if name == trials.by_rules:
        remarks.append("what the rules plan")
    remarks += [trial.failure for trial in trials.trials if trial.candidate == name and trial.failure]
    return "; ".join(remarks)


def _rounded(dice: float | None) -> float | None:
    return None if dice is None else round(dice, 4)


def describe_cases(trials: Trials) -> str:
    """Which cases score the trials, such as `8 of 40 validation cases as whole volumes`."""
    number, every = len(trials.validation_cases), trials.num_validation_cases
    if every == 1:
        return "the validation case as a whole volume"
    return f"{'all' if number == every else f'{number} of'} {every} validation cases as whole volumes"


def explain_choice(trials: Trials, fold_seconds: float | None) -> str:
    """Why a candidate is planned, with its gain over the second one.

    Args:
        trials: Finished.
        fold_seconds: Time that a fold trains for the plan; None: the full schedule.
    """
    rounds = ", then ".join(f"{len(part.candidates)} for {part.training_seconds:.0f} s each" for part in trials.rounds)
    return (
        f"Tried on fold 0 (name, Dice of {describe_cases(trials)}, seconds of training): {rounds}. "
        f"{trials.reason} {_compare_times(trials, fold_seconds)}"
    ).strip()


def explain_winner(chosen: str, by_rules: str | None, dice: Mapping[str, float | None]) -> str:
    """One or two sentences about the last round.

    Args:
        chosen: Name of the candidate that is planned.
        by_rules: Name of the candidate that is planned without trials; None: it was not tried.
        dice: Dice of the last round by name.
    """
    others = {name: value for name, value in dice.items() if name != chosen and value is not None}
    own = dice[chosen]
    if own is None or not others:
        return f"{chosen} alone could be trained in the last round."
    second = max(others, key=lambda name: others[name])
    gain = own - others[second]
    if gain < 0:
        return (
            f"{second} is better than {chosen} by {-gain:.3f} only, which is less than {MIN_GAIN:g} and may be chance: "
            f"{chosen}, which the rules plan, stays."
        )
    sentence = f"{chosen} is better than {second} by {gain:.3f}."
    if chosen == by_rules:
        return f"{sentence} It is also what the rules plan."
    if by_rules is None:
        return f"{sentence} What the rules plan was not tried."
    if by_rules not in others:
        return f"{sentence} {by_rules}, which the rules plan, was not among the best of an earlier round, or failed."
    return sentence


def _compare_times(trials: Trials, fold_seconds: float | None) -> str:
    """What the trials do not tell, where a fold trains much longer; else empty."""
    if fold_seconds is None:
        return "The full schedule is many times longer than these trials, which say less about it."
    longest = max(trial.training_seconds for trial in trials.trials)
    if fold_seconds <= MAX_TIMES_LONGER * longest:
        return ""
    return f"A fold trains {fold_seconds / longest:.0f} times as long as the last trials, which say less about it."
