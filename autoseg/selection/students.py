"""Students beside their teachers in cross-validation: one that is not better takes no part in the selection.

Both have the same labelled cases in the same folds, and no case was seen by the fold that is scored on it, nor by the
fold of the teacher that labelled the images for it. Tested in tests/selection/test_students.py.
"""

from collections.abc import Mapping, Sequence

from autoseg.metrics.paired import NamedEvaluation, compare_evaluations
from autoseg.metrics.summary import summarize
from autoseg.records.dataset import foreground_names
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.unlabelled import StudentRecord, UnlabelledImages
from autoseg.records.workspace import Workspace
from autoseg.selection.validation_run import ValidatedFold
from autoseg.selection.verdicts import ROUNDING, describe_difference
from autoseg.text import format_command, format_score

MIN_STUDENT_GAIN = 0.001
"""Smallest rise of the mean foreground Dice for which a student is kept: less may be chance, and the teacher, which has
learnt from references alone, is to be preferred."""

Singles = Mapping[str, Sequence[ValidatedFold]]


def judge_students(
    workspace: Workspace, plan: Plan, singles: Singles
) -> tuple[dict[str, list[ValidatedFold]], list[str]]:
    """Leave out students that are not better than their teachers; write a StudentRecord of each that was compared.

    Args:
        workspace: Workspace that gets the records.
        plan: The plan.
        singles: Validated folds by configuration.

    Returns:
        The validated folds of all that take part in the selection, and a sentence for each student.
    """
    kept = {name: list(folds) for name, folds in singles.items()}
    reasons = []
    for name in singles:
        spec = plan.configurations[name].training.soft_labels if name in plan.configurations else None
        if spec is None:
            continue
        if fault := _why_not_compared(workspace, name, spec.teacher, singles):
            reasons.append(f"{name}: left out, {fault}")
            del kept[name]
            continue
        record = compare_student(name, spec.teacher, singles, plan, _count_images(workspace))
        write_record(record, workspace.student_record(name))
        reasons.append(record.reason)
        if not record.is_kept:
            del kept[name]
    return kept, reasons


def _why_not_compared(workspace: Workspace, student: str, teacher: str, singles: Singles) -> str:
    again = format_command("autoseg", "learn", workspace.root, "-c", teacher)
    if teacher not in singles:
        return f"its teacher {teacher} has no validated fold."
    trained = {fold.fold for fold in singles[student]}
    missing = [fold.fold for fold in singles[teacher] if fold.fold not in trained]
    return f"it is not trained on fold(s) {', '.join(missing)} of its teacher; resume with {again}" if missing else ""


def _count_images(workspace: Workspace) -> int:
    if not workspace.unlabelled.exists():
        return 0
    return len(read_record(UnlabelledImages, workspace.unlabelled).cases)


def compare_student(student: str, teacher: str, singles: Singles, plan: Plan, num_unlabelled: int) -> StudentRecord:
    """Compare a student with its teacher on the cases of all folds of the teacher.

    Args:
        student: Name of the student.
        teacher: Name of its teacher.
        singles: Validated folds by configuration, of the student at least those of its teacher.
        plan: The plan.
        num_unlabelled: Number of images that the student has learnt from.
    """
    folds = [fold.fold for fold in singles[teacher]]
    scores = {name: _pool(singles[name], folds, plan) for name in (student, teacher)}
    new, old = scores[student], scores[teacher]
    difference = compare_evaluations(NamedEvaluation(student, new), NamedEvaluation(teacher, old)).mean_foreground_dice
    gain = 0.0 if difference is None else difference.mean_difference
    is_kept = gain >= MIN_STUDENT_GAIN - ROUNDING
    fallen = tuple(name for name in old.labels if _is_lower(new.labels[name].dice, old.labels[name].dice))
    lower = f", lower for {', '.join(fallen)}" if fallen else ""
    answer = "kept" if is_kept else f"not kept, {MIN_STUDENT_GAIN} more is required"
    reason = (
        f"{student}, which also learns from {num_unlabelled} unlabelled images: {answer}; Dice "
        f"{format_score(new.mean_foreground_dice)}, and {format_score(old.mean_foreground_dice)} of its teacher "
        f"{teacher}, over {len(old.cases)} labelled cases ({gain:+.4f}{lower})."
        f"{describe_difference(None if difference is None else difference.interval)}"
    )
    return StudentRecord(
        student=student,
        teacher=teacher,
        folds=tuple(folds),
        num_labelled=len(old.cases),
        num_unlabelled=num_unlabelled,
        teacher_dice=old.mean_foreground_dice,
        student_dice=new.mean_foreground_dice,
        difference=difference,
        fallen=fallen,
        is_kept=is_kept,
        reason=reason,
    )


def _pool(validated: Sequence[ValidatedFold], folds: Sequence[str], plan: Plan) -> Evaluation:
    cases = [case for fold in validated if fold.fold in folds for case in fold.evaluation.cases]
    return summarize(cases, foreground_names(plan.encoding))


def _is_lower(new: float | None, old: float | None) -> bool:
    return new is not None and old is not None and new < old
