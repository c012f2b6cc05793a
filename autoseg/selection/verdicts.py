"""Whether post-processing steps and boundary refinement are kept, by scores of the same cases before and after.

Each verdict is also a sentence: what was tried, whether it is kept, and the figures that decided.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoseg.metrics.comparison import format_score
from autoseg.metrics.summary import mean_of_known, summarize
from autoseg.records.evaluation import CaseScores
from autoseg.records.refinement import RefinementScores

MAX_REFUSALS = 8
"""Sentences on refused steps of one kind; the names of further ones share a sentence."""

MIN_REFINEMENT_GAIN = 0.001
"""Smallest gain that counts, of the surface Dice, or of HD95 relative to its value before: less is not worth the time
that refinement adds to every prediction."""

BoundaryMetric = Literal["surface_dice", "hausdorff_95_mm"]

Means = Mapping[str, float | None]
"""Mean Dice over cases by label; None without any score."""


@dataclass(frozen=True)
class Verdict:
    """Whether a step is accepted, and the figures that decide."""

    is_accepted: bool
    before: float | None
    after: float | None
    fallen: tuple[str, ...]
    """Labels whose mean Dice gets lower."""


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
    figures: str
    """Figures that decided, as text."""


def judge_refinement(
    before: Sequence[CaseScores], after: Sequence[CaseScores], names: Sequence[str], tolerance_mm: float
) -> RefinementVerdict:
    """Accept if surface Dice rises or HD95 falls by MIN_REFINEMENT_GAIN, and neither the mean nor any Dice falls.

    Boundaries are compared on structures that have the score both before and after; one that refinement loses or
    invents shows in the Dice.

    Args:
        before: Scores of all cases without refinement, with surfaces.
        after: Scores of the same cases with refinement, in the same order.
        names: Labels or regions.
        tolerance_mm: Tolerance of the surface Dice in mm.
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
    fallen = [name for name in names if _is_less(summaries[1].labels[name].dice, summaries[0].labels[name].dice)]
    is_worse = bool(fallen) or _is_less(new.mean_foreground_dice, old.mean_foreground_dice)
    figures = (
        f"surface Dice at {tolerance_mm:g} mm {format_score(old.surface_dice)} before, "
        f"{format_score(new.surface_dice)} after; HD95 {_format_mm(old.hausdorff_95_mm)} before, "
        f"{_format_mm(new.hausdorff_95_mm)} after; Dice {format_score(old.mean_foreground_dice)} before, "
        f"{format_score(new.mean_foreground_dice)} after"
    )
    if fallen:
        figures += f", lower for {', '.join(fallen)}"
    return RefinementVerdict(_is_sharper(old, new) and not is_worse, old, new, figures)


def _describe_step(kind: str, report: StepReport, verdict: Verdict) -> str:
    answer = "yes" if verdict.is_accepted else "no"
    remark = f"{report.remark}, " if report.remark else ""
    figures = f"Dice {format_score(verdict.before)} before, {_after(verdict)} after"
    fallen = f"; lower for {', '.join(verdict.fallen)}" if verdict.fallen else ""
    return f"{kind} of {report.subject}: {answer}, {remark}{figures}{fallen}."


def _after(verdict: Verdict) -> str:
    """The score; if its four decimals do not show the difference, the difference."""
    before, after = verdict.before, verdict.after
    if before is None or after is None or before == after or format_score(before) != format_score(after):
        return format_score(after)
    return f"{'higher' if after > before else 'lower'} by {abs(after - before):.1g}"


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


def _format_mm(distance: float | None) -> str:
    return "unknown" if distance is None else f"{distance:.3f} mm"
