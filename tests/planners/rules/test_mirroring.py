import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.budget import Budget, Overrides
from autoseg.testing import synthetic_fingerprint
from planners.rules.schedule import choose_mirror_axes
from planners.unet import plan

FULL, LIMITED = Budget(), Budget(device="cuda", time_per_fold_seconds=600.0)


def named(*labels, orientation="canonical", spacing=(1.0, 1.0, 1.0)):
    fingerprint = synthetic_fingerprint([spacing], [(40, 50, 60)])
    values = {"background": 0} | {name: value for value, name in enumerate(labels, start=1)}
    changes = {"labels": values, "encoding": make_encoding(values), "orientation": orientation}
    return fingerprint.model_copy(update=changes)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_full_schedule_mirrors_every_axis(dimensions):
    fingerprint = named("LV", "RVC", "L1")
    axes, reason = choose_mirror_axes(dimensions, fingerprint, FULL, (0, 1, 2))
    assert axes == tuple(range(dimensions))
    assert "All axes, as" in reason


@pytest.mark.parametrize("labels", [("liver",), ("lung_left",)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_limited_time_mirrors_nothing(dimensions, labels):
    axes, reason = choose_mirror_axes(dimensions, named(*labels), LIMITED, (0, 1, 2))
    assert axes == ()
    assert "None: with a short schedule" in reason


@pytest.mark.parametrize("dimensions", [2, 3])
def test_limited_time_mirrors_sides_that_change_places(dimensions):
    fingerprint = named("liver", "kidney_left", "kidney_right")
    axes, reason = choose_mirror_axes(dimensions, fingerprint, LIMITED, (0, 1, 2))
    assert axes == (dimensions - 1,)
    assert "Left-right alone" in reason
    latency = LIMITED.model_copy(update={"latency_seconds": 5.0})
    assert choose_mirror_axes(dimensions, fingerprint, latency, (0, 1, 2)).value == ()
    assert choose_mirror_axes(2, fingerprint, LIMITED, (2, 0, 1)).value == ()
    lobes = named("kidney_left", "kidney_right", "lung_middle_lobe_right")
    assert choose_mirror_axes(dimensions, lobes, LIMITED, (0, 1, 2)).value == ()


def test_a_label_with_a_side_and_no_partner_keeps_left_and_right_apart():
    fingerprint = named("liver", "kidney_left", "lung_right")
    assert choose_mirror_axes(3, fingerprint, FULL, (0, 1, 2)).value == (0, 1)
    assert choose_mirror_axes(2, fingerprint, FULL, (0, 1, 2)).value == (0,)
    assert choose_mirror_axes(3, fingerprint, FULL, (2, 0, 1)).value == (1, 2)
    assert choose_mirror_axes(2, fingerprint, FULL, (2, 0, 1)).value == (0, 1)
    reason = choose_mirror_axes(3, fingerprint, FULL, (0, 1, 2)).reason
    assert "(kidney_left, lung_right)" in reason
    assert "--mirror-axes overrides" in reason


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_labels_of_two_sides_change_places_and_every_axis_is_mirrored(dimensions, transpose):
    axes, reason = choose_mirror_axes(dimensions, named("liver", "kidney_left", "kidney_right"), FULL, transpose)
    has_axis = dimensions == 3 or transpose == (0, 1, 2)
    assert axes == tuple(range(dimensions))
    assert "change places" in reason or not has_axis


@pytest.mark.parametrize(("asked", "axes"), [("all", (0, 1, 2)), ("none", ()), ("zx", (0, 2)), ("y", (1,))])
@pytest.mark.parametrize("budget", [FULL, LIMITED])
def test_what_the_user_asks_for_is_mirrored(budget, asked, axes):
    budget = budget.model_copy(update={"overrides": Overrides(mirror_axes=asked)})
    for labels in (("liver",), ("lung_left",)):
        assert choose_mirror_axes(3, named(*labels), budget, (0, 1, 2)) == (axes, "Requested.")
    assert choose_mirror_axes(2, named("liver"), budget, (0, 1, 2)).value == tuple(a - 1 for a in axes if a > 0)


def test_sides_in_images_as_stored_forbid_every_axis():
    fingerprint = named("kidney L", "kidney R", orientation="as_stored")
    assert choose_mirror_axes(3, fingerprint, FULL, (0, 1, 2)).value == ()
    assert "as stored" in choose_mirror_axes(3, fingerprint, FULL, (0, 1, 2)).reason
    assert choose_mirror_axes(3, named("kidney", orientation="as_stored"), FULL, (0, 1, 2)).value == (0, 1, 2)


def test_many_labels_are_counted():
    ribs = named(*(f"rib left {number}" for number in range(12)))
    reason = choose_mirror_axes(3, ribs, FULL, (0, 1, 2)).reason
    assert "(rib left 0, rib left 1, rib left 2 and 9 more)" in reason


def test_a_plan_follows_the_axis_through_its_transpose():
    made = plan(named("kidney left", "lung right", spacing=(1.0, 1.0, 4.0)), FULL)  # thick slices along x
    assert made.transpose[0] == 2
    assert made.configurations["3d_fullres"].training.mirror_axes == (1, 2)
    assert made.configurations["2d"].training.mirror_axes == (0, 1)
    reasons = {decision.what: decision.reason for decision in made.decisions}
    assert "All axes but left-right" in reasons["3d_fullres.mirror_axes"]


@given(st.permutations(["liver", "spleen", "left lung", "heart"]), st.sampled_from(["canonical", "as_stored"]))
def test_the_order_of_labels_does_not_matter(labels, orientation):
    fingerprint = named(*labels, orientation=orientation)
    expected = (0, 1) if orientation == "canonical" else ()
    assert choose_mirror_axes(3, fingerprint, FULL, (0, 1, 2)).value == expected
