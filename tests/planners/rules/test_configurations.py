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
    names, reason = choose_configurations(ALL, asked, {})
    assert names == chosen
    assert reason.endswith(".")


def test_thick_slices_are_planned_where_they_are_asked_for_alone():
    available = ("2d", "2.5d", "3d_fullres")
    names, reason = choose_configurations(available, (), {})
    assert names == ("2d", "3d_fullres")
    assert "left out" not in reason
    assert choose_configurations(available, ("3d_fullres", "2.5d"), {})[0] == ("2.5d", "3d_fullres")


def test_unavailable():
    with pytest.raises(
        PlanningError, match="3d_lowres, 4d is not available for this data, budget or model; available: 2d, 3d_fullres"
    ):
        choose_configurations(ALL[:2], ("2d", "3d_lowres", "4d"), {})


def test_left_out_unless_asked_for():
    left_out = {"2d": "it is flat.", "3d_cascade_fullres": "it is long."}
    names, reason = choose_configurations(ALL, (), left_out)
    assert names == ("3d_fullres", "3d_lowres")
    assert "2d is left out: it is flat. 3d_cascade_fullres is left out: it is long. -c includes it" in reason
    assert choose_configurations(ALL, ("2d",), left_out) == (("2d",), "Only these were requested.")
    assert choose_configurations(ALL, ("3d_cascade_fullres",), left_out)[0] == ALL[1:]


@pytest.mark.parametrize("left_out", [{"2d": "it is flat."}, {"3d_fullres": "there is none."}])
def test_never_everything_is_left_out(left_out):
    names, reason = choose_configurations(("2d",), (), left_out)
    assert names == ("2d",)
    assert "left out" not in reason


def test_what_is_planned_on_request_alone_is_planned_where_there_is_nothing_else():
    """A model to start from may have 2.5d alone."""
    assert choose_configurations(("2.5d",), (), {}).value == ("2.5d",)
    assert choose_configurations(("2d", "2.5d"), (), {}).value == ("2d",)
