"""Which configurations a plan holds."""

import pytest

from autoseg.errors import PlanningError
from planners.rules.configurations import choose_configurations

ALL = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ((), ALL),
        (("3d_lowres", "2d"), ("2d", "3d_lowres")),
        (("3d_cascade_fullres",), ALL[1:]),
        (("2d", "3d_cascade_fullres", "3d_lowres"), ALL),
    ],
)
def test_choice_in_the_order_of_the_plan(asked, chosen):
    names, reason = choose_configurations(ALL, asked)
    assert names == chosen
    assert reason.endswith(".")


def test_unavailable():
    with pytest.raises(PlanningError, match="3d_lowres, 4d is not available for this data; available: 2d, 3d_fullres"):
        choose_configurations(ALL[:2], ("2d", "3d_lowres", "4d"))
