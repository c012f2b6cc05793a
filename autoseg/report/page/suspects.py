"""Cases whose references may be wrong: a table with reasons, and the first ones with images."""

from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from autoseg.imaging.arrays.display import Window
from autoseg.metrics.label_noise import MIN_CASES
from autoseg.records.dataset import DatasetDescription
from autoseg.records.suspects import Suspect, Suspects
from autoseg.report.page.case_pictures import CaseCard, show_cases
from autoseg.report.page.dataset_section import label_legend
from autoseg.report.page.templates import render_template
from autoseg.report.page.validation import PooledFolds
from autoseg.report.page.windows import describe_window
from autoseg.text import Row

MAX_PICTURES = 10
"""Suspects that are shown with images."""


def render_suspects(
    found: Suspects, shown: PooledFolds, description: DatasetDescription, folder: Path, window: Window | None
) -> Markup:
    """Table of all suspects and cards of the first ones.

    Args:
        found: The suspects, in their order.
        shown: Validated folds with the label maps of the selected model.
        description: Dataset with the files of its cases.
        folder: Folder of the dataset; without it there are no images.
        window: Range of intensities that is shown; see `show_cases`.
    """
    cards, notes = _show(found.suspects[:MAX_PICTURES], shown, description, folder, window)
    return render_template(
        "suspects.html",
        num_cases=found.num_cases,
        min_cases=MIN_CASES,
        rows=[_row(suspect) for suspect in found.suspects],
        range_words=describe_window(window) if window is not None else "",
        legend=label_legend(description.encoding),
        notes=notes,
        cards=cards,
    )


def _show(
    suspects: tuple[Suspect, ...],
    shown: PooledFolds,
    description: DatasetDescription,
    folder: Path,
    window: Window | None,
) -> tuple[list[CaseCard], list[str]]:
    if not suspects or not folder.exists():
        return [], []
    scores = {case.case: case for case in shown.evaluation.cases}
    reasons = {suspect.case: suspect.reason for suspect in suspects}
    ranks = {suspect.case: f"suspect {rank}" for rank, suspect in enumerate(suspects, start=1)}
    chosen = [(ranks[case], scores[case]) for case in ranks if case in scores]
    cards, notes = show_cases(chosen, shown, description, folder, window)
    return [replace(card, words=reasons[card.case]) for card in cards], notes


def _row(suspect: Suspect) -> Row:
    figures = (f"{suspect.dice:.2f}", f"{suspect.expected_dice:.2f}", f"{suspect.score:.1f}")
    return (suspect.case, suspect.reason, suspect.label, *figures)
