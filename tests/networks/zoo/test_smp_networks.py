"""Networks of segmentation_models_pytorch; all of them: scripts/check_zoo --all."""

import pytest
import torch

from autoseg.records.external import CostPoint, NetworkCosts
from autoseg.records.network import NetworkSpec

pytest.importorskip("segmentation_models_pytorch", reason="the extra `zoo` is not installed; scripts/check_zoo has it")

COSTS = NetworkCosts(
    parameters=1, operations=1, points=(CostPoint(voxels=1, macs=0, kept_elements=0, largest_elements=1),)
)


@pytest.mark.parametrize("decoder", ["DeepLabV3Plus", "UPerNet", "Unet"])
def test_a_batch_of_one_is_trained(decoder):
    from autoseg.networks.zoo.smp_networks import build_smp

    spec = NetworkSpec(
        architecture="external", dimensions=2, input_channels=2, output_channels=3, features=(8, 16),
        strides=((1, 1), (32, 32)), kernel_sizes=((3, 3),) * 2, encoder_blocks=(1, 1), decoder_blocks=(1,),
        network_name=f"smp:{decoder}/mobilenet_v2", network_package="autoseg-med", costs=COSTS,
    )  # fmt: skip
    network = build_smp(decoder, "mobilenet_v2", spec).train()
    logits = network(torch.rand(1, 2, 64, 32))
    assert logits.shape == (1, 3, 64, 32)
    logits.sum().backward()
