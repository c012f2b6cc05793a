"""The trainings of a workspace in the order in which they can run."""

from collections.abc import Sequence

from autoseg.costs.runs import Training
from autoseg.errors import UsageError
from autoseg.records.files import read_record
from autoseg.records.plan import Plan, Splits
from autoseg.records.workspace import Workspace


def cascade_order(plan: Plan) -> list[tuple[str, ...]]:
    """Configuration names in groups: a group needs only the ones before it, and its members do not need each other.

    Students are left out: they need labels of their teachers first, and `autoseg learn` sees to both.
    """

    def depth(name: str) -> int:
        previous = plan.configurations[name].previous_configuration
        return 0 if previous is None else 1 + depth(previous)

    alone = [name for name, value in plan.configurations.items() if value.training.soft_labels is None]
    depths = {name: depth(name) for name in alone}
    groups = range(max(depths.values(), default=-1) + 1)
    return [tuple(name for name in alone if depths[name] == group) for group in groups]


def list_trainings(
    workspace: Workspace, configurations: Sequence[str] = (), folds: Sequence[str] = ()
) -> list[list[Training]]:
    """Trainings of a planned workspace, in groups that can run side by side; each group needs the ones before it.

    Args:
        workspace: With plan and folds.
        configurations: Names in the plan; empty: all.
        folds: Fold names; empty: all, or `all` where there are too few cases to leave any out.

    Raises:
        UsageError: If a configuration or a fold does not exist.
        RecordError: If plan or folds are missing or damaged.
    """
    plan = read_record(Plan, workspace.plan)
    existing = [str(index) for index in range(len(read_record(Splits, workspace.splits).folds))]
    if unknown := [name for name in configurations if name not in plan.configurations]:
        raise UsageError(
            f"{workspace.plan}: has no configuration {', '.join(unknown)}, only {', '.join(plan.configurations)}"
        )
    if students := [name for name in configurations if plan.configurations[name].training.soft_labels is not None]:
        raise UsageError(f"{students[0]} learns from unlabelled images; train it with autoseg learn, on this machine")
    if unknown := [fold for fold in folds if fold not in (*existing, "all")]:
        raise UsageError(f"{workspace.splits}: has no fold {', '.join(unknown)}, only {', '.join([*existing, 'all'])}")
    names = [[name for name in group if name in (configurations or group)] for group in cascade_order(plan)]
    return [
        [Training(name, fold) for name in group for fold in folds or existing or ["all"]] for group in names if group
    ]
