"""Successive halving: how many candidates are tried, for how long each, and which of them go on.

All candidates train for a short time; the best third of them train again, from the start, for three times as long,
until two or three are left, the best of which is chosen. Each round gets the same part of the time. Every trial of a
round trains for the same time and runs its whole schedule in it, so that its Dice is what a user would get in that
time; nothing is extrapolated from a training that was cut off.

Example: 6 minutes and 9 candidates: 9 trials would be 20 s each, too short, so the first 6 are taken: 30 s each, then
the best 2 for 90 s each.

References:
    Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
    Differs: trials start again in each round, because a learning rate that falls to zero cannot be continued; a third
    is kept, as in Hyperband (Li et al., JMLR 2018); among equals the rules of planning decide.
"""

import math
from collections.abc import Mapping

FACTOR = 3
"""A round keeps one candidate of so many."""

MIN_FINALISTS = 2
"""Smallest number of candidates of the last round: a choice needs two."""

MIN_SLOT_SECONDS = 30.0
"""Shortest time of a candidate, its validation included: in less, networks hardly leave the background."""

MIN_TRAINING_SECONDS = 10.0
"""Shortest training of a trial, its validation not counted."""

MAX_VALIDATION_FRACTION = 1 / 3
"""Largest part of a trial's time in the first round for its validation; fewer cases are validated to keep to it."""

MIN_GAIN = 0.005
"""Smallest gain of Dice over the candidate of the rules: less is noise between two trainings of the same network."""


def find_round_sizes(num_candidates: int) -> tuple[int, ...]:
    """Number of candidates of each round.

    Examples:
        >>> find_round_sizes(9), find_round_sizes(6), find_round_sizes(3), find_round_sizes(2)
        ((9, 3), (6, 2), (3,), (2,))
    """
    sizes = [num_candidates]
    while sizes[-1] > FACTOR:
        sizes.append(max(math.ceil(sizes[-1] / FACTOR), MIN_FINALISTS))
    return tuple(sizes)


def slot_seconds(seconds: float, sizes: tuple[int, ...], number: int) -> float:
    """Time of one candidate in a round, training and validation, where all trials take `seconds`."""
    return seconds / len(sizes) / sizes[number]


def count_affordable(seconds: float, wanted: int) -> int:
    """Largest number of candidates, at most `wanted`, that get their shortest time in the first round; 0: not even two.

    Examples:
        >>> count_affordable(360, 9), count_affordable(60, 9), count_affordable(59, 9)
        (6, 2, 0)
    """
    for number in range(wanted, MIN_FINALISTS - 1, -1):
        if slot_seconds(seconds, find_round_sizes(number), 0) >= MIN_SLOT_SECONDS:
            return number
    return 0


def choose_training_seconds(round_seconds: float, num_candidates: int, reserved_seconds: float) -> float:
    """Training time of every candidate of a round; at most 0 where their validation alone takes all of it.

    Args:
        round_seconds: Time that is left for the round.
        num_candidates: Trials in it.
        reserved_seconds: What a trial takes besides its training, validation of the slowest candidate included.
    """
    return round_seconds / num_candidates - reserved_seconds


def count_validation_cases(slot: float, num_cases: int, whole_seconds: float) -> int:
    """Validation cases that score every trial: all, or as many as the slowest candidate predicts in time, at least one.

    Args:
        slot: Time of one candidate in the first round.
        num_cases: Validation cases of the fold.
        whole_seconds: Time in which the slowest candidate predicts all of them.
    """
    if whole_seconds <= 0.0:
        return num_cases
    affordable = int(num_cases * slot * MAX_VALIDATION_FRACTION / whole_seconds)
    return min(max(affordable, 1), num_cases)


def choose_survivors(dice: Mapping[str, float | None], num_survivors: int) -> tuple[str, ...]:
    """The best candidates, in the order in which they came; of equals the earlier one.

    Args:
        dice: Dice by name in the order of the rules; those without one have failed and never survive.
        num_survivors: How many go on at most.
    """
    scored = {name: value for name, value in dice.items() if value is not None}
    best = sorted(scored, key=lambda name: -scored[name])[:num_survivors]
    return tuple(name for name in scored if name in best)


def choose_winner(dice: Mapping[str, float | None], by_rules: str | None) -> str:
    """The best candidate; that of the rules, where it is not clearly worse.

    Args:
        dice: Dice of the last round by name; one at least has a value.
        by_rules: Candidate that is planned without trials; None: it is not tried.
    """
    (best,) = choose_survivors(dice, 1)
    own, highest = None if by_rules is None else dice.get(by_rules), dice[best]
    if by_rules is not None and own is not None and highest is not None and highest - own < MIN_GAIN:
        return by_rules
    return best
