"""Confidence: temperatures, and expected Dice compared with the measured one, on held-out cases."""

from markupsafe import Markup

from autoseg.metrics.expected_dice import COVERAGE
from autoseg.records.confidence import Confidence, ConfidenceReport, DiceAgreement
from autoseg.records.selection import Selection
from autoseg.report.charts.charts import ExpectedPoint, Figure, draw_expected
from autoseg.report.page.templates import render_template
from autoseg.text import Row

MAX_ROWS = 30
"""Labels in a table, those with the largest error first."""
MAX_FIGURES = 6
"""Labels with a chart, those with the largest error first."""


def render_confidence(selection: Selection, report: ConfidenceReport) -> Markup | None:
    """Temperatures with the errors before and after, and a chart of expected and measured Dice per label.

    Args:
        selection: The selected model.
        report: What its held-out cases said.

    Returns:
        The section; None if the selection has no confidence.
    """
    if selection.confidence is None:
        return None
    ranked = sorted(report.agreement.items(), key=lambda pair: -pair[1].mean_absolute_error)
    unlearnt = [name for name in report.calibration if name not in report.agreement]
    sentences = []
    if unlearnt:
        sentences.append(f"{', '.join(unlearnt)}: no expected Dice, there are too few held-out cases to learn it from.")
    return render_template(
        "confidence.html",
        calibration=_calibration_rows(selection.confidence, report),
        figures=[_draw(label, agreement, report) for label, agreement in ranked[:MAX_FIGURES]],
        agreement=[_agreement_row(label, agreement) for label, agreement in ranked[:MAX_ROWS]],
        coverage=f"{COVERAGE:.0%}",
        sentences=sentences,
    )


def _calibration_rows(confidence: Confidence, report: ConfidenceReport) -> list[Row]:
    ranked = sorted(report.calibration.items(), key=lambda pair: -pair[1].error_before)[:MAX_ROWS]
    return [
        (
            label,
            f"{confidence.temperatures[label]:.2f}" if label in confidence.temperatures else "",
            f"{errors.error_before:.3f}",
            f"{errors.error_after:.3f}",
            f"{errors.brier_before:.4f}",
            f"{errors.brier_after:.4f}",
        )
        for label, errors in ranked
    ]


def _agreement_row(label: str, agreement: DiceAgreement) -> Row:
    return (
        label,
        str(agreement.num_cases),
        f"{agreement.mean_absolute_error:.3f}",
        f"{agreement.mean_absolute_error_of_mean:.3f}",
        "" if agreement.correlation is None else f"{agreement.correlation:.2f}",
        f"{agreement.coverage:.0%}",
    )


def _draw(label: str, agreement: DiceAgreement, report: ConfidenceReport) -> Figure:
    points = [
        ExpectedPoint(case.case, case.dice, case.expected.value, (case.expected.low, case.expected.high))
        for case in report.cases
        if case.label == label
    ]
    summary = (
        f"mean absolute error {agreement.mean_absolute_error:.3f} over {agreement.num_cases} held-out cases, "
        f"{agreement.coverage:.0%} inside the interval"
    )
    return draw_expected(label, points, "Dice", summary)
