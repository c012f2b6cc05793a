"""MedNeXt against published numbers of parameters and against its blocks written down again."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.networks.blocks import choose_layers
from autoseg.networks.build import build_network
from autoseg.networks.parts.mednext import MedNeXtBlock, MedNeXtUpBlock, ResponseNormalization
from autoseg.records.network import NetworkSpec
from planners.mednext import plan_mednext
from planners.rules.topology import compute_topology

SOLID = NetworkSpec(
    architecture="mednext",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(4, 6, 9),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 1)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 5, 3)),
    encoder_blocks=(1, 2, 1),
    decoder_blocks=(1, 2),
    expansions=(2, 3, 1),
    response_normalization=True,
)
FLAT = NetworkSpec(
    architecture="mednext",
    dimensions=2,
    input_channels=1,
    output_channels=2,
    features=(4, 8, 8, 16),
    strides=((1, 1), (2, 2), (2, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 5), (3, 3), (3, 3)),
    encoder_blocks=(1, 1, 2, 1),
    decoder_blocks=(2, 1, 1),
    expansions=(2, 2, 3, 4),
)
IMAGES = {3: (2, 2, 6, 16, 12), 2: (2, 1, 24, 20)}


def roughened(module: nn.Module) -> Any:
    """Make biases and scales matter."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize(
    ("size", "kernel", "parameters", "published_millions"),
    [
        ("S", 3, 5_550_914, 5.6),
        ("S", 5, 5_980_546, 5.9),
        ("B", 3, 10_526_306, 10.5),
        ("B", 5, 10_955_938, 11.0),
        ("M", 3, 17_548_962, 17.6),
        ("M", 5, 18_260_834, 18.3),
        ("L", 3, 61_779_266, 61.8),
        ("L", 5, 62_992_898, 63.0),
    ],
)
def test_published_sizes_have_the_published_parameters(size, kernel, parameters, published_millions):
    """One channel, two classes, one head; millions as the authors' page rounds or cuts them.

    MONAI's S is the same network; the hidden layers of its downsampling blocks are those of the level above, so that
    its B, M and L are up to 0.1 % smaller. The authors' code has one parameter more, which does nothing.
    """
    topology = compute_topology((1.0, 1.0, 1.0), (128, 128, 128), 5)
    spec = plan_mednext(topology, 32, 1, 2, size=size, kernel=kernel)
    with torch.device("meta"):
        network = build_network(spec.model_copy(update={"deep_supervision": False}), deep_supervision=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert parameters / 1e6 == pytest.approx(published_millions, abs=0.09)


@pytest.mark.parametrize("spec", [SOLID, FLAT], ids=["3d", "2d"])
def test_logits_of_every_decoder_level_and_gradients_everywhere(spec):
    network = build_network(spec, deep_supervision=True).train()
    logits = network(torch.randn(IMAGES[spec.dimensions]))
    assert logits[0].shape == (2, spec.output_channels, *IMAGES[spec.dimensions][2:])
    assert len(logits) == len(spec.features) - 1
    sum(each.square().mean() for each in logits).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_encoder_features_are_added_and_not_concatenated():
    network: Any = build_network(FLAT, deep_supervision=True)
    level = roughened(network.decoder.levels[1])
    below, skip = torch.randn(2, 8, 3, 5), torch.randn(2, 8, 6, 5)
    torch.testing.assert_close(level(below, skip), level.blocks(level.upsampling(below) + skip))


def perceptron_by_hand(block: Any, features: Tensor) -> Tensor:
    """Group normalisation with a group for each feature map, expansion, GELU, compression."""
    weight, bias = block.normalization.weight, block.normalization.bias
    normalized = F.group_norm(features, features.shape[1], weight, bias)
    hidden = torch.einsum("bcyx,oc->boyx", normalized, block.expansion.weight[:, :, 0, 0])
    hidden = F.gelu(hidden + block.expansion.bias[:, None, None])
    compressed = torch.einsum("bcyx,oc->boyx", hidden, block.compression.weight[:, :, 0, 0])
    shifted: Tensor = compressed + block.compression.bias[:, None, None]
    return shifted


def test_downsampling_block_by_hand():
    block = roughened(MedNeXtBlock(choose_layers(2), 3, 5, (3, 5), (1, 2), expansion=4))
    image = torch.randn(2, 3, 5, 8)
    padded = F.pad(image, (2, 2, 1, 1))
    windows = padded.unfold(2, 3, 1).unfold(3, 5, 2)
    depthwise = torch.einsum("bcyxkl,ckl->bcyx", windows, block.depthwise.weight[:, 0])
    depthwise = depthwise + block.depthwise.bias[:, None, None]
    shortcut = torch.einsum("bcyx,oc->boyx", image[..., ::2], block.shortcut.weight[:, :, 0, 0])
    expected = perceptron_by_hand(block, depthwise) + shortcut + block.shortcut.bias[:, None, None]
    torch.testing.assert_close(block(image), expected)
    assert block.expansion.out_channels == 12


def test_upsampling_block_by_hand():
    """Zeros between the voxels, then a convolution with the mirrored kernel; zeros in front of the result."""
    block = roughened(MedNeXtUpBlock(choose_layers(2), 4, 3, (3, 3), (2, 3)))
    image = torch.randn(2, 4, 3, 2)
    spread = torch.zeros(2, 4, 5, 4)
    spread[:, :, ::2, ::3] = image
    depthwise = F.conv2d(spread, block.depthwise.weight.flip(2, 3), block.depthwise.bias, padding=1, groups=4)
    shortcut = torch.einsum("bcyx,co->boyx", spread, block.shortcut.weight[:, :, 0, 0])
    added = perceptron_by_hand(block, depthwise) + shortcut + block.shortcut.bias[:, None, None]
    expected = torch.zeros(2, 3, 6, 6)
    expected[:, :, 1:, 2:] = added
    torch.testing.assert_close(block(image), expected)


def test_no_convolution_takes_every_other_voxel_with_a_kernel_of_one():
    """oneDNN's backward pass of such convolutions ends the process for some sizes in channels-last."""
    block: Any = MedNeXtBlock(choose_layers(2), 8, 16, (3, 3), (2, 2))
    assert block.shortcut.stride == (1, 1)
    block.to(memory_format=torch.channels_last)
    image = torch.randn(2, 8, 64, 64).to(memory_format=torch.channels_last).requires_grad_()
    block(image).sum().backward()
    assert image.grad is not None


def test_a_block_that_changes_nothing_has_no_convolution_around_it():
    block = roughened(MedNeXtBlock(choose_layers(2), 4, 4, (3, 3), (1, 1)))
    image = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(block(image), image + perceptron_by_hand(block, block.depthwise(image)))
    assert "shortcut.weight" not in block.state_dict()


def test_response_normalization_by_hand():
    layer: Any = ResponseNormalization(3, 4)
    image = torch.randn(2, 4, 3, 5, 2)
    torch.testing.assert_close(layer(image), image)
    roughened(layer)
    values = image.double().numpy()
    sizes = np.sqrt((values**2).sum((2, 3, 4), keepdims=True))
    relative = sizes / (sizes.mean(1, keepdims=True) + 1e-6)
    expected = layer.scale.detach().numpy() * (values * relative) + layer.shift.detach().numpy() + values
    np.testing.assert_allclose(layer(image).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_weights_start_as_published_so_that_first_logits_are_small():
    """torch's own start: uniform within one over the root of the inputs of each output."""
    torch.manual_seed(0)
    network: Any = build_network(FLAT, deep_supervision=True).eval()
    expansion = network.encoder.levels[3][1].expansion
    with torch.no_grad():
        assert expansion.weight.abs().max() <= 16**-0.5
        assert expansion.bias.abs().max() > 0
        assert network(torch.randn(2, 1, 24, 20)).std() < 3
