"""UNeXt: how published widths lie on planned levels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.costs.memory import count_parameters
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides
from autoseg.records.fingerprint import Fingerprint
from autoseg.testing import synthetic_fingerprint
from planners import unet, unext
from planners.rules.topology import Topology, compute_topology

VOLUMES = synthetic_fingerprint([(3.0, 1.0, 1.0)] * 40, [(40, 169, 138)] * 40, label_values=range(3))


def pictures(edge: int) -> Fingerprint:
    shape = (1, edge, edge)
    return synthetic_fingerprint([(999.0, 1.0, 1.0)] * 400, [shape] * 400, channel_names=("R", "G", "B"))


def topology(levels: int, dimensions: int) -> Topology:
    return compute_topology((1.0,) * dimensions, (4 * 2 ** (levels - 1),) * dimensions, unext.MAX_LEVELS)


FEATURES = {
    ("base", 2): (16, 16),
    ("base", 3): (16, 16, 160),
    ("base", 4): (16, 16, 160, 256),
    ("base", 5): (16, 16, 32, 160, 256),
    ("base", 6): (16, 16, 32, 128, 160, 256),
    ("base", 7): (16, 16, 32, 128, 160, 256),
    ("base", 8): (16, 16, 32, 128, 160, 256),
    ("s", 4): (8, 8, 64, 128),
    ("s", 6): (8, 8, 16, 32, 64, 128),
    ("text", 5): (32, 32, 64, 160, 256),
    ("text", 6): (32, 32, 64, 128, 160, 256),
}


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("width", "levels"), FEATURES)
def test_levels(width, levels, dimensions):
    planned = topology(levels, dimensions)
    assert planned.levels == min(levels, 6)
    network = unext.plan_unext(planned, {"s": 8, "base": 16, "text": 32}[width], 3, 1)
    expected = FEATURES[width, levels]
    assert network.features == expected
    assert network.token_levels == {2: 0, 3: 1}.get(levels, 2)
    assert network.encoder_blocks == (1,) * len(expected)
    assert network.decoder_blocks == (1,) * (len(expected) - 1)
    assert network.strides == planned.strides[: len(expected)]
    assert network.kernel_sizes == planned.kernel_sizes[: len(expected)]
    assert (network.dimensions, network.input_channels, network.output_channels) == (dimensions, 3, 1)
    assert network.full_resolution_skip is (dimensions == 3)
    assert network.normalization == "instance"
    assert network.deep_supervision is True


@given(
    st.lists(st.integers(12, 900), min_size=2, max_size=3),
    st.lists(st.floats(0.3, 6.0), min_size=3, max_size=3),
    st.sampled_from([8, 16, 32]),
)
def test_any_topology(patch_size, spacing, width):
    planned = compute_topology(spacing[: len(patch_size)], patch_size, unext.MAX_LEVELS)
    if planned.levels < 2:
        return
    network = unext.plan_unext(planned, width, 1, 2)
    assert len(network.features) == planned.levels
    assert network.features[0] == network.features[1] == width
    assert list(network.features) == sorted(network.features)
    assert network.token_levels <= 2
    # axes that the topology does not halve are not halved: thin slices stay
    assert network.strides == planned.strides


def test_the_published_network_is_planned_for_pictures_of_256():
    made = unext.plan(pictures(256), Budget())
    configuration = made.configurations["2d"]
    network = configuration.network
    assert configuration.patch_size == (256, 256)
    assert network.features == (16, 16, 32, 128, 160, 256)
    assert network.strides == ((1, 1), *((2, 2),) * 5)
    assert network.kernel_sizes == ((3, 3),) * 6
    assert network.token_levels == 2
    assert (network.full_resolution_skip, network.input_channels) == (False, 3)
    published = network.model_copy(
        update={"normalization": "batch", "deep_supervision": False, "output_channels": 1}
    )  # fmt: skip
    assert count_parameters(published) == 1_471_921


@pytest.mark.parametrize(("width", "base_features"), [("s", 8), ("base", 16), ("text", 32)])
def test_width_option(width, base_features):
    made = unext.plan(VOLUMES, Budget(overrides=Overrides(options={"width": width})))
    assert {configuration.network.features[0] for configuration in made.configurations.values()} == {base_features}
    reasons = [decision.reason for decision in made.decisions if decision.what.endswith(".base_features")]
    assert set(reasons) == {"Requested."}


def test_base_is_the_default_width():
    assert unext.plan(VOLUMES, Budget()).configurations["3d_fullres"].network.features[0] == 16
    assert unext.make_unext_preset({}).widths == (16, 8)


def test_a_width_that_was_asked_for_stays_when_time_is_short():
    limit: dict[str, Any] = {"device": "cpu", "time_per_fold_seconds": 200.0}
    free = unext.plan(VOLUMES, Budget(**limit))
    assert free.configurations["3d_fullres"].network.features[0] == 8
    asked = unext.plan(VOLUMES, Budget(**limit, overrides=Overrides(options={"width": "base"})))
    assert asked.configurations["3d_fullres"].network.features[0] == 16


@pytest.mark.parametrize(("text", "skips"), [("true", {True}), ("false", {False}), (None, {True, False})])
def test_full_resolution_skip_option(text, skips):
    options = {} if text is None else {"full_resolution_skip": text}
    made = unext.plan(VOLUMES, Budget(overrides=Overrides(options=options)))
    found = {configuration.network.dimensions: configuration.network.full_resolution_skip
             for configuration in made.configurations.values()}  # fmt: skip
    assert set(found.values()) == skips
    if text is None:
        assert found == {2: False, 3: True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"base_features": "16"},
            "'unext' has no such setting; it has: width, full_resolution_skip",
        ),
        ({"width": "16"}, "width=16: expected one of s, base, text"),
        ({"full_resolution_skip": "no"}, "full_resolution_skip=no: expected true or false"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(PlanningError, match=message):
        unext.plan(VOLUMES, Budget(overrides=Overrides(options=options)))


def test_deep_topologies_are_cut_and_it_is_said():
    made = unext.plan(pictures(600), Budget())
    assert len(made.configurations["2d"].network.features) == 6
    [levels] = [decision for decision in made.decisions if decision.what == "2d.levels"]
    assert levels.value == 6
    assert "halved 5, 5 times, which is as deep as this network is meant to be" in levels.reason


def test_far_fewer_multiplications_than_the_u_net():
    small, large = unext.plan(pictures(256), Budget()), unet.plan(pictures(256), Budget())
    assert small.configurations["2d"].patch_size == large.configurations["2d"].patch_size
    assert small.configurations["2d"].estimates.macs * 10 < large.configurations["2d"].estimates.macs


def test_strides_spare_thin_axes():
    network = unext.plan(VOLUMES, Budget()).configurations["3d_fullres"].network
    assert network.strides[1] == (1, 2, 2)
    assert network.kernel_sizes[0] == (1, 3, 3)
    assert network.token_levels == 2
