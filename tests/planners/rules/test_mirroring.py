import itertools

import pytest

from planners.rules.mirroring import LEFT_RIGHT_AXIS, choose_mirror_axes, explain_mirroring


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_full_schedule_mirrors_every_axis(dimensions):
    axes = choose_mirror_axes(dimensions, (1, 0, 2), limited_time=False)
    assert axes == tuple(range(dimensions))
    assert "All axes" in explain_mirroring(axes, limited_time=False)


@pytest.mark.parametrize("transpose", list(itertools.permutations(range(3))))
def test_limited_time_mirrors_left_and_right_wherever_the_transpose_puts_them(transpose):
    (axis,) = choose_mirror_axes(3, transpose, limited_time=True)
    assert transpose[axis] == LEFT_RIGHT_AXIS


def test_a_slice_across_left_and_right_is_not_mirrored():
    assert choose_mirror_axes(2, (2, 0, 1), limited_time=True) == ()
    assert choose_mirror_axes(2, (0, 1, 2), limited_time=True) == (1,)
    assert "does not show" in explain_mirroring((), limited_time=True)
