"""Operations and memory against the networks that are built, and against published numbers."""

import math
from typing import Any, Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoseg.costs.architectures import forward_macs, list_operations
from autoseg.costs.memory import (
    count_feature_map_elements,
    count_parameters,
    count_saved_elements,
    estimate_costs,
    estimate_training_memory_bytes,
)
from autoseg.networks.build import build_network
from autoseg.networks.points import list_training_inputs
from autoseg.networks.residual import ResidualBlock
from autoseg.records.network import Architecture, Attention, Block, Bottleneck, BranchSpec, NetworkSpec, Skip

FLAT = NetworkSpec(
    architecture="unet",
    dimensions=2,
    input_channels=3,
    output_channels=5,
    features=(6, 10, 14),
    strides=((1, 1), (2, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 3), (3, 3)),
    encoder_blocks=(1, 2, 3),
    decoder_blocks=(2, 1),
)
SOLID = NetworkSpec(
    architecture="unet",
    dimensions=3,
    input_channels=2,
    output_channels=4,
    features=(8, 16, 32, 40),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_blocks=(2, 2, 2, 2),
    decoder_blocks=(2, 2, 2),
)
RESIDUAL_FLAT = FLAT.model_copy(update={"architecture": "residual_unet", "features": (6, 10, 10)})
RESIDUAL_SOLID = SOLID.model_copy(update={"architecture": "residual_unet", "encoder_blocks": (1, 3, 2, 1)})
TOKENS_FLAT = FLAT.model_copy(
    update={
        "architecture": "unext", "features": (6, 6, 10, 14), "strides": ((1, 1), (2, 1), (2, 2), (2, 2)),
        "kernel_sizes": ((3, 3), (1, 3), (3, 3), (5, 3)), "encoder_blocks": (1, 1, 1, 1), "decoder_blocks": (1, 1, 1),
        "token_levels": 2, "normalization": "batch",
    }
)  # fmt: skip
TOKENS_SOLID = SOLID.model_copy(
    update={
        "architecture": "unext", "features": (8, 8, 32, 40), "encoder_blocks": (1, 1, 1, 1),
        "decoder_blocks": (1, 1, 1), "token_levels": 1, "full_resolution_skip": True, "deep_supervision": False,
    }
)  # fmt: skip
LITE_FLAT = FLAT.model_copy(
    update={
        "architecture": "efficientnet_unet", "features": (3, 6, 5, 7, 8, 320),
        "strides": ((1, 1), (2, 2), (2, 2), (2, 1), (2, 2), (2, 2)), "kernel_sizes": ((3, 3), (1, 3), *((3, 3),) * 4),
        "encoder_blocks": (1, 1, 2, 2, 6, 5), "decoder_blocks": (1, 2, 1, 1, 3),
    }
)  # fmt: skip
LITE_SHALLOW = LITE_FLAT.model_copy(
    update={
        "features": (4, 5, 24), "strides": ((1, 1), (1, 2), (2, 2)), "kernel_sizes": ((3, 3),) * 3,
        "encoder_blocks": (1, 1, 2), "decoder_blocks": (1, 1), "deep_supervision": False, "input_channels": 1,
    }
)  # fmt: skip
MEDNEXT_FLAT = FLAT.model_copy(
    update={"architecture": "mednext", "kernel_sizes": ((3, 3), (5, 3), (3, 3)), "expansions": (2, 3, 4)}
)
MEDNEXT_SOLID = SOLID.model_copy(
    update={"architecture": "mednext", "expansions": (3, 1, 2, 4), "response_normalization": True}
)
BRANCHES_FLAT = FLAT.model_copy(
    update={
        "architecture": "hrnet", "decoder_blocks": (1, 1),
        "branches": BranchSpec(first_blocks=2, modules=(2, 1), joined_features=7),
    }
)  # fmt: skip
BRANCHES_SOLID = SOLID.model_copy(
    update={
        "architecture": "hrnet", "features": (4, 8, 16, 40), "encoder_blocks": (1, 2, 1, 2),
        "decoder_blocks": (1, 1, 1), "branches": BranchSpec(stem_levels=1, first_blocks=1, modules=(1, 2)),
    }
)  # fmt: skip
BRANCHES_QUARTER = SOLID.model_copy(
    update={
        "architecture": "hrnet", "encoder_blocks": (1, 1, 1, 2), "decoder_blocks": (1, 1, 1), "deep_supervision": False,
        "branches": BranchSpec(
            stem_levels=2, first_blocks=2, bottleneck_features=3, modules=(2,), joined_features=56
        ),
    }
)  # fmt: skip
PARTS: dict[str, dict[str, object]] = {
    "recurrent": {"block": "recurrent", "attention": "channel"},
    "dense": {"block": "dense", "skip": "gate", "bottleneck": "atrous"},
    "inception": {"block": "inception", "skip": "respath"},
    "multires": {"block": "multires", "attention": "mixed", "bottleneck": "pyramid"},
    "separable": {"block": "separable", "attention": "spatial"},
    "factorized": {"block": "factorized", "bottleneck": "nonlocal"},
    "mednext": {"block": "mednext", "skip": "nested"},
    "residual": {"block": "residual", "bottleneck": "atrous_nonlocal"},
    "nested": {"skip": "nested", "attention": "channel"},
    "one head": {"skip": "nested", "attention": "mixed", "deep_supervision": False},
    "one head of mednext": {"skip": "nested", "block": "mednext", "deep_supervision": False},
}
OF_PARTS = {
    f"{name}-{spec.dimensions}d": (spec.model_copy(update=parts), patch)
    for name, parts in PARTS.items()
    for spec, patch in ((FLAT, (24, 28)), (SOLID, (6, 40, 16)))
}
CASES = [
    (FLAT, (12, 14)),
    (SOLID, (10, 40, 16)),
    (RESIDUAL_FLAT, (16, 26)),
    (RESIDUAL_SOLID, (6, 16, 24)),
    (TOKENS_FLAT, (72, 44)),
    (TOKENS_SOLID, (12, 16, 40)),
    (LITE_FLAT, (64, 80)),
    (LITE_SHALLOW, (12, 20)),
    (BRANCHES_FLAT, (12, 16)),
    (BRANCHES_SOLID, (6, 16, 24)),
    (BRANCHES_QUARTER, (8, 24, 16)),
    (MEDNEXT_FLAT, (16, 18)),
    (MEDNEXT_SOLID, (6, 24, 16)),
]
NAMES = [
    *(f"{spec.architecture}-{spec.dimensions}d-{len(spec.features)}-{spec.deep_supervision}" for spec, _ in CASES),
    *OF_PARTS,
]
WITH_POINTS = {
    "unet-2d": (FLAT, 1, (24, 28)),
    "unet-3d": (SOLID, 2, (6, 40, 32)),
    "residual-3d": (RESIDUAL_SOLID, 1, (6, 40, 32)),
    "unext-2d": (TOKENS_FLAT, 2, (72, 44)),
    "unext-3d": (TOKENS_SOLID, 1, (12, 16, 40)),
    "all-tokens-2d": (TOKENS_FLAT.model_copy(update={"token_levels": 3}), 1, (72, 44)),
    "efficientnet-2d": (LITE_FLAT, 2, (64, 80)),
    "efficientnet-shallow-2d": (LITE_SHALLOW, 1, (12, 20)),
    "nested-3d": (SOLID.model_copy(update={"skip": "nested"}), 1, (6, 40, 16)),
}
CASES += OF_PARTS.values()
NAMES += [f"points-{name}" for name in WITH_POINTS]
CASES += [
    (spec.model_copy(update={"head": "points", "coarse_level": level}), patch)
    for spec, level, patch in WITH_POINTS.values()
]

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def meta(spec: NetworkSpec, patch: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """The network that training uses, and one sample, both without memory."""
    with torch.device("meta"):
        return build_network(spec, deep_supervision=True).train(), torch.empty((1, spec.input_channels, *patch))


@st.composite
def networks(draw: st.DrawFn) -> tuple[NetworkSpec, tuple[int, ...]]:
    """Any network of two to four levels with a patch that its strides divide."""
    architecture: Architecture = draw(st.sampled_from(["unet", "residual_unet", "unext", "hrnet", "mednext"]))
    dimensions: Literal[2, 3] = draw(st.sampled_from([2, 3]))
    levels = draw(st.integers(2, 4))

    def per_level(values: list[int]) -> tuple[tuple[int, ...], ...]:
        one_level = st.tuples(*[st.sampled_from(values)] * dimensions)
        return tuple(draw(one_level) for _ in range(levels))

    features = draw(st.lists(st.integers(1, 12), min_size=levels, max_size=levels))
    strides = ((1,) * dimensions, *per_level([1, 2, 3])[1:])
    blocks = st.integers(1, 1 if architecture == "unext" else 3)
    tokens, skip = 0, False
    if architecture == "unext":
        features[0] = features[1]
        tokens = draw(st.integers(0, levels - 1))
        skip = tokens < levels - 1 and draw(st.booleans())
    parts: dict[str, Any] = {}
    if architecture == "unet":
        parts = {
            "block": draw(st.sampled_from(get_args(Block))),
            "skip": draw(st.sampled_from(get_args(Skip))),
            "attention": draw(st.sampled_from(get_args(Attention))),
            "bottleneck": draw(st.sampled_from(get_args(Bottleneck))),
        }
        features = [max(number, 4) for number in features]
    coarse_level = draw(st.integers(0, levels - 2))
    stem, deep_supervision = 0, draw(st.booleans())
    if architecture == "hrnet":
        stem = draw(st.integers(0, min(levels - 2, 2)))
        deep_supervision, coarse_level = deep_supervision and stem < 2, 0
        parts = {
            "branches": BranchSpec(
                stem_levels=stem,
                first_blocks=draw(st.integers(1, 2)),
                bottleneck_features=draw(st.integers(0, 3)),
                modules=tuple(draw(st.integers(1, 2)) for _ in range(levels - stem - 1)),
                joined_features=draw(st.integers(0, 9)),
            )
        }
    if architecture == "mednext":
        expansions = draw(st.lists(st.integers(1, 4), min_size=levels, max_size=levels))
        parts = {"expansions": tuple(expansions), "response_normalization": draw(st.booleans())}
    spec = NetworkSpec(
        architecture=architecture,
        dimensions=dimensions,
        input_channels=draw(st.integers(1, 4)),
        output_channels=draw(st.integers(1, 5)),
        features=tuple(features),
        strides=strides,
        kernel_sizes=per_level([1, 3, 5]),
        encoder_blocks=tuple(1 if level < stem else draw(blocks) for level in range(levels)),
        decoder_blocks=tuple(1 if architecture == "hrnet" else draw(blocks) for _ in range(levels - 1)),
        normalization=draw(st.sampled_from(["instance", "batch"])),
        deep_supervision=deep_supervision,
        token_levels=tokens,
        full_resolution_skip=skip,
        head="points" if coarse_level > 0 else "full",
        coarse_level=coarse_level,
        **parts,
    )
    lowest = [draw(st.integers(2, 7)) for _ in range(dimensions)]
    return spec, tuple(edge * math.prod(steps) for edge, steps in zip(lowest, zip(*strides, strict=True), strict=True))


def strided(block: ResidualBlock) -> bool:
    return set(block.first.convolution.stride) != {1}


def elements_of_layers(network: nn.Module, image: Tensor) -> int:
    """Elements of the outputs of all layers with weights but norms and heads, and of poolings that are a shortcut."""
    elements = 0

    def add(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    for name, module in network.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and not {"head", "heads"} & set(name.split(".")):
            module.register_forward_hook(add)
        if isinstance(module, ResidualBlock) and isinstance(module.projection, nn.Identity) and strided(module):
            module.pooling.register_forward_hook(add)
    network(*list_training_inputs(network, image, (1,)))
    return elements


def check_exact_costs(spec: NetworkSpec, patch: tuple[int, ...]) -> None:
    network, image = meta(spec, patch)
    assert count_parameters(spec) == sum(parameter.numel() for parameter in network.parameters())
    inputs = list_training_inputs(network, image, (1,))
    with FlopCounterMode(display=False) as counter:
        logits = network(*inputs)
    assert forward_macs(spec, patch) == counter.get_total_flops() / 2
    labels = 9
    outputs = logits if isinstance(logits, list) else [logits]
    most = max(math.prod(each.shape[2:]) for each in outputs)
    expected = elements_of_layers(network, image) + labels * most
    assert count_feature_map_elements(spec, patch, output_channels=labels) == expected


@pytest.mark.parametrize(("spec", "patch"), CASES, ids=NAMES)
def test_parameters_macs_and_feature_maps_of_the_networks_that_are_built(spec, patch):
    check_exact_costs(spec, patch)


@given(networks())
@settings(max_examples=20, deadline=None)
def test_parameters_macs_and_feature_maps_of_any_network(network):
    check_exact_costs(*network)


def saved_by_autograd(spec: NetworkSpec, patch: tuple[int, ...]) -> tuple[int, int]:
    """Floating-point elements, and integers, that autograd keeps after a forward pass of one sample; weights left out.

    Every storage counts once; all are held until the end, so that none is given out twice.
    """
    network = build_network(spec, deep_supervision=True).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept.setdefault(address, tensor)
        return tensor

    inputs = list_training_inputs(network, torch.rand((1, spec.input_channels, *patch)), (1,))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(*inputs)
    assert len(logits) > 0
    sizes = {True: 0, False: 0}
    for tensor in kept.values():
        sizes[tensor.is_floating_point()] += tensor.untyped_storage().nbytes() // tensor.element_size()
    return sizes[True], sizes[False]


def check_saved_elements(spec: NetworkSpec, patch: tuple[int, ...]) -> None:
    floats, positions = saved_by_autograd(spec, patch)
    operations = list_operations(spec, patch)
    assert positions == sum(operation.elements for operation in operations if operation.kind in {"max_pool", "sample"})
    # left out of the count: mean and deviation, normalisers of attention, sizes and weights of responses
    statistics = sum(2 * operation.outputs for operation in operations if operation.kind == "norm")
    statistics += sum(2 * operation.voxels for operation in operations if operation.kind == "layer_norm")
    statistics += sum(operation.voxels for operation in operations if operation.kind == "attention")
    statistics += sum(3 * operation.outputs + 1 for operation in operations if operation.kind == "response_norm")
    # the image is in memory in any case; an encoder that pads it first keeps the copy
    image = spec.input_channels * math.prod(patch) if operations[0].kind == "padding" else 0
    assert count_saved_elements(spec, patch) == floats - statistics + image


@pytest.mark.parametrize(("spec", "patch"), CASES, ids=NAMES)
def test_saved_elements(spec, patch):
    check_saved_elements(spec, patch)


@given(networks())
@settings(max_examples=15, deadline=None)
def test_saved_elements_of_any_network(network):
    check_saved_elements(*network)


def of_nnunet(architecture: Architecture, pools: tuple[tuple[int, ...], ...], cap: int) -> NetworkSpec:
    """nnU-Net's own choice of features and blocks; kernels do not matter here."""
    dimensions: Literal[2, 3] = 2 if len(pools[0]) == 2 else 3
    levels = len(pools) + 1
    residual = architecture == "residual_unet"
    return NetworkSpec(
        architecture=architecture,
        dimensions=dimensions,
        input_channels=1,
        output_channels=3,
        features=tuple(min(cap, 32 * 2**level) for level in range(levels)),
        strides=((1,) * dimensions, *pools),
        kernel_sizes=((3,) * dimensions,) * levels,
        encoder_blocks=(1, 3, 4, 6, 6, 6, 6, 6)[:levels] if residual else (2,) * levels,
        decoder_blocks=(1 if residual else 2,) * (levels - 1),
    )


IN_PLANE, ALL = (1, 2, 2), (2, 2, 2)
MIXED = (ALL, ALL, ALL, ALL, IN_PLANE)
PUBLISHED = [
    ("unet", (128, 128, 128), (ALL,) * 5, 3, 452_796_416),
    ("residual_unet", (128, 128, 128), (ALL,) * 5, 3, 557_420_544),
    ("unet", (512, 512), ((2, 2),) * 7, 3, 82_886_656),
    ("residual_unet", (512, 512), ((2, 2),) * 6, 3, 129_531_904),
    ("unet", (40, 56, 40), (ALL,) * 3, 3, 19_174_400),
    ("residual_unet", (40, 56, 40), (ALL,) * 3, 3, 23_609_600),
    ("unet", (128, 128, 128), (ALL,) * 5, 4, 454_893_568),
    ("residual_unet", (128, 128, 128), (ALL,) * 5, 4, 559_517_696),
    ("residual_unet", (160, 192, 160), (ALL,) * 5, 4, 1_311_369_600),
    ("unet", (64, 160, 160), (IN_PLANE, *(ALL,) * 4), 16, 461_734_400),
    ("residual_unet", (64, 160, 160), (IN_PLANE, *(ALL,) * 4), 16, 625_209_600),
    ("residual_unet", (96, 224, 224), (IN_PLANE, *(ALL,) * 4), 16, 1_838_116_224),
    ("residual_unet", (128, 256, 256), (IN_PLANE, *(ALL,) * 5), 16, 3_201_667_072),
    ("unet", (20, 256, 224), (IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE), 4, 310_481_920),
    ("residual_unet", (20, 256, 224), (IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE), 4, 427_445_760),
    ("unet", (20, 320, 256), (IN_PLANE, IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE), 3, 483_315_200),
    ("residual_unet", (20, 256, 256), (IN_PLANE, IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE), 3, 565_068_800),
    ("residual_unet", (20, 320, 320), (IN_PLANE, IN_PLANE, ALL, ALL, IN_PLANE, IN_PLANE), 3, 882_920_000),
    ("unet", (80, 192, 160), MIXED, 2, 528_211_200),
    ("residual_unet", (80, 192, 160), MIXED, 2, 651_081_600),
    ("residual_unet", (112, 288, 224), MIXED, 2, 1_914_179_904),
    ("residual_unet", (128, 320, 256), (ALL, *MIXED), 2, 2_777_154_560),
]


@pytest.mark.parametrize(("architecture", "patch", "pools", "labels", "elements"), PUBLISHED)
def test_feature_maps_that_nnunet_counts(architecture, patch, pools, labels, elements):
    spec = of_nnunet(architecture, pools, cap=512 if len(patch) == 2 else 320)
    assert count_feature_map_elements(spec, patch, output_channels=labels) == elements


def test_published_network_of_unext():
    spec = TOKENS_FLAT.model_copy(
        update={
            "output_channels": 1, "features": (16, 16, 32, 128, 160, 256), "strides": ((1, 1), *((2, 2),) * 5),
            "kernel_sizes": ((3, 3),) * 6, "encoder_blocks": (1,) * 6, "decoder_blocks": (1,) * 5,
            "deep_supervision": False,
        }
    )  # fmt: skip
    assert count_parameters(spec) == 1_471_921
    assert round(forward_macs(spec, (256, 256)) / 1e9, 3) == 0.562
    assert round(forward_macs(spec, (224, 224)) / 1e9, 3) == 0.430
    assert round(forward_macs(spec, (512, 512)) / 1e9, 2) == 2.25


def test_plain_network_by_hand():
    spec = FLAT.model_copy(
        update={
            "input_channels": 1, "output_channels": 2, "features": (4, 8), "strides": ((1, 1), (2, 2)),
            "kernel_sizes": ((3, 3), (1, 3)), "encoder_blocks": (1, 1), "decoder_blocks": (1,),
        }
    )  # fmt: skip
    # 4 x 6 pixels: 9*1*4 | 2 x 3: 3*4*8 | up 8 -> 4 | 9*8*4 | head 4 -> 2
    assert forward_macs(spec, (4, 6)) == 24 * 36 + 6 * 96 + 24 * 32 + 24 * 288 + 24 * 8
    kinds = [operation.kind for operation in list_operations(spec, (4, 6))]
    block = ["convolution", "norm"]
    assert kinds == [*block, *block, "transposed", "join", *block, "head"]
    assert count_parameters(spec) == (36 + 4 + 8) + (96 + 8 + 16) + (4 * 32 + 4) + (288 + 4 + 8) + (8 + 2)


def test_residual_block_by_hand():
    spec = FLAT.model_copy(
        update={
            "architecture": "residual_unet", "input_channels": 1, "output_channels": 2, "features": (4, 8),
            "strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (1, 3)), "encoder_blocks": (1, 1),
            "decoder_blocks": (1,),
        }
    )  # fmt: skip
    # stem 9*1*4, two of 9*4*4 | 3*4*8, 3*8*8, shortcut 4*8 | up 8 -> 4 | 9*8*4 | head 4 -> 2
    at_level_0 = 36 + 2 * 144 + 32 + 288 + 8
    assert forward_macs(spec, (4, 6)) == 24 * at_level_0 + 6 * (96 + 192 + 32)
    at_level_0 = (36 + 12) + 2 * (144 + 12) + (4 * 32 + 4) + (288 + 12) + (8 + 2)
    assert count_parameters(spec) == at_level_0 + (96 + 24) + (192 + 24) + (32 + 16)
    # stem, two convolutions, up, one convolution; two and the shortcut; the head of three labels
    assert count_feature_map_elements(spec, (4, 6), output_channels=3) == 5 * 24 * 4 + 3 * 6 * 8 + 24 * 3


def test_heads_at_lower_levels_only_with_deep_supervision():
    with_heads, without = SOLID, SOLID.model_copy(update={"deep_supervision": False})
    assert count_parameters(with_heads) - count_parameters(without) == 4 * (16 + 32) + 8
    assert forward_macs(with_heads, (6, 16, 24)) - forward_macs(without, (6, 16, 24)) == 4 * (576 * 16 + 72 * 32)


def test_patch_that_the_strides_do_not_divide():
    with pytest.raises(ValueError, match=r"patch \(13, 14\) is not a multiple of the total stride \("):
        list_operations(FLAT, (13, 14))


def test_training_memory_counts_activations_loss_gradients_and_optimiser():
    patch, voxels = (6, 16, 24), 6 * 16 * 24
    memory = estimate_training_memory_bytes(SOLID, patch, 3, mixed_precision=False, optimizer="sgd")
    logits = 4 * (voxels + voxels // 4 + voxels // 32)
    largest = 2 * 8 * voxels  # features joined with the skip
    per_sample = 4 * (count_saved_elements(SOLID, patch) + 2 * largest) + 13 * logits
    assert memory == 3 * per_sample + 8 * count_parameters(SOLID)


def test_training_memory_counts_interpolated_logits_at_full_resolution():
    patch, voxels = (6, 16, 24), 6 * 16 * 24
    memory = estimate_training_memory_bytes(BRANCHES_SOLID, patch, 3, mixed_precision=False, optimizer="sgd")
    # heads of both lower levels, and that of the first branch before and after its interpolation
    logits = 4 * (voxels + 2 * voxels // 4 + voxels // 32)
    largest = max(2 * 8 * voxels // 4, 3 * 4 * voxels)
    kept = count_saved_elements(BRANCHES_SOLID, patch)
    assert memory == 3 * (4 * (kept + largest) + 13 * logits) + 8 * count_parameters(BRANCHES_SOLID)


def test_training_memory_with_many_classes_is_that_of_the_loss():
    few, many = (SOLID.model_copy(update={"output_channels": number}) for number in (100, 300))
    memory = [
        estimate_training_memory_bytes(spec, (6, 16, 24), 1, mixed_precision=False, optimizer="sgd")
        for spec in (few, many)
    ]
    voxels = 6 * 16 * 24
    parameters = 8 * (count_parameters(many) - count_parameters(few))
    assert memory[1] - memory[0] == 200 * (13 * (voxels + voxels // 4 + voxels // 32) + 12 * voxels) + parameters


def test_training_memory_counts_the_positions_of_pooled_maxima():
    patch = (12, 16, 40)
    memory = estimate_training_memory_bytes(TOKENS_SOLID, patch, 1, mixed_precision=False, optimizer="sgd")
    voxels = 12 * 16 * 40
    pooled = 8 * voxels // 4 + 32 * voxels // 32
    kept = 4 * (count_saved_elements(TOKENS_SOLID, patch) + 2 * 8 * voxels) + 8 * pooled
    assert memory == kept + 13 * 4 * voxels + 8 * count_parameters(TOKENS_SOLID)


def test_training_memory_of_a_wide_network_on_a_small_patch_is_that_of_the_update():
    wide = SOLID.model_copy(update={"features": (8, 16, 320, 320)})
    memory = estimate_training_memory_bytes(wide, (2, 8, 8), 1, mixed_precision=False, optimizer="sgd")
    assert memory == 12 * count_parameters(wide)


@pytest.mark.parametrize(("spec", "patch"), CASES, ids=NAMES)
def test_training_memory_is_smaller_in_16_bits_and_larger_with_adam(spec, patch):
    plain = estimate_training_memory_bytes(spec, patch, 8, mixed_precision=False, optimizer="sgd")
    mixed = estimate_training_memory_bytes(spec, patch, 8, mixed_precision=True, optimizer="sgd")
    adam = estimate_training_memory_bytes(spec, patch, 8, mixed_precision=False, optimizer="adamw")
    assert mixed < plain
    assert adam - plain == 4 * count_parameters(spec)


@given(networks(), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_training_memory_grows_with_batch_and_patch(network, batch):
    spec, patch = network
    memory = estimate_training_memory_bytes(spec, patch, batch, mixed_precision=True, optimizer="adamw")
    assert memory <= estimate_training_memory_bytes(spec, patch, batch + 1, mixed_precision=True, optimizer="adamw")
    longer = (2 * patch[0], *patch[1:])
    assert memory <= estimate_training_memory_bytes(spec, longer, batch, mixed_precision=True, optimizer="adamw")


def test_estimates_hold_all_four_numbers():
    costs = estimate_costs(SOLID, (6, 16, 24), 3, num_labels=7, mixed_precision=True, optimizer="adamw")
    assert costs.feature_map_elements == count_feature_map_elements(SOLID, (6, 16, 24), output_channels=7)
    assert costs.parameters == count_parameters(SOLID)
    assert costs.macs == forward_macs(SOLID, (6, 16, 24))
    assert costs.training_memory_bytes == estimate_training_memory_bytes(
        SOLID, (6, 16, 24), 3, mixed_precision=True, optimizer="adamw"
    )
