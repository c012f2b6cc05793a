"""Whether refined boundaries are better, by scores of the same cases before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoseg.metrics.comparison import format_score
from autoseg.metrics.summary import mean_of_known, summarize
from autoseg.records.evaluation import CaseScores
from autoseg.records.refinement import RefinementScores

MIN_GAIN = 0.001
"""Smallest gain that counts, of the surface Dice, or of HD95 relative to its value before: less is not worth the time
that refinement adds to every prediction."""

BoundaryMetric = Literal["surface_dice", "hausdorff_95_mm"]


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
    """Accept if surface Dice rises or HD95 falls by MIN_GAIN, and neither the mean Dice nor any label's falls.

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
    return max(risen, fallen) >= MIN_GAIN


def _is_less(first: float | None, second: float | None) -> bool:
    """Whether both are known and the first is smaller."""
    return first is not None and second is not None and first < second


def _format_mm(distance: float | None) -> str:
    return "unknown" if distance is None else f"{distance:.3f} mm"
