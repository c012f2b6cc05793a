"""What is chosen by cross-validation: the best candidate, post-processing steps and boundary refinement that help.

A candidate is a configuration, or a pair of them whose probabilities are averaged. A pair costs as much as both, so
it has to be better by a margin. Steps and refinement are judged by scores of the same cases before and after. Each
verdict is also a sentence: what was tried, whether it is kept, and the figures that decided.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Literal

import numpy as np

from autoseg.metrics.bootstrap import Scores, bootstrap_interval
from autoseg.metrics.summary import mean_of_known, summarize
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.selection import Candidate, Interval, Names, RefinementScores
from autoseg.text import format_names, format_score

ENSEMBLE_MARGIN = 0.002
"""Gain in mean foreground Dice that a pair needs over the best single configuration: it costs about twice as much."""

ROUNDING = 1e-12
"""Tolerance of the comparison with the margin, for rounding of means."""

MAX_REFUSALS = 8
"""Sentences on refused steps of one kind; the names of further ones share a sentence."""

MIN_DECISION_GAIN = 0.001
"""Smallest rise of the mean foreground Dice for which labels are decided by their expected Dice: less may be chance,
and prediction keeps probabilities for it."""

MIN_REFINEMENT_GAIN = 0.001
"""Smallest gain that counts, of the surface Dice, or of HD95 relative to its value before: less is not worth the time
that refinement adds to every prediction."""

BoundaryMetric = Literal["surface_dice", "hausdorff_95_mm"]

Means = Mapping[str, float | None]
"""Mean Dice over cases by label; None without any score."""


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
    compared, remarks = comparable_cases(cases)
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


def comparable_cases(
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
    return is_ahead, sentence + describe_difference(difference)


def describe_difference(difference: Interval | None) -> str:
    """A further sentence about the interval of a difference, case by case; empty if it is not known."""
    if difference is None:
        return ""
    low, high = difference
    excluded = "which excludes zero" if low > 0 or high < 0 else "which includes zero: it may be chance"
    return f" 95 % interval of the difference over cases: {low:+.4f} to {high:+.4f}, {excluded}."


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


@dataclass(frozen=True)
class Verdict:
    """Whether a step is accepted, and the figures that decide."""

    is_accepted: bool
    before: float | None
    after: float | None
    fallen: tuple[str, ...]
    """Labels whose mean Dice gets lower."""

    def describe(self) -> str:
        """The figures; where the four decimals of both scores are equal, the difference."""
        lower = f"; lower for {', '.join(self.fallen)}" if self.fallen else ""
        return f"Dice {format_score(self.before)} before, {self._describe_after()} after{lower}"

    def _describe_after(self) -> str:
        before, after = self.before, self.after
        if before is None or after is None or before == after or format_score(before) != format_score(after):
            return format_score(after)
        return f"{'higher' if after > before else 'lower'} by {abs(after - before):.1g}"


def judge_step(before: Means, after: Means, own_label: str | None) -> Verdict:
    """Whether a step is accepted: its own score rises, and no label's mean Dice falls.

    Args:
        before: Mean Dice by label without the step.
        after: Mean Dice of the same labels with the step.
        own_label: Label whose mean Dice has to rise; None: the mean over labels has to.

    Returns:
        The verdict. A label without any score afterwards, since all its false alarms are gone, has neither risen nor
        fallen.

    References:
        nnU-Net v2 (Isensee et al. 2021), post-processing. Differs: a step for one label must not harm another, which
        it can when regions overlap.
    """
    old, new = (mean_of_known(dice.values()) if own_label is None else dice[own_label] for dice in (before, after))
    fallen = tuple(name for name in before if _is_less(after[name], before[name]))
    return Verdict(_is_less(old, new) and not fallen, old, new, fallen)


def judge_decision(before: Evaluation, after: Evaluation) -> tuple[bool, str]:
    """Whether labels are decided by their expected Dice: the mean Dice rises by MIN_DECISION_GAIN, and none falls.

    Args:
        before: Scores of all cases without it.
        after: Scores of the same cases with it.

    Returns:
        The answer, and a sentence with the figures.
    """
    means = [{name: label.dice for name, label in scores.labels.items()} for scores in (before, after)]
    verdict = judge_step(means[0], means[1], None)
    old, new = verdict.before, verdict.after
    is_accepted = verdict.is_accepted and old is not None and new is not None and new - old >= MIN_DECISION_GAIN
    few = f" ({MIN_DECISION_GAIN} more is required)" if verdict.is_accepted and not is_accepted else ""
    answer = "yes" if is_accepted else "no"
    return is_accepted, f"Expected Dice of each label in each case decides: {answer}, {verdict.describe()}{few}."


@dataclass(frozen=True)
class StepReport:
    """One step, or one sweep of steps."""

    subject: str
    """Label that the step is for, or all foreground."""
    verdict: Verdict | None
    """None: nothing in any label map would change."""
    remark: str = ""
    """Further information, between the answer and the figures."""


def describe_steps(kind: str, reports: Sequence[StepReport]) -> Iterator[str]:
    """A sentence for each step that was tried.

    Args:
        kind: What the steps do, at the beginning of a sentence, to be followed by "of" a subject.
        reports: Steps in the order in which they were tried.

    Yields:
        Sentences in this order; steps that would change nothing share the last one, and refused ones beyond the
        first few share the one before.
    """
    refused = 0
    further, idle = [], []
    for report in reports:
        if report.verdict is None:
            idle.append(report.subject)
            continue
        refused += not report.verdict.is_accepted
        if report.verdict.is_accepted or refused <= MAX_REFUSALS:
            yield _describe_step(kind, report, report.verdict)
        else:
            further.append(report.subject)
    if further:
        yield f"{kind} of {', '.join(further)}: no, Dice does not rise, or falls for another label."
    if idle:
        yield f"{kind} of {', '.join(idle)}: no, nothing would change."


@dataclass(frozen=True)
class RefinementVerdict:
    """Whether refinement is accepted, and the figures that decide."""

    is_accepted: bool
    before: RefinementScores
    after: RefinementScores
    fallen: tuple[str, ...]
    """Labels whose mean Dice gets lower."""

    def describe(self, tolerance_mm: float, unit: str = "mm") -> str:
        """The figures; `tolerance_mm` is that of the surface Dice, `unit` that of lengths: mm, or pixels."""
        old, new = self.before, self.after
        lower = f", lower for {', '.join(self.fallen)}" if self.fallen else ""
        return (
            f"surface Dice at {tolerance_mm:g} {unit} {format_score(old.surface_dice)} before, "
            f"{format_score(new.surface_dice)} after; HD95 {_format_length(old.hausdorff_95_mm, unit)} before, "
            f"{_format_length(new.hausdorff_95_mm, unit)} after; Dice {format_score(old.mean_foreground_dice)} before, "
            f"{format_score(new.mean_foreground_dice)} after{lower}"
        )


def judge_refinement(
    before: Sequence[CaseScores], after: Sequence[CaseScores], names: Sequence[str]
) -> RefinementVerdict:
    """Accept if surface Dice rises or HD95 falls by MIN_REFINEMENT_GAIN, and neither the mean nor any Dice falls.

    Boundaries are compared on structures that have the score both before and after; one that refinement loses or
    invents shows in the Dice.

    Args:
        before: Scores of all cases without refinement, with surfaces.
        after: Scores of the same cases with refinement, in the same order.
        names: Labels or regions.
    """
    summaries = [summarize(cases, names) for cases in (before, after)]
    old, new = (
        RefinementScores(
            mean_foreground_dice=summary.mean_foreground_dice,
            surface_dice=_boundary_mean(own, other, names, "surface_dice"),
            hausdorff_95_mm=_boundary_mean(own, other, names, "hausdorff_95_mm"),
        )
        for summary, own, other in zip(summaries, (before, after), (after, before), strict=True)
    )
    fallen = tuple(name for name in names if _is_less(summaries[1].labels[name].dice, summaries[0].labels[name].dice))
    is_worse = bool(fallen) or _is_less(new.mean_foreground_dice, old.mean_foreground_dice)
    return RefinementVerdict(_is_sharper(old, new) and not is_worse, old, new, fallen)


def _describe_step(kind: str, report: StepReport, verdict: Verdict) -> str:
    answer = "yes" if verdict.is_accepted else "no"
    remark = f"{report.remark}, " if report.remark else ""
    return f"{kind} of {report.subject}: {answer}, {remark}{verdict.describe()}."


def _boundary_mean(
    own: Sequence[CaseScores], other: Sequence[CaseScores], names: Sequence[str], metric: BoundaryMetric
) -> float | None:
    """Mean over labels of the mean over cases in which both have the score."""

    def of_label(name: str) -> float | None:
        pairs = [
            (getattr(a.labels[name], metric), getattr(b.labels[name], metric)) for a, b in zip(own, other, strict=True)
        ]
        return mean_of_known(first for first, second in pairs if second is not None)

    return mean_of_known(map(of_label, names))


def _is_sharper(old: RefinementScores, new: RefinementScores) -> bool:
    risen = fallen = 0.0
    if old.surface_dice is not None and new.surface_dice is not None:
        risen = new.surface_dice - old.surface_dice
    if old.hausdorff_95_mm and new.hausdorff_95_mm is not None:
        fallen = 1 - new.hausdorff_95_mm / old.hausdorff_95_mm
    return max(risen, fallen) >= MIN_REFINEMENT_GAIN


def _is_less(first: float | None, second: float | None) -> bool:
    """Whether both are known and the first is smaller."""
    return first is not None and second is not None and first < second


def _format_length(distance: float | None, unit: str) -> str:
    return "unknown" if distance is None else f"{distance:.3f} {unit}"
