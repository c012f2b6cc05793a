"""Students beside their teachers, on label maps whose Dice is worked out by hand."""

import numpy as np
import pytest

from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.records.files import read_record
from autoseg.records.unlabelled import StudentRecord
from autoseg.records.workspace import Workspace
from autoseg.selection.students import judge_students
from autoseg.selection.validation_run import ValidatedFold
from autoseg.stages.plan_students import add_student
from tests.builders import LABELS, make_plan

PLAN = add_student(make_plan({"3d_fullres": (2.0, 1.0, 1.0)}), "3d_fullres")
TEACHER, STUDENT = "3d_fullres", "3d_fullres_student"


def make_fold(tmp_path, fold, right):
    """A fold of two cases with 100 voxels of each label, of which so many are found by label; nothing else is."""
    cases = []
    for case in (f"{fold}a", f"{fold}b"):
        reference, prediction = np.zeros((2, 10, 20), np.uint16), np.zeros((2, 10, 20), np.uint16)
        for place, (value, found) in enumerate(zip((3, 300), right, strict=True)):
            reference[place, :, :10] = value
            rows = np.argwhere(reference[place] == value)[:found]
            prediction[place, rows[:, 0], rows[:, 1]] = value
        cases.append(score_case(case, prediction, reference, LABELS))
    return ValidatedFold(fold, tmp_path, summarize(cases, ["anterior", "posterior"]))


def dice(found):
    return 2 * found / (found + 100)


@pytest.mark.parametrize(
    ("student", "is_kept", "words"),
    [
        ((90, 60), True, "kept; Dice"),
        ((92, 49), True, "lower for posterior"),  # the mean decides
        ((80, 50), False, "not kept, 0.001 more is required"),
        ((70, 50), False, "not kept, 0.001 more is required"),
    ],
)
def test_a_student_takes_part_if_the_mean_dice_rises(tmp_path, student, is_kept, words):
    singles = {
        TEACHER: [make_fold(tmp_path, fold, (80, 50)) for fold in ("0", "1")],
        STUDENT: [make_fold(tmp_path, fold, student) for fold in ("1", "0")],
    }
    kept, (reason,) = judge_students(Workspace(tmp_path), PLAN, singles)
    assert list(kept) == ([TEACHER, STUDENT] if is_kept else [TEACHER])
    record = read_record(StudentRecord, Workspace(tmp_path).student_record(STUDENT))
    assert record.is_kept is is_kept
    assert record.reason == reason
    assert words in reason
    assert record.teacher_dice == pytest.approx((dice(80) + dice(50)) / 2)
    assert record.student_dice == pytest.approx(sum(map(dice, student)) / 2)
    assert record.difference is not None
    expected = (sum(map(dice, student)) - dice(80) - dice(50)) / 2
    assert record.difference.mean_difference == pytest.approx(expected)
    assert (record.folds, record.num_labelled) == (("0", "1"), 4)


def test_a_student_that_lacks_folds_is_left_out_without_a_verdict(tmp_path):
    better = make_fold(tmp_path, "0", (99, 99))
    singles = {TEACHER: [make_fold(tmp_path, fold, (80, 50)) for fold in ("0", "1")], STUDENT: [better]}
    kept, (reason,) = judge_students(Workspace(tmp_path), PLAN, singles)
    assert list(kept) == [TEACHER]
    assert "is not trained on fold(s) 1 of its teacher; resume with autoseg learn" in reason
    assert not Workspace(tmp_path).student_record(STUDENT).exists()
    kept, (reason,) = judge_students(Workspace(tmp_path), PLAN, {STUDENT: [better]})
    assert kept == {}
    assert "its teacher 3d_fullres has no validated fold" in reason


def test_only_folds_of_both_are_compared(tmp_path):
    singles = {
        TEACHER: [make_fold(tmp_path, "1", (80, 50))],
        STUDENT: [make_fold(tmp_path, fold, right) for fold, right in (("0", (1, 1)), ("1", (90, 60)))],
    }
    judge_students(Workspace(tmp_path), PLAN, singles)
    record = read_record(StudentRecord, Workspace(tmp_path).student_record(STUDENT))
    assert (record.folds, record.num_labelled) == (("1",), 2)
    assert record.student_dice == pytest.approx((dice(90) + dice(60)) / 2)


def test_without_students_nothing_is_said(tmp_path):
    singles = {TEACHER: [make_fold(tmp_path, "0", (80, 50))]}
    assert judge_students(Workspace(tmp_path), PLAN, singles) == (singles, [])
