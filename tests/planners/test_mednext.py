"""MedNeXt in its sizes: what options, memory and time choose."""

import pytest

from autoseg.errors import PlanningError
from autoseg.plugins import find_planner, find_variants
from autoseg.records.budget import Budget, Overrides
from autoseg.testing import planner_violations, synthetic_fingerprint
from planners import mednext, unet
from planners.mednext import SIZES, choose_size
from planners.rules.speed import WANTED_STEPS

SLICES = synthetic_fingerprint([(3.0, 1.0, 1.0)] * 40, [(40, 169, 138)] * 40, label_values=range(3))
CUBES = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 400, [(200, 250, 260)] * 400, label_values=range(3))


def budget_of(options: dict[str, str], **changes) -> Budget:
    return Budget(**{"device": "cuda"} | changes, overrides=Overrides(options=options))


def network_of(options: dict[str, str], name: str = "3d_fullres", **changes):
    return mednext.plan(SLICES, budget_of(options, **changes)).configurations[name].network


def size_of(budget: Budget) -> str:
    decision = mednext.plan(SLICES, budget).decisions[0]
    assert decision.what == "size"
    return str(decision.value)


def test_it_keeps_the_promises_of_planners():
    assert planner_violations(mednext.plan) == []


def test_it_is_an_entry_point():
    assert find_planner("mednext")(SLICES, Budget()).planner == "mednext"


def test_every_size_is_listed_with_both_kernels():
    listed = find_variants(mednext.plan, ())
    assert len(listed) == 8
    assert {network_of(dict(options)).expansions for options in listed} == {each.expansions for each in SIZES.values()}


def test_published_form_where_slices_are_far_apart():
    network = network_of({"size": "B", "kernel": "5", "grn": "true"})
    assert network.features == (32, 64, 128, 256, 512)
    assert network.kernel_sizes == ((1, 5, 5), *((5, 5, 5),) * 4)
    assert network.strides[1] == (1, 2, 2)
    assert network.encoder_blocks == (2, 2, 2, 2, 2)
    assert network.expansions == (2, 3, 4, 4, 4)
    assert network.response_normalization


def test_a_small_image_gets_the_upper_levels():
    small = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 40, [(20, 26, 24)] * 40, label_values=range(3))
    network = mednext.plan(small, budget_of({"size": "L"})).configurations["3d_fullres"].network
    assert (network.encoder_blocks, network.expansions) == ((3, 4, 8), (3, 4, 8))
    assert network.decoder_blocks == (3, 4)


@pytest.mark.parametrize(
    ("gigabytes", "size"), [(1.0, "S"), (8.0, "S"), (34.0, "S"), (40.0, "B"), (50.0, "M"), (68.0, "M"), (80.0, "L")]
)
def test_more_memory_chooses_a_larger_size(gigabytes, size):
    assert choose_size(gigabytes).value == size
    assert size_of(budget_of({}, memory_gigabytes=gigabytes)) == size if gigabytes > 1 else True


def test_little_time_chooses_a_smaller_size_and_then_a_narrower_network():
    found = {}
    for hours in (2, 20, 200):
        plan = mednext.plan(CUBES, budget_of({}, memory_gigabytes=80.0, time_per_fold_seconds=3600.0 * hours))
        found[hours] = str(plan.decisions[0].value)
        widths = {each.network.features[0] for each in plan.configurations.values()}
        steps = [each.training.epochs * each.training.steps_per_epoch for each in plan.configurations.values()]
        assert widths == {32} or found[hours] == "S"
        assert min(steps) >= WANTED_STEPS or found[hours] == "S"
    order = list(SIZES)
    assert order.index(found[2]) <= order.index(found[20]) <= order.index(found[200])
    assert found[200] == "L"
    on_cpu = mednext.plan(CUBES, budget_of({}, device="cpu", time_per_fold_seconds=600.0))
    assert on_cpu.decisions[0].value == "S"
    assert on_cpu.configurations["3d_fullres"].network.features[0] == 8


def test_full_training_is_the_published_one_and_limited_time_that_of_all_planners():
    full = mednext.plan(SLICES, budget_of({})).configurations["3d_fullres"].training
    assert (full.optimizer, full.learning_rate, full.schedule, full.epochs) == ("adamw", 1e-3, "poly", 1000)
    limited = budget_of({}, time_per_fold_seconds=3600.0)
    trained = [planner.plan(SLICES, limited).configurations["2d"].training for planner in (mednext, unet)]
    assert trained[0].learning_rate == trained[1].learning_rate


@pytest.mark.parametrize("size", SIZES)
def test_it_needs_no_more_memory_than_a_plain_network(size):
    plain, found = (
        planner.plan(CUBES, budget_of(options, memory_gigabytes=24.0)).configurations
        for planner, options in ((unet, {}), (mednext, {"size": size}))
    )
    for name in ("2d", "3d_fullres"):
        most, needed = (each[name].estimates.training_memory_bytes for each in (plain, found))
        assert most is not None
        assert needed is not None
        assert needed < 1.15 * most


def test_width_may_be_asked_for():
    assert network_of({"size": "S", "base_features": "16"}).features == (16, 32, 64, 128, 256)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": "XL"}, "size=XL: expected one of S, B, M, L"),
        ({"kernel": "7"}, "kernel=7: expected one of 3, 5"),
        ({"grn": "yes"}, "grn=yes: expected true or false"),
        (
            {"block": "plain"},
            "block: the planner 'mednext' has no such setting; it has: size, kernel, grn, base_features",
        ),
    ],
)
def test_what_does_not_exist_is_refused(options, sentence):
    with pytest.raises(PlanningError, match=sentence):
        mednext.plan(SLICES, budget_of(options))
