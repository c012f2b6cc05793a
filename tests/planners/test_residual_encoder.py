"""The residual-encoder presets: shape of the network, memory, published sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.costs.memory import estimate_gpu_bytes
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides
from autoseg.testing import synthetic_fingerprint
from planners import residual_encoder, unet
from planners.rules.topology import compute_topology

PLANS = {
    "resenc-m": residual_encoder.plan_m,
    "resenc-l": residual_encoder.plan_l,
    "resenc-xl": residual_encoder.plan_xl,
}
LIVER = synthetic_fingerprint([(1.0, 0.7676, 0.7676)] * 131, [(482, 512, 512)] * 131, label_values=range(3))
HIPPOCAMPUS = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 260, [(36, 50, 35)] * 260, label_values=range(3))


def test_blocks_grow_with_depth():
    network = residual_encoder.plan_residual_unet(compute_topology((1.0, 1.0, 1.0), (128, 128, 128)), 32, 4, 3)
    assert network.architecture == "residual_unet"
    assert network.features == (32, 64, 128, 256, 320, 320)
    assert network.encoder_blocks == (1, 3, 4, 6, 6, 6)
    assert network.decoder_blocks == (1,) * 5
    assert (network.input_channels, network.output_channels) == (4, 3)


edges = st.integers(12, 700)


@given(st.lists(edges, min_size=2, max_size=3), st.sampled_from([8, 16, 24, 32, 48]))
def test_every_depth(patch_size, base_features):
    topology = compute_topology((1.0,) * len(patch_size), patch_size)
    network = residual_encoder.plan_residual_unet(topology, base_features, 1, 2)
    assert network.dimensions == len(patch_size)
    assert len(network.features) == topology.levels
    assert network.encoder_blocks == (1, 3, 4, 6, 6, 6, 6, 6, 6, 6)[: topology.levels]
    assert network.decoder_blocks == (1,) * (topology.levels - 1)
    cap = {2: 16, 3: 10}[network.dimensions] * base_features
    assert network.features == tuple(min(base_features * 2**level, cap) for level in range(topology.levels))
    assert (network.strides, network.kernel_sizes) == (topology.strides, topology.kernel_sizes)
    assert (network.token_levels, network.full_resolution_skip) == (0, False)


# nnU-Net's published memory targets
@pytest.mark.parametrize(("name", "gigabytes"), [("resenc-m", 8.0), ("resenc-l", 24.0), ("resenc-xl", 40.0)])
def test_each_size_has_its_own_memory(name, gigabytes):
    made = PLANS[name](HIPPOCAMPUS, Budget())
    assert made.planner == name
    [memory] = [decision for decision in made.decisions if decision.what == "memory"]
    assert (memory.value, memory.reason) == (gigabytes, f"What {name} is meant for.")


@pytest.mark.parametrize("name", PLANS)
def test_memory_asked_for_or_found(name):
    preset = residual_encoder.make_residual_preset(name, {})
    assert preset.choose_memory(Budget(memory_gigabytes=11.0)) == (11.0, "Requested.")
    assert preset.choose_memory(Budget(memory_gigabytes=11.0, available_gigabytes=6.0))[0] == 11.0
    found, reason = preset.choose_memory(Budget(available_gigabytes=6.0))
    assert found == 6.0
    assert reason == f"The device has no more; {name} is meant for {preset.memory_gigabytes:g} GB."
    assert preset.choose_memory(Budget(available_gigabytes=80.0))[0] == preset.memory_gigabytes
    assert preset.choose_memory(Budget(memory_gigabytes=0.0))[0] == 0.0


def test_larger_sizes_see_more():
    patches = [PLANS[name](LIVER, Budget(configurations=("3d_fullres",))).configurations["3d_fullres"]
               for name in PLANS]  # fmt: skip
    limits = (680e6, 2.1e9, 3.6e9)
    for made, limit, larger in zip(patches, limits, [*patches[1:], None], strict=True):
        # two patches of so many elements fit the size's own memory
        assert made.estimates.feature_map_elements <= limit
        assert made.batch_size >= 2
        if larger is not None:
            assert larger.estimates.feature_map_elements > limit


@pytest.mark.parametrize("name", PLANS)
def test_sizes_agree_where_the_memory_is_scaled(name):
    # 8 of 24 GB are a third of 2.1e9 elements: 700 million.
    made = PLANS[name](LIVER, Budget(memory_gigabytes=8.0, configurations=("3d_fullres",))).configurations["3d_fullres"]
    share = {"resenc-m": 680e6, "resenc-l": 700e6, "resenc-xl": 720e6}[name]
    assert made.estimates.feature_map_elements <= share


def test_twelve_patches_are_guaranteed_in_2d():
    flat = residual_encoder.plan_m(LIVER, Budget(configurations=("2d",))).configurations["2d"]
    assert flat.batch_size >= 12
    assert flat.estimates.feature_map_elements <= 135e6
    tight = residual_encoder.plan_m(LIVER, Budget(configurations=("2d",), memory_gigabytes=2.0)).configurations["2d"]
    assert tight.batch_size >= 12
    assert tight.estimates.feature_map_elements <= 135e6 / 4


def test_a_batch_may_cover_the_whole_dataset():
    # 5 % of five cases would be less than one patch
    few = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 5, [(36, 50, 35)] * 5)
    batch = residual_encoder.plan_m(few, Budget(configurations=("3d_fullres",))).configurations["3d_fullres"].batch_size
    assert batch == round(5 * 36 * 50 * 35 / (40 * 56 * 40)) == 4


def test_width_option():
    options = Budget(overrides=Overrides(options={"base_features": "48"}))
    made = residual_encoder.plan_m(HIPPOCAMPUS, options)
    for configuration in made.configurations.values():
        assert configuration.network.features[0] == 48
    reasons = [decision.reason for decision in made.decisions if decision.what.endswith(".base_features")]
    assert set(reasons) == {"Requested."}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": "s"},
            r"--planner-option width: the planner '{}' has no such setting; it has: base_features",
        ),
        ({"base_features": "0"}, r"base_features=0: expected a whole number from 1 to 128"),
        ({"base_features": "129"}, r"base_features=129: expected"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(PlanningError, match=message.format(name)):
        PLANS[name](HIPPOCAMPUS, Budget(overrides=Overrides(options=options)))


@pytest.mark.parametrize(
    ("name", "published"), [("unet", 7.7), ("resenc-m", 9.1), ("resenc-l", 22.7), ("resenc-xl", 36.6)]
)
def test_memory_of_a_gpu_is_about_what_is_published_for_the_presets(name, published):
    """GB on an A100, as nnU-Net's documentation of its residual encoder presets has it; abdominal CT."""
    abdomen = synthetic_fingerprint([(2.0, 0.68, 0.68)] * 200, [(237, 582, 582)] * 200)
    made = {"unet": unet.plan, **PLANS}[name](abdomen, Budget(configurations=("3d_fullres",)))
    expected = made.configurations["3d_fullres"].estimates.training_memory_bytes
    assert expected is not None
    assert estimate_gpu_bytes(expected) / 1e9 == pytest.approx(published, rel=0.15)
