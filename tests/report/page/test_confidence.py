"""The section on confidence: figures in tables, a chart per label, nothing without a selection that has it."""

import pytest

from autoseg.records.confidence import (
    Confidence,
    ConfidenceReport,
    DiceAgreement,
    ExpectedDice,
    HeldOutDice,
    LabelCalibration,
)
from autoseg.records.files import read_record, write_record
from autoseg.records.selection import Selection
from autoseg.report.page.confidence import MAX_FIGURES, render_confidence
from autoseg.report.page.render import render_report


def make_report(labels):
    calibration = LabelCalibration(
        voxels=100, error_before=0.123, error_after=0.045, brier_before=0.2, brier_after=0.15
    )
    agreement = DiceAgreement(
        num_cases=2, correlation=None, mean_absolute_error=0.021, mean_absolute_error_of_mean=0.034, coverage=0.5
    )
    cases = tuple(
        HeldOutDice(case=case, fold="0", label=label, dice=dice, expected=ExpectedDice(value=0.8, low=0.7, high=0.85))
        for label in labels
        for case, dice in (("a", 0.9), ("b", 0.75))
    )
    return ConfidenceReport(
        calibration={**dict.fromkeys(labels, calibration), "rare": calibration},
        agreement=dict.fromkeys(labels, agreement), cases=cases,
    )  # fmt: skip


@pytest.fixture
def selection(selected):
    found = read_record(Selection, selected.selection)
    temperatures = {"background": 1.62, "<b>liver</b>": 1.62, "lesion": 1.62}
    return found.model_copy(update={"confidence": Confidence(temperatures=temperatures, expected_dice={})})


def test_the_page_shows_temperatures_and_measured_over_expected_dice(selected, selection):
    write_record(selection, selected.selection)
    write_record(make_report(["<b>liver</b>"]), selected.confidence)
    page = render_report(selected).read_text()
    assert '<a href="#confidence">Confidence</a>' in page
    assert "&lt;b&gt;liver&lt;/b&gt;" in page
    assert "a: 0.900, expected 0.800, 0.700 to 0.850" in page
    assert '<td class="figure">1.62</td><td class="figure">0.123</td><td class="figure">0.045</td>' in page
    assert '<td class="figure">0.021</td><td class="figure">0.034</td><td class="figure"></td>' in page
    assert "rare: no expected Dice, there are too few held-out cases" in page


def test_many_labels_have_a_row_each_and_some_a_chart(selection):
    section = render_confidence(selection, make_report([f"organ{number}" for number in range(9)]))
    assert section is not None
    assert section.count("<svg") == MAX_FIGURES
    assert section.count('<th scope="row">organ8</th>') == 2


def test_without_a_confidence_there_is_no_section(selected, selection):
    without = selection.model_copy(update={"confidence": None})
    assert render_confidence(without, make_report(["lesion"])) is None
    assert "#confidence" not in render_report(selected).read_text()
