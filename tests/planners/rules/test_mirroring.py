import pytest

from planners.rules.mirroring import choose_mirror_axes, explain_mirroring


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_full_schedule_mirrors_every_axis(dimensions):
    assert choose_mirror_axes(dimensions, limited_time=False) == tuple(range(dimensions))
    assert "All axes" in explain_mirroring(limited_time=False)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_limited_time_mirrors_nothing(dimensions):
    assert choose_mirror_axes(dimensions, limited_time=True) == ()
    assert "None" in explain_mirroring(limited_time=True)
