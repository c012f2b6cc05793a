"""Which of several cross-validated configurations is best, compared on the same cases."""

from collections.abc import Mapping, Sequence
from math import inf

from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores
from autoseg.records.selection import Candidate


def rank_configurations(
    cases: Mapping[str, Sequence[CaseScores]], folds: Mapping[str, tuple[str, ...]], label_names: Sequence[str]
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Rank configurations by mean foreground Dice on the validation cases that all of them have.

    Args:
        cases: Validation scores by configuration, at least one configuration; of equal scores the first wins.
        folds: Folds that the scores come from, by configuration.
        label_names: Foreground labels and regions.

    Returns:
        Candidates, best first, one without any score last; and one sentence for each thing to know about the
        comparison. When no case is common to all, each is scored on its own cases, and a sentence says so.

    References:
        nnU-Net v2 (Isensee et al. 2021), choice of the best configuration. Differs: only common cases are compared,
        and a label without a score does not spoil the mean.
    """
    case_ids = [{scores.case for scores in of_configuration} for of_configuration in cases.values()]
    common = set.intersection(*case_ids)
    reasons = []
    if not common:
        reasons.append("The configurations share no validation case: their scores come from different cases.")
    elif any(ids != common for ids in case_ids):
        reasons.append(f"The configurations have different validation cases: compared on the {len(common)} shared.")
    candidates = []
    for name, of_configuration in cases.items():
        compared = [scores for scores in of_configuration if scores.case in common or not common]
        candidate = Candidate(
            configurations=(name,),
            folds=folds[name],
            num_cases=len(compared),
            mean_foreground_dice=summarize(compared, label_names).mean_foreground_dice,
        )
        candidates.append(candidate)
    candidates.sort(key=_loss)  # stable: of equal scores the first stays first
    return tuple(candidates), (*reasons, _say_winner(candidates))


def _loss(candidate: Candidate) -> float:
    return inf if candidate.mean_foreground_dice is None else -candidate.mean_foreground_dice


def _say_winner(candidates: Sequence[Candidate]) -> str:
    best, *others = candidates
    score = f"{best.configurations[0]}: mean foreground Dice {format_score(best.mean_foreground_dice)}"
    if not others:
        return f"{score} over {best.num_cases} cases; nothing else has validated folds."
    behind = ", ".join(f"{one.configurations[0]} {format_score(one.mean_foreground_dice)}" for one in others)
    rule = "equal to the next, and the first of equals wins" if _loss(best) == _loss(others[0]) else "the best"
    return f"{score} over {best.num_cases} cases, {rule}; others: {behind}."


def format_score(score: float | None) -> str:
    """Four decimals, or `none`."""
    return "none" if score is None else f"{score:.4f}"
