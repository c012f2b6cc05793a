"""What normalisation and topology take over from another model."""

import pytest

from autoseg.records.budget import AdoptedConfiguration, AdoptedModel
from autoseg.records.network import NetworkSpec, NormalizationSpec, ResamplingSpec
from planners.rules.normalization import adopt_normalization
from planners.rules.topology import adopt_topology

NETWORK = NetworkSpec(
    architecture="unet",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(16, 32, 64),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_blocks=(2, 2, 2),
    decoder_blocks=(2, 2),
)
T1 = NormalizationSpec(scheme="zscore", use_mask=True)
CT = NormalizationSpec(scheme="ct", mean=99.0, std=39.0, lower=-15.0, upper=197.0)
MODEL = AdoptedModel(
    model="liver",
    planner="unet",
    channel_names=("T1", "CT"),
    transpose=(0, 1, 2),
    configurations={
        "3d_fullres": AdoptedConfiguration(
            spacing=(3.0, 1.0, 1.0),
            patch_size=(16, 64, 48),
            network=NETWORK,
            resampling=ResamplingSpec(),
            normalization=(T1, CT),
        )
    },
)
OWN = NormalizationSpec(scheme="none", mean=7.0)


def test_normalization_follows_the_channels_name():
    assert adopt_normalization(MODEL, ("Ct", "FLAIR", "T1"), (OWN, OWN, OWN)).value == (CT, OWN, T1)
    assert adopt_normalization(MODEL, ("FLAIR",), (OWN,)).value == (OWN,)


def test_reason_names_the_channels_that_are_new():
    assert adopt_normalization(MODEL, ("CT", "T1"), (OWN, OWN)).reason == "That of liver, with its statistics."
    reason = adopt_normalization(MODEL, ("CT", "FLAIR", "PET"), (OWN, OWN, OWN)).reason
    assert reason.endswith("does not know: FLAIR, PET.")


@pytest.mark.parametrize(
    ("patch_size", "padded"),
    [((16, 64, 48), (16, 64, 48)), ((15, 61, 1), (16, 64, 4)), ((1, 4, 5), (2, 4, 8)), ((18, 68, 52), (18, 68, 52))],
)
def test_patch_is_enlarged_to_the_models_total_stride(patch_size, padded):
    topology = adopt_topology(NETWORK, patch_size)
    assert topology.patch_size == padded
    assert topology.divisors == (2, 4, 4)
    assert (topology.strides, topology.kernel_sizes) == (NETWORK.strides, NETWORK.kernel_sizes)
