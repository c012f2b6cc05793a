"""The head as a setting of planners: what it chooses, what it saves, what is refused."""

import math

import pytest

from autoseg.costs.memory import count_saved_elements
from autoseg.errors import PlanningError
from autoseg.plugins import find_planner
from autoseg.records.budget import Budget, Overrides
from autoseg.testing import synthetic_fingerprint
from planners.heads import find_coarse_level

VOLUMES = synthetic_fingerprint([(3.0, 1.0, 1.0)] * 40, [(40, 169, 138)] * 40, label_values=range(3))
LARGE = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 400, [(300, 400, 420)] * 400, label_values=range(3))
"""Data that fill every patch and batch."""
REGIONS = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 40, [(60, 70, 80)] * 40, label_values=range(3), regions=True)


def planned(fingerprint, options, planner="unet", **changes):
    return find_planner(planner)(fingerprint, Budget(overrides=Overrides(options=options), **changes))


@pytest.mark.parametrize("planner", ["unet", "unet++", "attention-unet", "resenc-m", "unext"])
@pytest.mark.parametrize(("stride", "level"), [("2", 1), ("4", 2)])
def test_points_end_the_decoder_of_any_planner_at_the_stride(planner, stride, level):
    plan = planned(VOLUMES, {"head": "points", "point_stride": stride}, planner)
    assert len(plan.configurations) > 1
    for name, configuration in plan.configurations.items():
        network = configuration.network
        assert (network.head, network.coarse_level, network.independent_heads) == ("points", level, False)
        (decision,) = [each for each in plan.decisions if each.what == f"{name}.head"]
        assert decision.value == f"points, stride {stride}"


def test_the_stride_is_two_unless_another_one_is_given():
    assert planned(VOLUMES, {"head": "points"}) == planned(VOLUMES, {"head": "points"})
    assert planned(VOLUMES, {"head": "points"}).configurations["2d"].network.coarse_level == 1


def test_a_full_head_changes_nothing():
    assert planned(VOLUMES, {"head": "full"}).configurations == planned(VOLUMES, {}).configurations
    names = {decision.what for decision in planned(VOLUMES, {"head": "full"}).decisions}
    assert not any(name.endswith(".head") for name in names)


@pytest.mark.parametrize(("planner", "kept"), [("unet", (0.75, 0.6)), ("resenc-m", (0.9, 0.8)), ("unext", (0.9, 0.7))])
def test_the_memory_that_points_save_goes_into_patches_and_batches(planner, kept):
    plan, full = planned(LARGE, {"head": "points"}, planner), planned(LARGE, {}, planner)
    for name, largest in zip(("2d", "3d_fullres"), kept, strict=True):
        mine, other = plan.configurations[name], full.configurations[name]
        voxels = [each.batch_size * math.prod(each.patch_size) for each in (mine, other)]
        assert voxels[0] > 1.1 * voxels[1]
        limit = other.estimates.training_memory_bytes
        assert limit is not None
        assert mine.estimates.training_memory_bytes is not None
        assert mine.estimates.training_memory_bytes < 1.15 * limit
        same = mine.network.model_copy(update={"head": "full", "coarse_level": 0})
        with_points, without = (count_saved_elements(each, mine.patch_size) for each in (mine.network, same))
        assert with_points < largest * without


def test_regions_are_decisions_of_their_own():
    plan = planned(REGIONS, {"head": "points"})
    assert plan.encoding.activation == "sigmoid"
    assert all(configuration.network.independent_heads for configuration in plan.configurations.values())
    full = planned(REGIONS, {})
    assert not any(configuration.network.independent_heads for configuration in full.configurations.values())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"head": "mask"}, "head=mask: expected one of full, points"),
        ({"head": "points", "point_stride": "3"}, "point_stride=3: expected one of 2, 4"),
        ({"point_stride": "2"}, "only a point head has one. Add head=points"),
    ],
)
def test_what_does_not_exist_is_refused(options, sentence):
    with pytest.raises(PlanningError, match=sentence):
        planned(VOLUMES, options)


def test_a_patch_without_a_coarser_decoder_is_refused():
    small = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 9, [(10, 10, 10)] * 9, label_values=range(2))
    with pytest.raises(PlanningError, match="has 2 levels, and points at stride 2 need 3"):
        planned(small, {"head": "points"})


def test_the_coarse_level_is_the_first_that_reaches_the_stride_along_some_axis():
    strides = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert [find_coarse_level(strides, stride) for stride in (2, 4, 8, 16)] == [1, 2, 3, 4]


@pytest.mark.parametrize("planner", ["unet", "mednext"])
def test_patches_shrink_no_further_than_the_stride_allows(planner):
    """A short time makes small patches; points of stride 4 need four levels."""
    flat = synthetic_fingerprint([(5.0, 1.0, 1.0)] * 8, [(12, 200, 200)] * 8)
    limits = {"device": "cpu", "time_per_fold_seconds": 30.0, "configurations": ("3d_fullres",)}
    plan = planned(flat, {"head": "points", "point_stride": "4"}, planner, **limits)
    assert len(plan.configurations["3d_fullres"].network.features) == 4
