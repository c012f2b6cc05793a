"""The page of cases to label next: a table, and each case with the contours of its prediction.

Tested in tests/stages/test_suggest.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.errors import ImageFileError
from autoseg.imaging.arrays.display import choose_window
from autoseg.records.files import write_text
from autoseg.records.plan import Plan
from autoseg.records.suggestions import Suggestion, Suggestions
from autoseg.report.page.case_pictures import CaseCard, show_prediction
from autoseg.report.page.dataset_section import label_legend
from autoseg.report.page.templates import render_template
from autoseg.report.page.windows import describe_window
from autoseg.text import Row, format_number

CaseFiles = tuple[tuple[Path, ...], Path]
"""Image files and predicted label map of a case."""

MAX_PICTURES = 30
"""Cases that are shown with images."""


def render_suggestions(found: Suggestions, files: Sequence[CaseFiles], plan: Plan, path: Path) -> Path:
    """Write the page; one case is in memory at a time.

    Args:
        found: The suggestions.
        files: Images and predicted label map of each suggested case, in their order.
        plan: Plan of the model.
        path: File to write.

    Returns:
        The path.
    """
    window = choose_window(plan)
    cards, notes = _show(found, files, plan)
    page = render_template(
        "suggestions.html",
        name=plan.dataset_name,
        num_cases=found.num_cases,
        rows=[_row(own) for own in found.suggestions],
        range_words=describe_window(window) if window is not None else "",
        legend=label_legend(plan.encoding),
        notes=notes,
        cards=cards,
    )
    write_text(page, path)
    return path


def _show(found: Suggestions, files: Sequence[CaseFiles], plan: Plan) -> tuple[list[CaseCard], list[str]]:
    cards, notes = [], []
    window = choose_window(plan)
    for own, (images, label_map) in list(zip(found.suggestions, files, strict=True))[:MAX_PICTURES]:
        try:
            card = show_prediction(f"number {own.rank}", own.case, images, label_map, plan.encoding, window)
        except (ImageFileError, ValueError) as error:
            notes.append(f"{own.case} cannot be shown: {error}")
        else:
            cards.append(replace(card, words=own.reason))
    if len(found.suggestions) > MAX_PICTURES:
        notes.append(f"The first {MAX_PICTURES} cases are shown.")
    return cards, notes


def _row(own: Suggestion) -> Row:
    figures = (own.score, own.uncertainty, own.disagreement, own.expected_dice, own.distance)
    return (str(own.rank), own.case, *(format_number(value, 2) for value in figures))
