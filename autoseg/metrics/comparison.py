"""Rank cross-validated candidates on the same cases.

A candidate is a configuration, or a pair of them whose probabilities are averaged. A pair costs as much as both, so
it has to be better by a margin.
"""

from collections.abc import Mapping, Sequence
from math import inf, nan

import numpy as np

from autoseg.metrics.bootstrap import Scores, bootstrap_interval
from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores
from autoseg.records.selection import Candidate, Interval

ENSEMBLE_MARGIN = 0.002
"""Gain in mean foreground Dice that a pair needs over the best single configuration: it costs about twice as much."""

ROUNDING = 1e-12
"""Tolerance of the comparison with the margin, for rounding of means."""

Names = tuple[str, ...]
"""Names of one configuration, or of two whose probabilities are averaged."""


def rank_candidates(
    cases: Mapping[Names, Sequence[CaseScores]], folds: Mapping[Names, tuple[str, ...]], label_names: Sequence[str]
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Rank candidates by mean foreground Dice on the validation cases that all of them have.

    Args:
        cases: Validation scores by candidate, at least one configuration; of equal scores the first wins, and single
            configurations come before pairs.
        folds: Folds that the scores come from, by candidate.
        label_names: Foreground labels and regions.

    Returns:
        Candidates, the chosen one first, then by score, those without a score last; and sentences about the
        comparison. When no case is common to all, each is scored on its own cases, and a sentence says so.

    References:
        nnU-Net v2 (Isensee et al. 2021), choice of the best configuration among all single ones and all pairs.
        Differs: only common cases are compared, a label without a score does not spoil the mean, and a pair needs a
        margin.
    """
    compared, remarks = _comparable_cases(cases)
    candidates = [
        Candidate(
            configurations=names,
            folds=folds[names],
            num_cases=len(compared[names]),
            mean_foreground_dice=summarize(compared[names], label_names).mean_foreground_dice,
            interval=bootstrap_interval(dice_table(compared[names], label_names)),
        )
        for names in sorted(cases, key=len)
    ]
    candidates.sort(key=_loss)  # stable: of equal scores the first stays first
    singles, pairs = (
        [candidate for candidate in candidates if (len(candidate.configurations) == 1) is single]
        for single in (True, False)
    )
    if not pairs:
        return tuple(candidates), (*remarks, _describe_winner(candidates))
    tables = [dice_table(compared[best.configurations], label_names) for best in (pairs[0], singles[0])]
    is_ahead, sentence = _judge_pair(pairs[0], singles[0], bootstrap_interval(tables[0] - tables[1]))
    winner = pairs[0] if is_ahead else singles[0]
    others = [candidate for candidate in candidates if candidate is not winner]
    return (winner, *others), (*remarks, _describe_winner([winner, *others]), sentence)


def dice_table(cases: Sequence[CaseScores], label_names: Sequence[str]) -> Scores:
    """Dice (N cases, L labels), NaN where a label is empty in both maps."""
    rows = [[case.labels[name].dice for name in label_names] for case in cases]
    known = [[nan if value is None else value for value in row] for row in rows]
    return np.array(known, dtype=np.float64).reshape(len(cases), len(label_names))


def format_score(score: float | None) -> str:
    """Four decimals, or `none`."""
    return "none" if score is None else f"{score:.4f}"


def format_names(names: Names) -> str:
    """Names of a candidate's configurations as text, such as `2d + 3d_fullres`."""
    return " + ".join(names)


def _comparable_cases(
    cases: Mapping[Names, Sequence[CaseScores]],
) -> tuple[dict[Names, list[CaseScores]], list[str]]:
    """Common cases in the same order for all candidates, with remarks; their own cases if there is no common one."""
    by_case = {names: {scores.case: scores for scores in of_candidate} for names, of_candidate in cases.items()}
    shared = set.intersection(*(set(found) for found in by_case.values()))
    if not shared:
        remark = "The configurations share no validation case: their scores come from different cases."
        return {names: list(of_candidate) for names, of_candidate in cases.items()}, [remark]
    remarks = []
    if any(found.keys() != shared for found in by_case.values()):
        remarks.append(f"The configurations have different validation cases: compared on the {len(shared)} shared.")
    order = [case for case in next(iter(by_case.values())) if case in shared]
    return {names: [found[case] for case in order] for names, found in by_case.items()}, remarks


def _judge_pair(pair: Candidate, single: Candidate, difference: Interval | None) -> tuple[bool, str]:
    """Whether the best pair is ahead by the margin; `difference`: interval of pair minus single, case by case."""
    if pair.mean_foreground_dice is None or single.mean_foreground_dice is None:
        return False, "No ensemble was chosen: there is no score to compare."
    gain = pair.mean_foreground_dice - single.mean_foreground_dice
    is_ahead = gain >= ENSEMBLE_MARGIN - ROUNDING
    sentence = (
        f"Best ensemble, {format_names(pair.configurations)}, against the best alone, "
        f"{format_names(single.configurations)}: Dice {gain:+.4f}, and {ENSEMBLE_MARGIN} is required, because it "
        f"costs both; {'chosen' if is_ahead else 'not chosen'}."
    )
    if difference is None:
        return is_ahead, sentence
    low, high = difference
    excluded = "which excludes zero" if low > 0 or high < 0 else "which includes zero: it may be chance"
    return is_ahead, f"{sentence} 95 % interval of the difference over cases: {low:+.4f} to {high:+.4f}, {excluded}."


def _loss(candidate: Candidate) -> float:
    return inf if candidate.mean_foreground_dice is None else -candidate.mean_foreground_dice


def _describe_winner(candidates: Sequence[Candidate]) -> str:
    best, *others = candidates
    score = f"{format_names(best.configurations)}: mean foreground Dice {format_score(best.mean_foreground_dice)}"
    if not others:
        return f"{score} over {best.num_cases} cases; nothing else has validated folds."
    behind = ", ".join(
        f"{format_names(other.configurations)} {format_score(other.mean_foreground_dice)}" for other in others
    )
    return f"{score} over {best.num_cases} cases, {_describe_rank(best, others)}; others: {behind}."


def _describe_rank(best: Candidate, others: Sequence[Candidate]) -> str:
    first = min(others, key=_loss)
    if _loss(first) < _loss(best):
        return "the best alone"
    return "equal to the next, and the first of equals wins" if _loss(best) == _loss(first) else "the best"
