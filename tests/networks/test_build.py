from itertools import product
from math import prod

import pytest
import torch

from autoseg.costs.architectures import ARCHITECTURES
from autoseg.networks.build import build_network
from autoseg.records.network import BranchSpec, NetworkSpec

TINY = NetworkSpec(
    architecture="unet",
    dimensions=2,
    input_channels=1,
    output_channels=2,
    features=(2, 4),
    strides=((1, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 3)),
    encoder_blocks=(1, 1),
    decoder_blocks=(1,),
)

HIPPOCAMPUS = NetworkSpec(
    architecture="unet",
    dimensions=3,
    input_channels=1,
    output_channels=3,
    features=(32, 64, 128, 256),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    kernel_sizes=((3, 3, 3),) * 4,
    encoder_blocks=(2,) * 4,
    decoder_blocks=(2,) * 3,
)

PROSTATE = NetworkSpec(
    architecture="unet",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(32, 64, 128, 256, 320, 320, 320),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 5),
    encoder_blocks=(2,) * 7,
    decoder_blocks=(2,) * 6,
)


def count_parameters(spec: NetworkSpec) -> int:
    with torch.device("meta"):
        network = build_network(spec, deep_supervision=True)
    return sum(parameter.numel() for parameter in network.parameters())


def count_by_formula(spec: NetworkSpec) -> int:
    """Two convolutions everywhere; a block has k in out weights, out biases, and 2 out of its normalisation."""
    features, kernels = spec.features, [prod(kernel) for kernel in spec.kernel_sizes]
    inputs = (spec.input_channels, *features)
    total = 0
    for level, (f, k) in enumerate(zip(features, kernels, strict=True)):
        total += k * f * (inputs[level] + f) + 6 * f
    for level in range(len(features) - 1):
        f, k = features[level], kernels[level]
        total += prod(spec.strides[level + 1]) * features[level + 1] * f + f
        total += k * f * (2 * f + f) + 6 * f
        total += spec.output_channels * (f + 1)
    return total


def test_tiny_network_has_the_parameters_counted_by_hand():
    # encoder 1*2*9+2+4 = 24 and 2*4*9+4+8 = 84; up 4*2*4+2 = 34; decoder 4*2*9+2+4 = 78; head 2*2+2 = 6
    assert count_parameters(TINY) == 226


def test_hippocampus_network_has_the_parameters_counted_by_hand():
    # encoder 28,704 + 166,272 + 664,320 + 2,655,744 = 3,515,040 (level 0: 27*32*(1+32) + 6*32)
    # up 8*(64*32 + 128*64 + 256*128) + 32+64+128 = 344,288
    # decoder 27*3*(32**2 + 64**2 + 128**2) + 6*(32+64+128) = 1,743,168; heads 3*(33 + 65 + 129) = 681
    assert count_parameters(HIPPOCAMPUS) == 3_515_040 + 344_288 + 1_743_168 + 681


@pytest.mark.parametrize("spec", [HIPPOCAMPUS, PROSTATE])
def test_parameter_count_follows_the_formula(spec):
    assert count_parameters(spec) == count_by_formula(spec)


def test_parameter_names_are_the_checkpoint_format():
    block = ("convolution.weight", "convolution.bias", "normalization.weight", "normalization.bias")
    assert list(build_network(TINY, deep_supervision=False).state_dict()) == [
        *(f"encoder.levels.0.0.{name}" for name in block),
        *(f"encoder.levels.1.0.{name}" for name in block),
        "decoder.levels.0.upsampling.weight",
        "decoder.levels.0.upsampling.bias",
        *(f"decoder.levels.0.blocks.0.{name}" for name in block),
        "decoder.heads.0.weight",
        "decoder.heads.0.bias",
    ]


def test_same_seed_gives_the_same_weights_and_supervision_does_not_matter():
    torch.manual_seed(5)
    first = build_network(HIPPOCAMPUS, deep_supervision=True).state_dict()
    torch.manual_seed(5)
    second = build_network(HIPPOCAMPUS, deep_supervision=False).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first.keys() == second.keys()


def test_without_deep_supervision_in_the_spec_there_is_one_head():
    spec = HIPPOCAMPUS.model_copy(update={"deep_supervision": False})
    names = [name for name in build_network(spec, deep_supervision=True).state_dict() if "heads" in name]
    assert names == ["decoder.heads.0.weight", "decoder.heads.0.bias"]
    assert count_parameters(HIPPOCAMPUS) - count_parameters(spec) == 3 * (65 + 129)


@pytest.mark.parametrize("architecture", ["unet", "residual_unet", "unext"])
def test_every_architecture_can_be_normalised_over_the_batch(architecture):
    spec = NetworkSpec.model_validate(
        {**TINY.model_dump(), "architecture": architecture, "features": (4, 4), "normalization": "batch"}
    )
    network = build_network(spec, deep_supervision=True)
    kinds = {type(module).__name__ for module in network.modules() if "Norm" in type(module).__name__}
    assert kinds == {"BatchNorm2d"}
    network(torch.randn(2, 1, 6, 10))
    means = [value for name, value in network.state_dict().items() if name.endswith("running_mean")]
    assert len(means) >= 1
    assert all(mean.abs().max() > 0 for mean in means)


def test_an_hrnet_can_be_normalised_over_the_batch():
    branches = BranchSpec(first_blocks=1, modules=(1,), joined_features=3)
    spec = NetworkSpec.model_validate(
        {**TINY.model_dump(), "architecture": "hrnet", "normalization": "batch", "branches": branches}
    )
    network = build_network(spec, deep_supervision=True)
    kinds = {type(module).__name__ for module in network.modules() if "Norm" in type(module).__name__}
    assert kinds == {"BatchNorm2d"}


@pytest.mark.parametrize(
    ("architecture", "dimensions"),
    [(name, number) for name, each in ARCHITECTURES.items() if each.build_small for number in each.dimensions],
)
def test_the_smallest_patch_with_which_training_may_begin_gives_finite_gradients(architecture, dimensions):
    """Two voxels at the lowest level, along each axis in turn, in the precision of a training too."""
    build_small = ARCHITECTURES[architecture].build_small
    assert build_small is not None
    spec = build_small(dimensions, 8)
    network = build_network(spec, deep_supervision=True).train()
    total = [prod(steps) for steps in zip(*spec.strides, strict=True)]
    for axis, is_half in product(range(dimensions), (False, True)):
        patch = [2 * edge if other == axis else edge for other, edge in enumerate(total)]
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            outputs = network(torch.randn(2, spec.input_channels, *patch))
        sum(logits.float().square().mean() for logits in outputs).backward()
        expected = [[edge >> level for edge in patch] for level in range(len(spec.features) - 1)]
        assert [list(logits.shape[2:]) for logits in outputs] == expected
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
