"""Students in a plan."""

import pytest

from autoseg.cluster.trainings import cascade_order, list_trainings
from autoseg.errors import UsageError
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, Splits, model_hash
from autoseg.records.training import GrowingPatch, SoftLabelSpec
from autoseg.records.workspace import Workspace
from autoseg.stages.plan_students import add_student, find_teacher, keep_students, list_students, without_students
from tests.builders import CASCADE, make_cascade_plan, make_plan

PLAN = make_plan({"3d_fullres": (2.0, 1.0, 1.0), "2d": (1.0, 1.0)})
STUDENT = "3d_fullres_student"


def test_a_student_has_all_of_its_teacher_but_what_it_learns_from():
    growing = GrowingPatch(patch_size=(6, 8, 10), batch_size=4, until=0.5)
    teacher = PLAN.configurations["3d_fullres"]
    teacher = teacher.model_copy(
        update={"training": teacher.training.model_copy(update={"growing_patches": (growing,)})}
    )
    plan = PLAN.model_copy(update={"configurations": {**PLAN.configurations, "3d_fullres": teacher}})
    changed = add_student(plan, "3d_fullres", 0.9)
    student = changed.configurations[STUDENT]
    differing = {name for name, value in student if getattr(teacher, name) != value}
    assert differing == {"training"}
    differing = {name for name, value in student.training if getattr(teacher.training, name) != value}
    assert differing == {"soft_labels", "weight_average_decay", "growing_patches"}
    assert student.training.soft_labels == SoftLabelSpec(teacher="3d_fullres", min_confidence=0.9)
    assert list_students(changed) == (STUDENT,)
    assert find_teacher(changed, STUDENT) == "3d_fullres"
    assert find_teacher(changed, "2d") is None
    assert without_students(changed) == plan
    assert without_students(plan) is plan
    assert model_hash(changed, STUDENT) == model_hash(plan, "3d_fullres")
    assert Plan.model_validate_json(changed.model_dump_json()) == changed


def test_plans_without_students_say_nothing_of_them():
    assert "soft_labels" not in PLAN.model_dump_json()


def test_a_student_without_teacher_is_refused_when_a_plan_is_read():
    changed = add_student(PLAN, "2d")
    alone = changed.model_copy(update={"configurations": {"2d_student": changed.configurations["2d_student"]}})
    with pytest.raises(ValueError, match="teacher"):
        Plan.model_validate_json(alone.model_dump_json())


def test_who_cannot_be_a_teacher():
    with pytest.raises(UsageError, match="no configuration '3d_lowres' in the plan; it has 3d_fullres, 2d"):
        add_student(PLAN, "3d_lowres")
    with pytest.raises(UsageError, match="is a student; name its teacher with -c 2d"):
        add_student(add_student(PLAN, "2d"), "2d_student")
    with pytest.raises(UsageError, match="which unlabelled images do not have"):
        add_student(make_cascade_plan((4.0, 2.0, 2.0), (2.0, 1.0, 1.0)), CASCADE)


def test_planning_again_keeps_students_whose_teacher_is_still_planned(tmp_path):
    workspace = Workspace(tmp_path)
    assert keep_students(workspace, PLAN) == PLAN
    write_record(add_student(add_student(PLAN, "3d_fullres", 0.6), "2d"), workspace.plan)
    now = make_plan({"3d_fullres": (3.0, 1.5, 1.5)})
    kept = keep_students(workspace, now)
    assert list(kept.configurations) == ["3d_fullres", STUDENT]
    assert kept.configurations[STUDENT].spacing == (3.0, 1.5, 1.5)
    spec = SoftLabelSpec(teacher="3d_fullres", min_confidence=0.6)
    assert kept.configurations[STUDENT].training.soft_labels == spec


def test_whoever_trains_everything_leaves_students_out(tmp_path):
    workspace, plan = Workspace(tmp_path), add_student(PLAN, "2d")
    write_record(plan, workspace.plan)
    write_record(Splits(folds=(), reason=""), workspace.splits)
    assert cascade_order(plan) == [("3d_fullres", "2d")]
    assert [training.configuration for group in list_trainings(workspace) for training in group] == ["3d_fullres", "2d"]
    with pytest.raises(UsageError, match="2d_student learns from unlabelled images; train it with autoseg learn"):
        list_trainings(workspace, ["2d_student"])
    assert read_record(Plan, workspace.plan) == plan
