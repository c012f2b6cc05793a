"""Students in a plan: a configuration that is trained on unlabelled images too, which another one has labelled.

A student has everything that its teacher has, network, grid and schedule, so that both cost the same at prediction, and
its training is compared at equal steps.

Tested in tests/stages/test_plan_students.py.
"""

from autoseg.errors import RecordError, UsageError
from autoseg.imaging.arrays.soft_codes import MAX_SOFT_LABELS
from autoseg.records.files import read_record
from autoseg.records.plan import Configuration, Plan
from autoseg.records.training import SoftLabelSpec
from autoseg.records.workspace import Workspace

STUDENT_ENDING = "_student"
"""End of the name of a student, after the name of its teacher."""

AVERAGE_DECAY = 0.99
"""Decay of the average of a student's weights, which are what it keeps (a mean teacher), where the plan has none."""


def student_name(teacher: str) -> str:
    """Name of the configuration that learns from `teacher`."""
    return f"{teacher}{STUDENT_ENDING}"


def list_students(plan: Plan) -> tuple[str, ...]:
    """Names of the configurations that learn from unlabelled images."""
    return tuple(name for name, value in plan.configurations.items() if value.training.soft_labels is not None)


def find_teacher(plan: Plan, student: str) -> str | None:
    """Name of the configuration that a student learns from; None for any other configuration."""
    spec = plan.configurations[student].training.soft_labels
    return None if spec is None else spec.teacher


def without_students(plan: Plan) -> Plan:
    """The plan without its students, which `autoseg learn` trains."""
    students = list_students(plan)
    kept = {name: value for name, value in plan.configurations.items() if name not in students}
    return plan.model_copy(update={"configurations": kept}) if students else plan


def add_student(plan: Plan, teacher: str, min_confidence: float | None = None) -> Plan:
    """The plan with a student of one configuration.

    Args:
        plan: The plan; a student that it has already is made again.
        teacher: Name of the configuration.
        min_confidence: Calibrated probability from which a voxel counts, (0, 1]; None: the usual one.

    Raises:
        UsageError: If there is no such configuration, or it cannot be a teacher.
    """
    refuse_teacher(plan, teacher)
    spec = SoftLabelSpec(teacher=teacher)
    if min_confidence is not None:
        spec = SoftLabelSpec(teacher=teacher, min_confidence=min_confidence)
    student = _make_student(plan.configurations[teacher], spec)
    return plan.model_copy(update={"configurations": {**plan.configurations, student_name(teacher): student}})


def _make_student(teacher: Configuration, spec: SoftLabelSpec) -> Configuration:
    """The configuration of a student: it begins with its teacher's weights, so small patches teach it nothing first."""
    decay = teacher.training.weight_average_decay or AVERAGE_DECAY
    changes = {"soft_labels": spec, "weight_average_decay": decay, "growing_patches": ()}
    training = teacher.training.model_copy(update=changes)
    return teacher.model_copy(update={"training": training})


def refuse_teacher(plan: Plan, name: str) -> None:
    """Refuse a configuration whose labels nobody can learn from.

    Raises:
        UsageError: If it does not exist, is a student or a step of a cascade, or finds objects one by one.
    """
    if name not in plan.configurations:
        raise UsageError(
            f"no configuration {name!r} in the plan; it has {', '.join(without_students(plan).configurations)}"
        )
    configuration = plan.configurations[name]
    if configuration.training.soft_labels is not None:
        teacher = configuration.training.soft_labels.teacher
        raise UsageError(f"{name} is a student; name its teacher with -c {teacher}")
    if configuration.previous_configuration is not None:
        raise UsageError(
            f"{name} takes the label maps of {configuration.previous_configuration} as input, which unlabelled images "
            f"do not have; name another configuration with -c, such as {configuration.preprocessed_as}"
        )
    if configuration.network.detection is not None:
        raise UsageError(
            "unlabelled images need probabilities of voxels, but this model finds objects one by one (--target "
            "mask-rcnn). Plan with another target."
        )
    if len(plan.encoding.values) > MAX_SOFT_LABELS:
        raise UsageError(
            f"{len(plan.encoding.values)} labels are too many to learn from unlabelled images, which allow "
            f"{MAX_SOFT_LABELS} at most. Plan with fewer labels."
        )


def keep_students(workspace: Workspace, plan: Plan) -> Plan:
    """The plan that planning again writes: with the students of the earlier plan whose teachers it still has."""
    try:
        earlier = read_record(Plan, workspace.plan)
    except RecordError:  # missing, of another version, or damaged: nothing to keep
        return plan
    for name in list_students(earlier):
        spec = earlier.configurations[name].training.soft_labels
        if spec is not None and spec.teacher in plan.configurations:
            student = _make_student(plan.configurations[spec.teacher], spec)
            plan = plan.model_copy(update={"configurations": {**plan.configurations, name: student}})
    return plan
