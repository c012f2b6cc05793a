"""Smaller patches that training begins with: legal, growing, and no more expensive than the planned one."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.costs.usual_detection import with_usual_detection
from autoseg.records.budget import Budget, Overrides
from autoseg.testing import synthetic_fingerprint
from planners.residual_encoder import plan_m
from planners.rules.growth import LIMITED_FRACTION, LIMITED_SIZES, MAX_SIZES, choose_growth
from planners.unet import plan
from planners.unext import plan as plan_unext
from tests.builders import make_configuration, make_network_spec

FULL = Budget(device="cuda", overrides=Overrides(progressive=True))
LIMITED = Budget(device="cpu", time_per_fold_seconds=600.0, overrides=Overrides(progressive=True))


def network(strides):
    dimensions = len(strides[0])
    ones = (1,) * dimensions
    return make_network_spec(dimensions, features=(4,) * (1 + len(strides)), strides=(ones, *strides))


def sizes(budget, strides, patch_size, batch_size=2):
    grown = choose_growth(budget, network(strides), patch_size, batch_size).value
    return [growing.patch_size for growing in grown]


HIPPOCAMPUS = ((2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_the_worked_example():
    assert len(sizes(FULL, HIPPOCAMPUS, (40, 56, 40))) == 13
    assert sizes(LIMITED, HIPPOCAMPUS, (40, 56, 40)) == [(8, 16, 8), (16, 16, 16), (24, 32, 24)]
    first = choose_growth(LIMITED, network(HIPPOCAMPUS), (40, 56, 40), 2).value[0]
    assert first.batch_size == math.floor(2 * math.sqrt(40 * 56 * 40 / (8 * 16 * 8))) == 18


def test_all_legal_sizes_by_hand():
    """Strides 2 and 4: the planned patch (4, 16) is 2 x 4 units; from 1 x 2 units the relatively shorter axis grows."""
    assert sizes(FULL, ((2, 2), (1, 2)), (4, 16)) == [(2, 8), (4, 8), (4, 12)]
    until = [growing.until for growing in choose_growth(FULL, network(((2, 2), (1, 2))), (4, 16), 2).value]
    assert until == [0.25, 0.5, 0.75]  # the planned patch has as much as each of the others


def test_of_very_many_sizes_some_are_taken():
    """A patch of 512 x 512 that is halved once has 510 smaller ones."""
    grown = choose_growth(FULL, network(((2, 2),)), (512, 512), 2).value
    assert grown[0].patch_size in {(2, 4), (4, 2)}
    assert 30 < len(grown) <= MAX_SIZES
    assert grown[-1].until == pytest.approx(len(grown) / (len(grown) + 1), abs=1e-3)


def test_a_planned_patch_that_is_the_smallest_has_none_before_it():
    decided = choose_growth(FULL, network(((2, 2), (2, 2))), (4, 8), 2)
    assert decided.value == ()
    assert "smallest" in decided.reason


@given(
    halvings=st.lists(st.integers(0, 4), min_size=2, max_size=3).filter(lambda counts: max(counts) > 0),
    units=st.lists(st.integers(1, 7), min_size=3, max_size=3),
    batch_size=st.integers(2, 16),
    budget=st.sampled_from([FULL, LIMITED]),
)
def test_patches_are_legal_grow_and_fit_where_the_planned_one_fits(halvings, units, batch_size, budget):
    strides = tuple(tuple(2 if level < count else 1 for count in halvings) for level in range(max(halvings)))
    total = [2**count for count in halvings]
    patch = tuple(unit * stride for unit, stride in zip(units, total, strict=False))
    if patch == tuple(total):
        return  # no configuration may have it
    grown = choose_growth(budget, network(strides), patch, batch_size).value
    spec = make_configuration((1.0,) * len(patch), patch_size=patch, batch_size=batch_size, network=network(strides))
    training = spec.training.model_copy(update={"growing_patches": grown})
    make_configuration(  # raises where a patch is not legal, shrinks or has a smaller batch
        (1.0,) * len(patch), patch_size=patch, batch_size=batch_size, network=network(strides), training=training
    )
    voxels = [math.prod(growing.patch_size) * growing.batch_size for growing in grown]
    assert all(found <= math.prod(patch) * batch_size for found in voxels)
    assert all(math.prod(a.patch_size) < math.prod(b.patch_size) for a, b in itertools.pairwise(grown))
    if budget is LIMITED:
        assert len(grown) <= LIMITED_SIZES
        assert not grown or grown[-1].until == pytest.approx(LIMITED_FRACTION)


@pytest.mark.parametrize("make", [plan, plan_m, plan_unext])
@pytest.mark.parametrize(("budget", "count"), [({"device": "cuda"}, 1), ({"device": "cpu"}, 1)])
def test_a_plan_grows_its_patches_only_where_it_is_asked_to(make, budget, count):
    fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 50, [(120, 130, 110)] * 50, label_values=range(3))
    usual = make(fingerprint, Budget(**budget))
    assert "growing_patches" not in usual.model_dump_json()
    grown = make(fingerprint, Budget(**budget, overrides=Overrides(progressive=True)))
    for name, configuration in grown.configurations.items():
        patches = configuration.training.growing_patches
        assert len(patches) >= count
        without = configuration.training.model_copy(update={"growing_patches": ()})
        assert usual.configurations[name] == configuration.model_copy(update={"training": without})
        assert any(decision.what == f"{name}.growing_patches" for decision in grown.decisions)


@pytest.mark.parametrize(
    ("budget", "far_apart", "grows"),
    [
        (Budget(device="cpu", time_per_fold_seconds=600.0), True, True),
        (Budget(device="cpu", time_per_fold_seconds=600.0), False, False),
        (Budget(device="cuda"), True, False),
        (Budget(device="cpu", time_per_fold_seconds=600.0, overrides=Overrides(progressive=False)), True, False),
    ],
    ids=["far apart", "close", "full schedule", "not wanted"],
)
def test_patches_grow_by_themselves_where_slices_are_far_apart_and_time_is_limited(budget, far_apart, grows):
    strides = ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    chosen = choose_growth(budget, network(strides), (10, 128, 112), 2, are_slices_far_apart=far_apart)
    assert bool(chosen.value) is grows
    assert chosen.reason.startswith("Slices are far apart") is grows


def test_flat_patches_do_not_grow_by_themselves():
    limited = Budget(device="cpu", time_per_fold_seconds=600.0)
    assert choose_growth(limited, network(((2, 2), (2, 2))), (128, 112), 12, are_slices_far_apart=True).value == ()


@pytest.mark.parametrize(
    ("strides", "patch_size", "steps", "asked", "grows"),
    [
        (HIPPOCAMPUS, (40, 56, 40), 1499, None, True),
        (HIPPOCAMPUS, (40, 56, 40), 1500, None, False),
        (HIPPOCAMPUS, (40, 56, 40), 800, False, False),
        (((2, 2), (2, 2)), (128, 112), 800, None, False),
    ],
)
def test_few_steps_begin_with_small_patches(strides, patch_size, steps, asked, grows):
    limited = Budget(device="cpu", time_per_fold_seconds=600.0, overrides=Overrides(progressive=asked))
    chosen = choose_growth(limited, network(strides), patch_size, 2, expected_steps=steps)
    assert bool(chosen.value) is grows
    assert ("fewer than 1500 steps" in chosen.reason) is grows


def test_few_steps_of_a_full_schedule_change_nothing():
    assert choose_growth(Budget(), network(HIPPOCAMPUS), (40, 56, 40), 2, expected_steps=10).value == ()


def test_patches_that_cut_objects_are_small_only_where_that_is_asked_for():
    spec = with_usual_detection(network(HIPPOCAMPUS))
    limited = Budget(device="cpu", time_per_fold_seconds=600.0)
    assert choose_growth(limited, network(HIPPOCAMPUS), (40, 56, 40), 2, expected_steps=100.0).value
    assert not choose_growth(limited, spec, (40, 56, 40), 2, expected_steps=100.0).value
    assert choose_growth(LIMITED, spec, (40, 56, 40), 2).value
