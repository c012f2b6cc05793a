"""The residual-encoder U-Net, against one written down again under nnU-Net's own parameter names."""

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import ConvolutionBlock, choose_layers, initialize_weights
from autoseg.networks.build import build_network
from autoseg.networks.residual import ResidualBlock
from autoseg.records.network import NetworkSpec

SPEC = NetworkSpec(
    architecture="residual_unet",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(3, 5, 5, 4),
    strides=((1, 1, 1), (1, 2, 2), (1, 1, 1), (2, 2, 3)),
    kernel_sizes=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 1)),
    encoder_blocks=(1, 3, 2, 1),
    decoder_blocks=(1, 1, 2),
)

FLAT = NetworkSpec(
    architecture="residual_unet",
    dimensions=2,
    input_channels=1,
    output_channels=2,
    features=(4, 6, 6),
    strides=((1, 1), (2, 2), (2, 1)),
    kernel_sizes=((3, 3), (3, 3), (3, 3)),
    encoder_blocks=(2, 1, 3),
    decoder_blocks=(1, 1),
)

IMAGES = {3: torch.Size((2, 2, 4, 16, 12)), 2: torch.Size((2, 1, 12, 10))}


class PeerConvolution(nn.Module):
    def __init__(self, dimensions, inputs, outputs, kernel, stride=1, bias=True, active=True):
        super().__init__()
        kind: Any = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        self.conv = kind(inputs, outputs, kernel, stride, [size // 2 for size in kernel], bias=bias)
        self.norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions](outputs, eps=1e-5, affine=True)
        self.active = active

    @override
    def forward(self, x):
        x = self.norm(self.conv(x))
        return torch.where(x > 0, x, 0.01 * x) if self.active else x


class PeerBlock(nn.Module):
    def __init__(self, dimensions, inputs, outputs, kernel, stride):
        super().__init__()
        self.conv1 = PeerConvolution(dimensions, inputs, outputs, kernel, stride)
        self.conv2 = PeerConvolution(dimensions, outputs, outputs, kernel, active=False)
        shortcut: list[nn.Module] = []
        if prod(stride) > 1:
            shortcut.append({2: nn.AvgPool2d, 3: nn.AvgPool3d}[dimensions](stride, stride))
        if inputs != outputs:
            shortcut.append(PeerConvolution(dimensions, inputs, outputs, (1,) * dimensions, bias=False, active=False))
        self.skip = nn.Sequential(*shortcut)

    @override
    def forward(self, x):
        x = self.conv2(self.conv1(x)) + self.skip(x)
        return torch.where(x > 0, x, 0.01 * x)


class PeerStage(nn.Module):
    def __init__(self, blocks, name):
        super().__init__()
        setattr(self, name, nn.Sequential(*blocks))


class PeerNetwork(nn.Module):
    """The peer's order of decoder levels: the lowest first."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        d, features, kernels = spec.dimensions, spec.features, spec.kernel_sizes
        ones = (1,) * d
        self.encoder: Any = nn.Module()
        self.decoder: Any = nn.Module()
        self.encoder.stem = PeerStage([PeerConvolution(d, spec.input_channels, features[0], kernels[0])], "convs")
        stages = []
        inputs = features[0]
        for level, count in enumerate(spec.encoder_blocks):
            blocks = []
            for i in range(count):
                blocks.append(
                    PeerBlock(d, inputs, features[level], kernels[level], spec.strides[level] if i == 0 else ones)
                )
                inputs = features[level]
            stages.append(PeerStage(blocks, "blocks"))
        self.encoder.stages = nn.ModuleList(stages)
        downwards = range(len(features) - 2, -1, -1)
        transposed: Any = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[d]
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[d]
        self.decoder.transpconvs = nn.ModuleList(
            transposed(features[i + 1], features[i], spec.strides[i + 1], spec.strides[i + 1]) for i in downwards
        )
        self.decoder.stages = nn.ModuleList(
            PeerStage(
                [
                    PeerConvolution(d, features[i] * (2 if j == 0 else 1), features[i], kernels[i])
                    for j in range(spec.decoder_blocks[i])
                ],
                "convs",
            )
            for i in downwards
        )
        self.decoder.seg_layers = nn.ModuleList(convolution(features[i], spec.output_channels, 1) for i in downwards)

    @override
    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.encoder.stem.convs(x)
        skips = []
        for stage in self.encoder.stages:
            x = stage.blocks(x)
            skips.append(x)
        logits = []
        for i, skip in enumerate(skips[-2::-1]):
            x = self.decoder.stages[i].convs(torch.cat([self.decoder.transpconvs[i](x), skip], dim=1))
            logits.append(self.decoder.seg_layers[i](x))
        return logits[::-1]


def renamed(weights: dict[str, Tensor], lowest: int) -> dict[str, Tensor]:
    """The peer's weights under our names; it counts decoder levels from the lowest one, `lowest` is our number of it.

    Entries that the peer lists twice (`all_modules`, the encoder inside the decoder) are left out.
    """
    layers = {"conv": "convolution", "norm": "normalization"}
    convolutions = {"conv1": "first", "conv2": "second"}
    ours = {}
    for name, weight in weights.items():
        match name.split("."):
            case "encoder", "stem", "convs", "0", layer, kind if layer in layers:
                ours[f"encoder.levels.0.0.{layers[layer]}.{kind}"] = weight
            case "encoder", "stages", level, "blocks", i, convolution, layer, kind if layer in layers:
                block = int(i) + (level == "0")  # our first block of level 0 is the stem
                ours[f"encoder.levels.{level}.{block}.{convolutions[convolution]}.{layers[layer]}.{kind}"] = weight
            case "encoder", "stages", level, "blocks", i, "skip", _, layer, kind if layer in layers:
                block = int(i) + (level == "0")
                ours[f"encoder.levels.{level}.{block}.projection.{layers[layer]}.{kind}"] = weight
            case "decoder", "stages", step, "convs", i, layer, kind if layer in layers:
                ours[f"decoder.levels.{lowest - 1 - int(step)}.blocks.{i}.{layers[layer]}.{kind}"] = weight
            case "decoder", "transpconvs", step, kind:
                ours[f"decoder.levels.{lowest - 1 - int(step)}.upsampling.{kind}"] = weight
            case "decoder", "seg_layers", step, kind:
                ours[f"decoder.heads.{lowest - 1 - int(step)}.{kind}"] = weight
    return ours


@pytest.mark.parametrize("spec", [SPEC, FLAT], ids=["3d", "2d"])
def test_logits_of_all_levels_are_those_of_a_network_with_the_peers_names(spec):
    peer = PeerNetwork(spec)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that biases and scales matter too
    network = build_network(spec, deep_supervision=True)
    network.load_state_dict(renamed(dict(peer.state_dict()), lowest=len(spec.features) - 1))
    image = torch.randn(IMAGES[spec.dimensions])
    outputs, expected = network(image), peer(image)
    assert len(outputs) == len(expected) == len(spec.features) - 1
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-4)


def test_a_stride_along_one_axis_pools_the_shortcut_and_new_features_project_it():
    layers = choose_layers(3)
    block = ResidualBlock(layers, 4, 6, (3, 3, 1), (1, 2, 1))
    assert block.pooling.kernel_size == block.pooling.stride == (1, 2, 1)
    assert isinstance(block.projection, ConvolutionBlock)
    assert block.projection.convolution.bias is None
    assert isinstance(block.projection.activation, nn.Identity)
    same = ResidualBlock(layers, 4, 4, (3, 3, 1), (1, 1, 1))
    assert isinstance(same.pooling, nn.Identity)
    assert isinstance(same.projection, nn.Identity)


def test_a_new_block_gives_its_shortcut():
    block = ResidualBlock(choose_layers(3), 4, 4, (3, 3, 3), (1, 2, 1))
    initialize_weights(block)
    image = torch.randn(2, 4, 3, 6, 5)
    mean = (image[:, :, :, 0::2] + image[:, :, :, 1::2]) / 2
    torch.testing.assert_close(block(image), torch.where(mean > 0, mean, 0.01 * mean))


def test_second_norm_of_every_block_starts_with_zero_and_other_norms_with_one():
    network = build_network(SPEC, deep_supervision=True)
    second = {n: p for n, p in network.named_parameters() if ".second.normalization." in n}
    assert len(second) == 2 * sum(SPEC.encoder_blocks)
    assert all(parameter.abs().max() == 0 for parameter in second.values())
    for name, parameter in network.named_parameters():
        if name.endswith("normalization.weight") and name not in second:
            assert parameter.eq(1).all(), name
        elif name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif name.endswith("convolution.weight"):
            assert parameter.std() > 0, name


def test_gradients_reach_every_parameter():
    network = build_network(SPEC, deep_supervision=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    sum(output.square().mean() for output in network(torch.randn(IMAGES[3]))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name


def test_channels_last_and_bfloat16_stay_near():
    network = build_network(SPEC, deep_supervision=False).eval()
    image = torch.randn(IMAGES[3])
    expected = network(image)
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    with torch.inference_mode():
        output = network(image.to(memory_format=torch.channels_last_3d))
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(image)
    assert (rough.float() - expected).abs().max() < 0.1 * expected.abs().max()
