"""The section about students: each beside its teacher, and which unlabelled images were learnt from.

Tested in tests/stages/test_learn.py.
"""

from collections.abc import Iterator

from markupsafe import Markup

from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.unlabelled import SoftLabelsRecord, StudentRecord, UnlabelledImages
from autoseg.records.workspace import Workspace
from autoseg.report.page.templates import render_template
from autoseg.text import Row, format_score

MAX_LEFT_OUT = 20
"""Sentences on images that are left out; the number of the others is told."""


def render_unlabelled(workspace: Workspace, plan: Plan | None) -> Markup | None:
    """Figures of every student that was compared with its teacher; None if there is none."""
    names = [] if plan is None else [name for name in plan.configurations if workspace.student_record(name).exists()]
    records = [read_record(StudentRecord, workspace.student_record(name)) for name in names]
    if not records:
        return None
    left_out: tuple[str, ...] = ()
    if workspace.unlabelled.exists():
        left_out = read_record(UnlabelledImages, workspace.unlabelled).left_out
    return render_template(
        "unlabelled.html",
        students=[(record.reason, list(_fold_rows(workspace, record))) for record in records],
        left_out=left_out[:MAX_LEFT_OUT],
        further=max(len(left_out) - MAX_LEFT_OUT, 0),
    )


def _fold_rows(workspace: Workspace, record: StudentRecord) -> Iterator[Row]:
    """Fold, its validation cases, both Dice, temperature, and how much of the foreground counts."""
    for fold in record.folds:
        paths = [workspace.validation_evaluation((name,), fold) for name in (record.teacher, record.student)]
        evaluations = [read_record(Evaluation, path) for path in paths if path.exists()]
        if len(evaluations) < len(paths):
            continue
        labels = workspace.soft_labels(record.student, fold) / "labels.json"
        temperature, counted = "", ""
        if labels.exists():
            own = read_record(SoftLabelsRecord, labels)
            temperature = ", ".join(sorted({f"{value:.2f}" for value in own.temperatures.values()}))
            counted = f"{own.confident_fraction:.0%}"
        dice = [format_score(evaluation.mean_foreground_dice) for evaluation in evaluations]
        yield fold, str(len(evaluations[0].cases)), *dice, temperature, counted
