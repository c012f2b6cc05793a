"""The HRNet planner: stem, branches, heads, sizes by memory and time, and what is refused."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import PlanningError
from autoseg.records.budget import AdoptedConfiguration, AdoptedModel, Budget, Overrides
from autoseg.records.network import NetworkSpec
from autoseg.testing import planner_violations, synthetic_fingerprint
from planners import hrnet, unet
from planners.rules.topology import compute_topology

SMALL = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 40, [(36, 50, 35)] * 40, label_values=range(3))
HEARTS = synthetic_fingerprint([(10.0, 1.5, 1.5)] * 60, [(10, 224, 200)] * 60, label_values=range(4))
LARGE = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 400, [(300, 400, 420)] * 400, label_values=range(3))
PICTURES = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 300, [(1, 529, 622)] * 300, label_values=range(2))


def network_of(fingerprint: Any, name: str, options: dict[str, str] | None = None, **limits: Any) -> NetworkSpec:
    budget = Budget(overrides=Overrides(options=options or {}), configurations=(name,), **limits)
    return hrnet.plan(fingerprint, budget).configurations[name].network


def stem_of(network: NetworkSpec) -> int:
    assert network.branches is not None
    return network.branches.stem_levels


def test_it_keeps_the_promises_of_planners():
    assert planner_violations(hrnet.plan) == []


def test_small_images_keep_full_resolution_in_the_finest_branch():
    network = network_of(SMALL, "3d_fullres")
    assert stem_of(network) == 0
    assert network.features == (32, 64, 128, 256)
    assert network.branches is not None
    assert network.branches.modules == (1, 1, 1)
    assert network.branches.joined_features == 64


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_large_images_are_halved_by_the_stem_where_level_1_halves_them(name):
    network = network_of(HEARTS, name)
    assert stem_of(network) == 1
    assert network.features == (32, 32, 64, 128, 256)
    assert network.strides[1] == (1, 2, 2)[-network.dimensions :]
    assert network.kernel_sizes[0] == (1, 3, 3)[-network.dimensions :]


@pytest.mark.parametrize(
    ("fingerprint", "value", "sentence"),
    [
        (SMALL, 1, "The images have 35 voxels along an axis that level 1 halves: below 128 the finest branch keeps"),
        (HEARTS, 2, "The images have 200 voxels or more along the axes that level 1 halves: the finest branch works"),
        (PICTURES, 2, "The images have 529 voxels or more along the axes that level 1 halves"),
    ],
)
def test_the_stem_is_a_decision_with_a_reason(fingerprint, value, sentence):
    decision = hrnet.plan(fingerprint, Budget()).decisions[0]
    assert (decision.what, decision.value) == ("stem", value)
    assert decision.reason.startswith(sentence)


@pytest.mark.parametrize(("text", "levels"), [("1", 0), ("2", 1), ("4", 2)])
def test_the_stem_is_a_setting(text, levels):
    network = network_of(HEARTS, "2d", {"stem": text})
    assert stem_of(network) == levels
    assert network.features[: levels + 1] == (32,) * (levels + 1)
    assert len(network.features) == (6 if text == "4" else 5)
    # between image and first branch there is a level without features of its own only where the stem divides by 4
    assert network.deep_supervision == (text != "4")


def test_the_head_is_a_setting():
    joined = {head: network_of(SMALL, "2d", {"head": head}).branches for head in ("v1", "v2")}
    assert {head: branches and branches.joined_features for head, branches in joined.items()} == {"v1": 0, "v2": 64}


def test_a_list_of_networks_shows_every_stem_and_head():
    shown = hrnet.variants(())
    assert len(shown) == 6
    networks = [network_of(HEARTS, "2d", options) for options in shown]
    assert len({str(network) for network in networks}) == 6


def test_the_width_is_a_setting():
    network = network_of(HEARTS, "3d_fullres", {"base_features": "18", "head": "v2"})
    assert network.features == (18, 18, 36, 72, 144)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stem": "3"}, "--planner-option stem=3: expected one of 1, 2, 4."),
        ({"head": "v3"}, "--planner-option head=v3: expected one of v1, v2."),
        ({"base_features": "0"}, "--planner-option base_features=0: expected a whole number from 1 to 128."),
        ({"width": "18"}, "--planner-option width: the planner 'hrnet' has no such setting; it has: base_features,"),
    ],
)
def test_what_does_not_exist_is_refused(options, sentence):
    with pytest.raises(PlanningError, match=re.escape(sentence)):
        network_of(SMALL, "2d", options)


@pytest.mark.parametrize("options", [{}, {"stem": "1"}, {"head": "v1"}], ids=str)
def test_it_fits_the_memory_of_a_plain_network(options):
    made = hrnet.plan(LARGE, Budget(overrides=Overrides(options=options)))
    plain = unet.plan(LARGE, Budget())
    for name, configuration in made.configurations.items():
        most, found = (each.estimates.training_memory_bytes for each in (plain.configurations[name], configuration))
        assert most is not None
        assert found is not None
        assert found < 1.15 * most


def test_less_time_gives_a_narrower_network():
    limit: dict[str, Any] = {"device": "cpu"}
    long, short = (network_of(SMALL, "2d", time_per_fold_seconds=time, **limit) for time in (36_000.0, 300.0))
    assert long.features[0] > short.features[0]


def test_a_small_patch_leaves_two_branches():
    asked = Overrides(patch_size=(8, 8), options={"stem": "2"})
    network = hrnet.plan(PICTURES, Budget(overrides=asked)).configurations["2d"].network
    assert (stem_of(network), network.features) == (0, (32, 64))


def test_the_network_of_another_model_is_taken_as_it_is():
    network = network_of(HEARTS, "2d", {"stem": "1", "head": "v1", "base_features": "8"})
    source = hrnet.plan(HEARTS, Budget(configurations=("2d",))).configurations["2d"]
    model = AdoptedModel(
        model="other",
        planner="hrnet",
        channel_names=HEARTS.channel_names,
        transpose=(0, 1, 2),
        configurations={
            "2d": AdoptedConfiguration(
                spacing=source.spacing,
                patch_size=source.patch_size,
                network=network,
                resampling=source.resampling,
                normalization=source.normalization,
            )
        },
    )
    made = hrnet.plan(HEARTS, Budget(like=model))
    assert made.configurations["2d"].network == network
    assert "stem" not in [decision.what for decision in made.decisions]


@given(
    st.lists(st.integers(8, 700), min_size=2, max_size=3),
    st.lists(st.floats(0.3, 6.0), min_size=3, max_size=3),
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0, 2]),
)
def test_any_topology(patch_size, spacing, stem, joined):
    planned = compute_topology(spacing[: len(patch_size)], patch_size, 6)
    if planned.levels < 2:
        return
    network = hrnet.plan_hrnet(planned, 8, 1, 2, stem_levels=stem, joined=joined)
    assert (network.strides, network.kernel_sizes) == (planned.strides, planned.kernel_sizes)
    assert len(network.features) == planned.levels
    assert list(network.features) == sorted(network.features)
    assert network.branches is not None
    assert len(network.branches.modules) == planned.levels - network.branches.stem_levels - 1 >= 1
