"""Parts of U-Nets against the formulas of their papers, written down once more; and whole networks of them."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.networks.blocks import choose_layers
from autoseg.networks.build import build_network
from autoseg.networks.parts.attention import ChannelAttention, MixedAttention, SpatialAttention
from autoseg.networks.parts.bottlenecks import AtrousPyramid, NonLocal, PoolingPyramid
from autoseg.networks.parts.inception import InceptionBlock, multires_features
from autoseg.networks.parts.levels import BLOCKS
from autoseg.networks.parts.recurrent import RecurrentLayer
from autoseg.networks.parts.separable import split_kernel
from autoseg.networks.parts.skips import AttentionGate
from autoseg.records.network import Attention, Block, Bottleneck, NetworkSpec, Skip

SOLID = NetworkSpec(
    architecture="unet",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(4, 6, 9),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 1)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_blocks=(1, 2, 1),
    decoder_blocks=(1, 2),
)
FLAT = NetworkSpec(
    architecture="unet",
    dimensions=2,
    input_channels=1,
    output_channels=2,
    features=(4, 5, 7, 8),
    strides=((1, 1), (2, 2), (2, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 5), (3, 3), (3, 3)),
    encoder_blocks=(1, 1, 2, 1),
    decoder_blocks=(2, 1, 1),
)
IMAGES = {3: (2, 2, 6, 16, 12), 2: (2, 1, 24, 20)}
CHOICES = [
    *(("block", value) for value in get_args(Block)),
    *(("skip", value) for value in get_args(Skip)),
    *(("attention", value) for value in get_args(Attention)),
    *(("bottleneck", value) for value in get_args(Bottleneck)),
]


def roughened(module: nn.Module) -> Any:
    """Make biases and scales matter."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def network_of(spec: NetworkSpec, **parts: str) -> Any:
    torch.manual_seed(1)
    return build_network(spec.model_copy(update=dict(parts)), deep_supervision=True)


@pytest.mark.parametrize("spec", [SOLID, FLAT], ids=["3d", "2d"])
@pytest.mark.parametrize(("part", "value"), CHOICES)
def test_every_part_gives_logits_of_the_image_and_gradients_everywhere(spec, part, value):
    network = network_of(spec, **{part: value}).train()
    image = torch.randn(IMAGES[spec.dimensions])
    logits = network(image)
    assert [tuple(each.shape[:2]) for each in logits] == [(2, spec.output_channels)] * (len(spec.features) - 1)
    assert logits[0].shape[2:] == image.shape[2:]
    sum(each.square().mean() for each in logits).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("spec", [SOLID, FLAT], ids=["3d", "2d"])
@pytest.mark.parametrize(("part", "value"), CHOICES)
def test_recomputed_activations_give_the_same_gradients(spec, part, value):
    image, gradients = torch.randn(IMAGES[spec.dimensions]), []
    for recompute in (False, True):
        network = network_of(spec, **{part: value}).train()
        network.recompute_activations = recompute
        sum(each.square().mean() for each in network(image)).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_a_plain_network_has_the_parameter_names_of_old_checkpoints():
    names = set(dict(network_of(FLAT).named_parameters()))
    assert {"encoder.levels.2.1.convolution.weight", "encoder.levels.2.1.normalization.bias"} <= names
    assert {"decoder.levels.0.upsampling.weight", "decoder.levels.0.blocks.1.convolution.bias"} <= names
    assert all(name.split(".")[0] in {"encoder", "decoder"} for name in names)


@pytest.mark.parametrize("block", get_args(Block))
def test_blocks_change_width_and_size_as_a_convolution_does(block):
    layers = choose_layers(3)
    made = BLOCKS[block](layers, 5, 8, (3, 3, 3), (1, 2, 2))
    assert made(torch.randn(1, 5, 4, 8, 6)).shape == (1, 8, 4, 4, 3)
    same = BLOCKS[block](layers, 8, 8, (1, 3, 5), (1, 1, 1))
    assert same(torch.randn(2, 8, 3, 7, 6)).shape == (2, 8, 3, 7, 6)


def seen_by(module: nn.Module, inputs: int, size: int = 41) -> int:
    """Extent along one axis of what the middle of the output depends on, voxels."""
    image = torch.randn(1, inputs, size, size, requires_grad=True)
    output: Tensor = module(image)
    output[..., size // 2, size // 2].sum().backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad.abs().sum((0, 1, 2)))
    return int(seen.max() - seen.min()) + 1


def test_inception_branches_see_3_7_9_and_19_voxels():
    block: Any = InceptionBlock(choose_layers(2), 8, 8, (3, 3), (1, 1))
    for module in block.modules():  # statistics over space would see everything
        if hasattr(module, "normalization"):
            module.normalization = nn.Identity()
    assert [seen_by(branch, 8) for branch in block.branches] == [3, 7, 9, 19]


def test_recurrent_layer_sees_its_answer_twice_more():
    layer = roughened(RecurrentLayer(choose_layers(2), 3, (3, 3)))
    image = torch.randn(1, 3, 6, 5)
    first = layer.block(image)
    second = layer.block(image + first)
    torch.testing.assert_close(layer(image), layer.block(image + second))


def test_multires_widths_are_a_sixth_a_third_and_the_rest():
    assert multires_features(48) == (8, 16, 24)
    assert all(sum(multires_features(width)) == width and min(multires_features(width)) > 0 for width in range(3, 99))


def test_kernels_along_one_axis():
    assert split_kernel((3, 5, 3)) == ((3, 1, 1), (1, 5, 1), (1, 1, 3))
    assert split_kernel((1, 3, 3)) == ((1, 3, 1), (1, 1, 3))
    assert split_kernel((1, 1)) == ((1, 1),)


def test_channel_spatial_and_mixed_attention_by_hand():
    layers, image = choose_layers(3), torch.randn(2, 6, 3, 4, 5)
    channel = roughened(ChannelAttention(layers, 6))
    first, second = channel.weighting[0], channel.weighting[2]
    hidden = torch.relu(image.mean((2, 3, 4)) @ first.weight.T + first.bias)
    by_channel = torch.sigmoid(hidden @ second.weight.T + second.bias)[:, :, None, None, None] * image
    torch.testing.assert_close(channel(image), by_channel)
    spatial = roughened(SpatialAttention(layers, 6))
    weight = spatial.weighting[0]
    scores = torch.einsum("bczyx,oc->bozyx", image, weight.weight[:, :, 0, 0, 0]) + weight.bias
    torch.testing.assert_close(spatial(image), image * torch.sigmoid(scores))
    mixed: Any = MixedAttention(layers, 6)
    torch.testing.assert_close(mixed(image), mixed.channel(image) + mixed.spatial(image))


def test_gate_weights_every_voxel_between_nothing_and_all():
    gate = roughened(AttentionGate(choose_layers(2), 6))
    skip, below = torch.randn(2, 6, 5, 7), torch.randn(2, 6, 5, 7)
    ratio = (gate(skip, below) / skip).detach()
    assert float(ratio.min()) > 0
    assert float(ratio.max()) < 1
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(gate(skip, below), gate(skip, below**2))


def test_nonlocal_by_hand():
    layers = choose_layers(3)
    block = roughened(NonLocal(layers, 6))
    image = torch.randn(2, 6, 2, 3, 4)
    flat = image.flatten(2)
    query, key, value = (
        torch.einsum("oc,bcv->bov", conv.weight.flatten(1), flat) + conv.bias[:, None]
        for conv in (block.query, block.key, block.value)
    )
    weights = torch.softmax(torch.einsum("bcv,bcw->bvw", query, key) / 3**0.5, dim=-1)
    attended = torch.einsum("bvw,bcw->bcv", weights, value)
    output = torch.einsum("oc,bcv->bov", block.output.weight.flatten(1), attended) + block.output.bias[:, None]
    expected = image + block.normalization(output.view(2, 6, 2, 3, 4))
    torch.testing.assert_close(block(image), expected)


def test_a_fresh_nonlocal_block_adds_nothing():
    network = network_of(FLAT, bottleneck="nonlocal")
    block = network.encoder.levels[-1][-1]
    image = torch.randn(1, 8, 3, 5)
    torch.testing.assert_close(block(image), image)


def test_pooling_pyramid_by_hand():
    block = roughened(PoolingPyramid(choose_layers(2), 8, (3, 3)))
    image, maps = torch.randn(1, 8, 12, 6), []
    for grid, branch in zip((1, 2, 3, 6), block.branches, strict=True):
        pooled = F.adaptive_avg_pool2d(image, grid)
        mean = F.relu(F.conv2d(pooled, branch.weight, branch.bias))
        maps.append(F.interpolate(mean, size=(12, 6), mode="bilinear", align_corners=False))
    torch.testing.assert_close(block(image), block.join(torch.cat((image, *maps), 1)))


def test_atrous_pyramid_has_dilated_branches_and_the_mean():
    block: Any = AtrousPyramid(choose_layers(2), 8, (3, 3))
    assert [branch.convolution.dilation for branch in block.branches] == [(1, 1), (1, 1), (2, 2), (4, 4)]
    assert [branch.convolution.padding for branch in block.branches] == [(0, 0), (1, 1), (2, 2), (4, 4)]
    assert block(torch.randn(1, 8, 4, 9)).shape == (1, 8, 4, 9)


def nested_by_hand(network: Any, image: Tensor) -> list[Tensor]:
    """Logits of all columns, last one first, from the definition of the nodes."""
    nodes: dict[tuple[int, int], Tensor] = {}
    for level, features in enumerate(network.encoder(image)):
        nodes[level, 0] = features
    depth = len(nodes) - 1
    decoder = network.decoder
    for column in range(1, depth + 1):
        for level in range(depth - column + 1):
            node = decoder.nodes[level][column - 1]
            joined = [nodes[level, earlier] for earlier in range(column)]
            joined.append(node.upsampling(nodes[level + 1, column - 1]))
            nodes[level, column] = node.blocks(torch.cat(joined, 1))
    return [decoder.heads[depth - column](nodes[0, column]) for column in range(depth, 0, -1)]


@pytest.mark.parametrize("spec", [SOLID, FLAT], ids=["3d", "2d"])
def test_nested_network_by_hand(spec):
    network = network_of(spec, skip="nested").train()
    image = torch.randn(IMAGES[spec.dimensions])
    for found, expected in zip(network(image), nested_by_hand(network, image), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_nested_network_without_its_last_columns_gives_the_logits_of_an_earlier_one():
    network = network_of(FLAT, skip="nested").eval()
    image = torch.randn(IMAGES[2])
    with torch.no_grad():
        every = nested_by_hand(network, image)
        for column in (3, 2, 1):
            network.decoder.last_column = column
            torch.testing.assert_close(network(image), every[3 - column])
