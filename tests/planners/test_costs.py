"""planners.compute and planners.memory against torch modules written here, and against published numbers."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from autoseg.networks.build import build_network
from autoseg.records.plan import NetworkSpec
from planners.compute import forward_macs, list_convolutions
from planners.memory import (
    count_feature_map_elements,
    count_parameters,
    count_saved_elements,
    estimate_costs,
    estimate_training_memory_bytes,
)

FLAT = NetworkSpec(
    architecture="unet",
    dimensions=2,
    input_channels=3,
    output_channels=5,
    features=(6, 10, 14),
    strides=((1, 1), (2, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 3), (3, 3)),
    encoder_convolutions=(1, 2, 3),
    decoder_convolutions=(2, 1),
)
SOLID = NetworkSpec(
    architecture="unet",
    dimensions=3,
    input_channels=2,
    output_channels=4,
    features=(8, 16, 32, 40),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_convolutions=(2, 2, 2, 2),
    decoder_convolutions=(2, 2, 2),
)
CASES = [(FLAT, (12, 14)), (FLAT, (16, 26)), (SOLID, (6, 16, 24)), (SOLID, (10, 40, 8))]


class Reference(nn.Module):
    """A plain U-Net from torch's own layers, all heads on."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.convolution = getattr(nn, f"Conv{spec.dimensions}d")
        self.transposed = getattr(nn, f"ConvTranspose{spec.dimensions}d")
        self.norm = getattr(nn, f"InstanceNorm{spec.dimensions}d")
        levels, inputs = len(spec.features), spec.input_channels
        self.encoder, self.ups, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.heads = nn.ModuleList()
        for level in range(levels):
            count, stride = spec.encoder_convolutions[level], spec.strides[level]
            self.encoder.append(self.stack(inputs, spec.features[level], count, spec.kernel_sizes[level], stride))
            inputs = spec.features[level]
        for level in range(levels - 1):
            width, stride = spec.features[level], spec.strides[level + 1]
            self.ups.append(self.transposed(spec.features[level + 1], width, stride, stride))
            count, kernel = spec.decoder_convolutions[level], spec.kernel_sizes[level]
            self.decoder.append(self.stack(2 * width, width, count, kernel, (1,) * spec.dimensions))
            self.heads.append(self.convolution(width, spec.output_channels, 1))

    def stack(self, inputs: int, outputs: int, count: int, kernel: tuple[int, ...], stride: tuple[int, ...]):
        layers: list[nn.Module] = []
        for index in range(count):
            padding = tuple(edge // 2 for edge in kernel)
            step = stride if index == 0 else (1,) * len(stride)
            layers.append(self.convolution(inputs, outputs, kernel, step, padding))
            layers += [self.norm(outputs, affine=True), nn.LeakyReLU(0.01, inplace=True)]
            inputs = outputs
        return nn.Sequential(*layers)

    @override
    def forward(self, image: Tensor) -> list[Tensor]:
        skips = []
        for stage in self.encoder:
            image = stage(image)
            skips.append(image)
        logits = []
        for level in reversed(range(len(self.decoder))):
            image = self.decoder[level](torch.cat((self.ups[level](image), skips[level]), 1))
            logits.append(self.heads[level](image))
        return logits[::-1]


def meta(spec: NetworkSpec, patch: tuple[int, ...]) -> tuple[Reference, Tensor]:
    with torch.device("meta"):
        return Reference(spec), torch.empty((1, spec.input_channels, *patch))


@pytest.mark.parametrize(("spec", "patch"), CASES)
def test_parameters(spec, patch):
    reference, _ = meta(spec, patch)
    assert count_parameters(spec) == sum(parameter.numel() for parameter in reference.parameters())


@pytest.mark.parametrize(("spec", "patch"), CASES)
def test_macs(spec, patch):
    reference, image = meta(spec, patch)
    with FlopCounterMode(display=False) as counter:
        reference(image)
    assert forward_macs(spec, patch) == counter.get_total_flops() / 2


@pytest.mark.parametrize(("spec", "patch"), CASES)
def test_feature_map_elements(spec, patch):
    reference, image = meta(spec, patch)
    sizes: list[int] = []
    head_modules = set(reference.heads)
    for module in reference.modules():
        kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if isinstance(module, kinds) and module not in head_modules:
            module.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.numel()))
    reference(image)
    labels = 9
    assert count_feature_map_elements(spec, patch, output_channels=labels) == sum(sizes) + labels * math.prod(patch)


@pytest.mark.parametrize(("spec", "patch"), CASES)
def test_saved_elements(spec, patch):
    reference = Reference(spec)
    image = torch.rand((1, spec.input_channels, *patch), requires_grad=True)
    weights = {parameter.data_ptr() for parameter in reference.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights and tensor.dim() == len(patch) + 2:
            saved[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = reference(image)
    assert len(logits) == len(spec.features) - 1  # alive, so that no saved storage is used again
    assert count_saved_elements(spec, patch) == sum(saved.values())


@pytest.mark.parametrize(("spec", "patch"), CASES)
def test_the_networks_that_autoseg_builds_cost_as_planned(spec, patch):
    with torch.device("meta"):
        network = build_network(spec, deep_supervision=True)
        image = torch.empty((1, spec.input_channels, *patch))
    assert count_parameters(spec) == sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network.train()(image)
    assert forward_macs(spec, patch) == counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("dimensions", "patch", "features", "elements"),
    [
        (3, (128, 128, 128), (32, 64, 128, 256, 320, 320), 452_796_416),
        (2, (512, 512), (32, 64, 128, 256, 512, 512, 512, 512), 82_886_656),
    ],
)
def test_reference_networks_of_nnunet(dimensions, patch, features, elements):
    levels = len(features)
    spec = NetworkSpec(
        architecture="unet",
        dimensions=dimensions,
        input_channels=1,
        output_channels=3,
        features=features,
        strides=((1,) * dimensions, *(((2,) * dimensions,) * (levels - 1))),
        kernel_sizes=((3,) * dimensions,) * levels,
        encoder_convolutions=(2,) * levels,
        decoder_convolutions=(2,) * (levels - 1),
    )
    assert count_feature_map_elements(spec, patch, output_channels=3) == elements


def test_one_level_by_hand():
    spec = FLAT.model_copy(
        update={
            "input_channels": 1, "output_channels": 2, "features": (4, 8), "strides": ((1, 1), (2, 2)),
            "kernel_sizes": ((3, 3), (1, 3)), "encoder_convolutions": (1, 1), "decoder_convolutions": (1,),
        }
    )  # fmt: skip
    # 4 x 6 pixels: 9*1*4 | 2 x 3: 3*4*8 | up 8 -> 4 | 9*8*4 | head 4 -> 2
    assert forward_macs(spec, (4, 6)) == 24 * 36 + 6 * 96 + 24 * 32 + 24 * 288 + 24 * 8
    assert [layer.kind for layer in list_convolutions(spec, (4, 6))] == ["block", "block", "up", "block", "head"]
    assert count_parameters(spec) == (36 + 4 + 8) + (96 + 8 + 16) + (4 * 32 + 4) + (288 + 4 + 8) + (8 + 2)


def test_patch_that_the_strides_do_not_divide():
    with pytest.raises(ValueError, match=r"patch \(13, 14\) is not divisible"):
        list_convolutions(FLAT, (13, 14))


def test_training_memory_counts_activations_gradients_loss_and_optimiser():
    memory = estimate_training_memory_bytes(SOLID, (6, 16, 24), 3, mixed_precision=False, optimizer="sgd")
    voxels = 6 * 16 * 24
    heads = 4 * (voxels + voxels // 4 + voxels // 32)
    per_sample = 4 * (count_saved_elements(SOLID, (6, 16, 24)) + 3 * 8 * voxels + 4 * heads)
    assert memory == 3 * per_sample + 12 * count_parameters(SOLID)


def test_training_memory_is_smaller_in_16_bits_and_larger_with_adam():
    plain = estimate_training_memory_bytes(SOLID, (10, 40, 8), 2, mixed_precision=False, optimizer="sgd")
    mixed = estimate_training_memory_bytes(SOLID, (10, 40, 8), 2, mixed_precision=True, optimizer="sgd")
    adam = estimate_training_memory_bytes(SOLID, (10, 40, 8), 2, mixed_precision=False, optimizer="adamw")
    assert mixed < plain
    assert adam - plain == 4 * count_parameters(SOLID)


def test_estimates_hold_all_four_numbers():
    costs = estimate_costs(SOLID, (6, 16, 24), 3, num_labels=7, mixed_precision=True, optimizer="adamw")
    assert costs.feature_map_elements == count_feature_map_elements(SOLID, (6, 16, 24), output_channels=7)
    assert costs.parameters == count_parameters(SOLID)
    assert costs.macs == forward_macs(SOLID, (6, 16, 24))
    assert costs.training_memory_bytes == estimate_training_memory_bytes(
        SOLID, (6, 16, 24), 3, mixed_precision=True, optimizer="adamw"
    )
