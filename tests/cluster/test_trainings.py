"""The order of trainings, and what is refused."""

import pytest

from autoseg.cluster.trainings import cascade_order, list_trainings
from autoseg.costs.runs import Training
from autoseg.errors import UsageError
from autoseg.records.files import write_record
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from tests.builders import CASCADE, make_cascade_plan, make_plan

PLAN = make_cascade_plan((4.0, 2.9, 3.3), (2.3, 1.5, 1.7))


@pytest.fixture
def planned(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    write_record(PLAN, workspace.plan)
    splits = (Split(training=("a",), validation=("b",)), Split(training=("b",), validation=("a",)))
    write_record(Splits(folds=splits, reason="two"), workspace.splits)
    return workspace


def test_a_cascade_comes_after_the_configuration_before_it_wherever_the_plan_has_it():
    backwards = {name: PLAN.configurations[name] for name in reversed(PLAN.configurations)}
    groups = cascade_order(PLAN.model_copy(update={"configurations": backwards}))
    assert groups == [("3d_fullres", "3d_lowres"), (CASCADE,)]
    assert cascade_order(make_plan({})) == []


def test_every_configuration_and_fold_is_one_training(planned):
    first, second = list_trainings(planned)
    assert first == [Training(name, fold) for name in ("3d_lowres", "3d_fullres") for fold in ("0", "1")]
    assert second == [Training(CASCADE, "0"), Training(CASCADE, "1")]


def test_some_of_them(planned):
    assert list_trainings(planned, ["3d_fullres"], ["1", "all"]) == [
        [Training("3d_fullres", "1"), Training("3d_fullres", "all")]
    ]
    assert list_trainings(planned, [CASCADE], ["0"]) == [[Training(CASCADE, "0")]]


def test_too_few_cases_for_folds_give_one_training_of_all(planned):
    write_record(Splits(folds=(), reason="few"), planned.splits)
    assert {training.fold for group in list_trainings(planned) for training in group} == {"all"}


@pytest.mark.parametrize(
    ("names", "folds", "message"),
    [
        (["2d"], [], "has no configuration 2d, only 3d_lowres, 3d_fullres"),
        ([], ["0", "2"], "has no fold 2, only 0, 1, all"),
    ],
)
def test_what_the_plan_does_not_have_is_refused(planned, names, folds, message):
    with pytest.raises(UsageError, match=message):
        list_trainings(planned, names, folds)
