"""Networks of MONAI in the outer form of networks here; all of them: scripts/check_zoo --all."""

import pytest
import torch

from autoseg.records.external import CostPoint, NetworkCosts
from autoseg.records.network import NetworkSpec

pytest.importorskip("monai", reason="the extra `zoo` is not installed; scripts/check_zoo has an environment with it")

COSTS = NetworkCosts(
    parameters=1, operations=1, points=(CostPoint(voxels=1, macs=0, kept_elements=0, largest_elements=1),)
)
STRIDES = ((1, 1), (1, 2), (2, 2), (2, 2))


def build(name, inputs=3):
    from autoseg.networks.zoo.monai_networks import build_monai

    spec = NetworkSpec(
        architecture="external", dimensions=2, input_channels=inputs, output_channels=2, features=(4, 8, 16, 16),
        strides=STRIDES, kernel_sizes=((1, 3), *((3, 3),) * 3), encoder_blocks=(1,) * 4, decoder_blocks=(1,) * 3,
        network_name=f"monai:{name}", network_package="autoseg-med monai", costs=COSTS,
    )  # fmt: skip
    return build_monai(name, spec)


def test_levels_of_dynunet_have_their_own_resolution():
    network = build("DynUNet").train()
    levels = network(torch.rand(2, 3, 16, 32))
    assert [tuple(level.shape) for level in levels] == [(2, 2, 16, 32), (2, 2, 16, 16), (2, 2, 8, 8)]
    assert all(level.requires_grad for level in levels)
    assert tuple(network.eval()(torch.rand(1, 3, 16, 32)).shape) == (1, 2, 16, 32)


def test_positions_of_unetr_suit_any_patch():
    network = build("UNETR").eval()
    for shape in ((16, 48), (32, 16), (256, 256)):
        assert network(torch.rand(1, 3, *shape)).shape[2:] == shape


def test_vnet_takes_the_channels_of_colours_and_refuses_more_than_it_can():
    assert build("VNet").eval()(torch.rand(1, 3, 32, 16)).shape == (1, 2, 32, 16)
    with pytest.raises(ValueError, match="16 input channels at most"):
        build("VNet", inputs=17)
