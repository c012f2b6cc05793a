"""Sentences about post-processing steps that were tried: what, whether it is kept, and the figures that decided."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoseg.metrics.comparison import format_score
from autoseg.metrics.component_removal import Sweep, Verdict

MAX_REFUSALS = 8
"""Sentences on refused steps of one kind; the names of further ones share a sentence."""


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


def describe_sweep(sweep: Sweep) -> str:
    """Volumes that were tried, and the chosen or best one."""
    first, last = sweep.tried[0], sweep.tried[-1]
    span = f"{len(sweep.tried)} volumes from {first:g} to {last:g} mm³ tried"
    if len(sweep.tried) == 1:
        span = "the only volume that makes a difference"
    if sweep.volume_mm3 is None:
        loss = "a structure that was found would be lost, " if sweep.is_loss else ""
        return f"{loss}below {sweep.best_mm3:g} mm³ ({span})"
    noise = "" if sweep.best_mm3 == sweep.volume_mm3 else f", {sweep.best_mm3:g} is better by no more than noise"
    return f"below {sweep.volume_mm3:g} mm³ ({span}{noise})"


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
