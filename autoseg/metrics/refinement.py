"""Whether refined boundaries are better, by scores of the same cases before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.metrics.comparison import format_score
from autoseg.metrics.overlap import IGNORE, score_case
from autoseg.metrics.summary import mean_of_known, summarize
from autoseg.records.case import Spacing
from autoseg.records.dataset import LabelValues
from autoseg.records.evaluation import CaseScores
from autoseg.records.refinement import RefinementScores

BoundaryMetric = Literal["surface_dice", "hausdorff_95_mm"]


@dataclass(frozen=True)
class RefinementVerdict:
    """What the scores say."""

    is_accepted: bool
    before: RefinementScores
    after: RefinementScores
    figures: str
    """What decided."""


def score_boundaries(
    case: str,
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    labels: dict[str, LabelValues],
    spacing: Spacing,
    tolerance_mm: float,
) -> CaseScores:
    """TEMPORARY until metrics.surface."""
    scores = score_case(case, prediction, reference, labels)
    known = ~np.isin(reference, [labels[IGNORE]]) if IGNORE in labels else np.ones(reference.shape, bool)
    found = {}
    for name, own in scores.labels.items():
        values = np.atleast_1d(labels[name])
        a, b = np.isin(prediction, values) & known, np.isin(reference, values) & known
        if not a.any() and not b.any():
            found[name] = own
            continue
        if not a.any() or not b.any():
            found[name] = own.model_copy(update={"surface_dice": 0.0})
            continue
        sa, sb = a & ~ndimage.binary_erosion(a), b & ~ndimage.binary_erosion(b)
        d_ab = ndimage.distance_transform_edt(~sb, spacing)[sa]
        d_ba = ndimage.distance_transform_edt(~sa, spacing)[sb]
        near = (d_ab <= tolerance_mm).sum() + (d_ba <= tolerance_mm).sum()
        found[name] = own.model_copy(
            update={
                "surface_dice": float(near / (d_ab.size + d_ba.size)),
                "hausdorff_95_mm": float(max(np.percentile(d_ab, 95), np.percentile(d_ba, 95))),
            }
        )
    return CaseScores(case=case, labels=found)


def judge_refinement(
    before: Sequence[CaseScores], after: Sequence[CaseScores], names: Sequence[str], tolerance_mm: float
) -> RefinementVerdict:
    """Accept if the mean surface Dice rises or the mean HD95 falls, and neither the mean Dice nor any label's falls.

    Boundaries are compared on structures that have the score both before and after; one that refinement loses or
    invents shows in the Dice.

    Args:
        before: Cases with surface scores.
        after: The same cases, in the same order.
        names: Labels or regions.
        tolerance_mm: Of the surface Dice.
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
    is_sharper = _is_less(old.surface_dice, new.surface_dice) or _is_less(new.hausdorff_95_mm, old.hausdorff_95_mm)
    is_worse = bool(fallen) or _is_less(new.mean_foreground_dice, old.mean_foreground_dice)
    figures = (
        f"surface Dice at {tolerance_mm:g} mm {format_score(old.surface_dice)} before, "
        f"{format_score(new.surface_dice)} after; HD95 {_format_mm(old.hausdorff_95_mm)} before, "
        f"{_format_mm(new.hausdorff_95_mm)} after; Dice {format_score(old.mean_foreground_dice)} before, "
        f"{format_score(new.mean_foreground_dice)} after"
    )
    if fallen:
        figures += f", lower for {', '.join(fallen)}"
    return RefinementVerdict(is_sharper and not is_worse, old, new, figures)


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


def _is_less(first: float | None, second: float | None) -> bool:
    """Whether both are known and the first is smaller."""
    return first is not None and second is not None and first < second


def _format_mm(distance: float | None) -> str:
    return "unknown" if distance is None else f"{distance:.3f} mm"
