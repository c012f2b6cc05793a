import pytest

from autoseg.inference.models.fold_mirroring import common_mirroring
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.sides import Sides
from autoseg.records.training import TrainingSpec
from tests.builders import make_plan

PLAN = make_plan(labels={"background": 0, "left": 1, "right": 2})
SIDES = Sides(axis=2, pairs=(("left", "right"),))


def trained(axes, sides=None):
    return Checkpoint(
        configuration="2d", fold="0", model_hash="", cases_hash="", epoch=1, step=1, elapsed_seconds=0.0,
        training=TrainingSpec(mirror_axes=axes, sides=sides, batch_dice=False),
    )  # fmt: skip


@pytest.mark.parametrize("axes", [(1, 2), (1,), ()])
def test_folds_that_swap_alike(axes):
    found, swap = common_mirroring("2d", [trained((0, *axes), SIDES), trained(axes, SIDES)], PLAN.encoding)
    assert found == axes
    assert swap is not None
    assert (swap.axis, swap.labels, swap.heads) == (2, (0, 2, 1, 3), (0, 2, 1))


def test_a_fold_that_did_not_swap_takes_the_axis_from_all():
    found, swap = common_mirroring("2d", [trained((1, 2), SIDES), trained((1, 2))], PLAN.encoding)
    assert (found, swap) == ((1,), None)


def test_folds_without_sides():
    assert common_mirroring("2d", [trained((1, 2)), trained((0, 2))], PLAN.encoding) == ((2,), None)
