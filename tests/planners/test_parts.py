"""U-Nets of chosen parts: what the options choose, what is refused, what the named planners stand for."""

from typing import get_args

import pytest

from autoseg.errors import PlanningError
from autoseg.plugins import find_planner
from autoseg.records.budget import Budget, Overrides
from autoseg.records.network import Block
from autoseg.testing import planner_violations, synthetic_fingerprint
from planners import unet
from planners.parts import BLOCKS_PER_LEVEL, NAMED_PARTS, Parts, read_parts

VOLUMES = synthetic_fingerprint([(3.0, 1.0, 1.0)] * 40, [(40, 169, 138)] * 40, label_values=range(3))


LARGE = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 400, [(300, 400, 420)] * 400, label_values=range(3))
"""Data that fill every patch and batch."""


def budget_of(options: dict[str, str], **changes) -> Budget:
    return Budget(overrides=Overrides(options=options), **changes)


@pytest.mark.parametrize("name", NAMED_PARTS)
def test_named_planners_are_entry_points_that_plan_their_parts(name):
    plan = find_planner(name)(VOLUMES, Budget())
    assert plan.planner == name
    for configuration in plan.configurations.values():
        network = configuration.network
        assert Parts(network.block, network.skip, network.attention, network.bottleneck) == NAMED_PARTS[name]
        assert network.encoder_blocks == (BLOCKS_PER_LEVEL[network.block],) * len(network.features)


@pytest.mark.parametrize("name", ["vnet", "unet++", "attention-unet"])
def test_named_planners_keep_the_promises_of_planners(name):
    assert planner_violations(find_planner(name)) == []


def test_parts_are_settings_of_unet():
    options = {"block": "residual", "skip": "gate", "attention": "channel", "bottleneck": "pyramid"}
    network = unet.plan(VOLUMES, budget_of(options)).configurations["3d_fullres"].network
    assert {name: getattr(network, name) for name in options} == options


def test_two_bottlenecks_may_be_joined_by_a_plus():
    assert read_parts({"bottleneck": "atrous+nonlocal"}) == read_parts({"bottleneck": "atrous_nonlocal"})


def test_plain_parts_change_nothing():
    options = {"block": "plain", "skip": "plain", "attention": "none", "bottleneck": "plain"}
    plain, asked = (unet.plan(VOLUMES, budget_of(each)) for each in ({}, options))
    assert plain.configurations == asked.configurations


@pytest.mark.parametrize("block", get_args(Block))
def test_every_block_fits_the_memory_of_a_plain_network(block):
    plan = unet.plan(LARGE, budget_of({"block": block}))
    plain = unet.plan(LARGE, Budget())
    for name, configuration in plan.configurations.items():
        most, found = (each.estimates.training_memory_bytes for each in (plain.configurations[name], configuration))
        assert most is not None
        assert found is not None
        assert found < 1.15 * most


def test_settings_change_the_parts_of_a_named_planner():
    network = find_planner("vnet")(VOLUMES, budget_of({"attention": "mixed"})).configurations["2d"].network
    assert (network.block, network.attention) == ("residual", "mixed")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block": "vgg"}, "block=vgg: expected one of plain, residual, recurrent, dense, inception, multires"),
        ({"attention": ""}, "attention=: expected one of none, channel, spatial, mixed"),
        ({"skip": "nested", "block": "dense"}, "skip=nested with block=dense: both join all that was computed"),
        ({"skip": "nested", "block": "recurrent"}, "skip=nested with block=recurrent: every one of the nodes"),
    ],
)
def test_what_does_not_exist_or_go_together_is_refused(options, sentence):
    with pytest.raises(PlanningError, match=sentence):
        read_parts(options)


def test_less_speed_of_a_part_gives_a_smaller_network():
    limited = {"device": "cpu", "time_per_fold_seconds": 1200.0}
    plain = unet.plan(VOLUMES, budget_of({}, **limited)).configurations["3d_fullres"]
    slow = unet.plan(VOLUMES, budget_of({"block": "inception"}, **limited)).configurations["3d_fullres"]
    assert slow.estimates.macs < plain.estimates.macs


def test_a_named_planner_refuses_to_lose_its_part():
    with pytest.raises(PlanningError, match=r"'attention-unet' is the U-Net with skip=gate\. Leave this option out"):
        find_planner("attention-unet")(VOLUMES, budget_of({"skip": "plain"}))
    kept = find_planner("multiresunet")(VOLUMES, budget_of({"block": "multires", "bottleneck": "pyramid"}))
    assert kept.configurations["2d"].network.skip == "respath"
