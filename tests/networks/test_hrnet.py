"""HRNet against the recipe written down again in plain functions, and against published numbers of parameters."""

from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.networks.build import build_network
from autoseg.records.network import BranchSpec, NetworkSpec

SOLID = NetworkSpec(
    architecture="hrnet",
    dimensions=3,
    input_channels=2,
    output_channels=3,
    features=(4, 4, 6, 9),
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 3)),
    kernel_sizes=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 1)),
    encoder_blocks=(1, 1, 2, 1),
    decoder_blocks=(1, 1, 1),
    branches=BranchSpec(stem_levels=1, first_blocks=1, modules=(1, 2), joined_features=7),
)
FLAT = NetworkSpec(
    architecture="hrnet",
    dimensions=2,
    input_channels=1,
    output_channels=2,
    features=(4, 6, 8),
    strides=((1, 1), (2, 2), (2, 1)),
    kernel_sizes=((3, 3), (3, 5), (3, 3)),
    encoder_blocks=(1, 2, 1),
    decoder_blocks=(1, 1),
    branches=BranchSpec(first_blocks=2, modules=(2, 1)),
)
QUARTER = FLAT.model_copy(
    update={
        "features": (5, 7, 4, 6), "strides": ((1, 1), (2, 2), (2, 2), (2, 1)), "kernel_sizes": ((3, 3),) * 4,
        "encoder_blocks": (1, 1, 1, 2), "decoder_blocks": (1, 1, 1), "deep_supervision": False,
        "normalization": "batch",
        "branches": BranchSpec(stem_levels=2, first_blocks=2, bottleneck_features=3, modules=(2,), joined_features=10),
    }
)  # fmt: skip
JOINED = FLAT.model_copy(update={"branches": BranchSpec(first_blocks=1, modules=(1, 1), joined_features=5)})
SPECS = {"3d": SOLID, "2d": FLAT, "quarter": QUARTER, "joined": JOINED}
IMAGES = {"3d": (2, 2, 4, 16, 24), "2d": (2, 1, 12, 10), "quarter": (2, 1, 24, 20), "joined": (1, 1, 8, 10)}


def network_of(name: str) -> Any:
    torch.manual_seed(1)
    network = build_network(SPECS[name], deep_supervision=True)
    with torch.no_grad():  # blocks that give their shortcut alone would hide a mistake in them
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


class Recipe:
    """The published recipe, with the weights of a network looked up by name."""

    def __init__(self, name: str) -> None:
        self.spec, self.network = SPECS[name], network_of(name).train()
        assert self.spec.branches is not None
        self.branches, self.weights = self.spec.branches, self.network.state_dict()
        self.convolve = F.conv2d if self.spec.dimensions == 2 else F.conv3d
        self.stem = self.branches.stem_levels

    def block(self, name: str, x: Tensor, stride: int | tuple[int, ...] = 1, *, active: bool = True) -> Tensor:
        weight = self.weights[f"{name}.convolution.weight"]
        x = self.convolve(x, weight, stride=stride, padding=tuple(edge // 2 for edge in weight.shape[2:]))
        return self.norm(f"{name}.normalization", x, active=active)

    def norm(self, name: str, x: Tensor, *, active: bool) -> Tensor:
        axes = tuple(range(2, x.ndim)) if self.spec.normalization == "instance" else (0, *range(2, x.ndim))
        x = (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, unbiased=False) + 1e-5).sqrt()
        shape = (1, -1, *(1,) * (x.ndim - 2))
        x = x * self.weights[f"{name}.weight"].view(shape) + self.weights[f"{name}.bias"].view(shape)
        return F.leaky_relu(x, 0.01) if active else x

    def residual(self, name: str, x: Tensor) -> Tensor:
        steps = len({key.split(f"{name}.body.")[1][0] for key in self.weights if key.startswith(f"{name}.body.")})
        y = x
        for step in range(steps):
            y = self.block(f"{name}.body.{step}", y, active=step < steps - 1)
        has_projection = f"{name}.projection.convolution.weight" in self.weights
        return F.leaky_relu(y + (self.block(f"{name}.projection", x, active=False) if has_projection else x), 0.01)

    def exchange(self, name: str, xs: list[Tensor], target: int) -> Tensor:
        total = torch.zeros_like(xs[target])
        for source, x in enumerate(xs):
            path = f"{name}.paths.{source}"
            if source > target:
                x = self.block(f"{path}.0", x, active=False)
                for axis, edge in enumerate(xs[target].shape[2:], start=2):
                    x = x.repeat_interleave(edge // x.shape[axis], dim=axis)
            for step, level in enumerate(range(source + 1, target + 1)):
                x = self.block(f"{path}.{step}", x, self.spec.strides[self.stem + level], active=level < target)
            total = total + x
        return F.leaky_relu(total, 0.01)

    def features(self, x: Tensor) -> list[Tensor]:
        for position in range(2):
            x = self.block(
                f"encoder.stem.{position}", x, self.spec.strides[position + 1] if position < self.stem else 1
            )
        for position in range(self.branches.first_blocks):
            x = self.residual(f"encoder.first.{position}", x)
        xs = [x]
        for stage, modules in enumerate(self.branches.modules):
            name, stride = f"encoder.transitions.{stage}", self.spec.strides[self.stem + stage + 1]
            new = self.block(f"{name}.new", xs[-1], stride)
            if f"{name}.lowest.convolution.weight" in self.weights:
                xs[-1] = self.block(f"{name}.lowest", xs[-1])
            xs.append(new)
            for module in range(modules):
                name = f"encoder.stages.{stage}.{module}"
                for branch, x in enumerate(xs):
                    for block in range(self.spec.encoder_blocks[self.stem + branch]):
                        x = self.residual(f"{name}.branches.{branch}.{block}", x)
                    xs[branch] = x
                is_last = (stage, module) == (len(self.branches.modules) - 1, modules - 1)
                fed = 1 if is_last and not self.branches.joined_features else len(xs)
                xs = [self.exchange(f"{name}.exchanges.{target}", xs, target) for target in range(fed)] + xs[fed:]
        return xs

    def logits(self, image: Tensor) -> list[Tensor]:
        xs = self.features(image)
        mode = "bilinear" if self.spec.dimensions == 2 else "trilinear"

        def grow(x: Tensor, size: torch.Size) -> Tensor:
            return x if x.shape[2:] == size else F.interpolate(x, size=size, mode=mode, align_corners=False)

        first = xs[0]
        if self.branches.joined_features:
            # as published: interpolated, concatenated, convolved
            joined = torch.cat([grow(x, xs[0].shape[2:]) for x in xs], dim=1)
            names = [f"decoder.join.convolutions.{branch}.weight" for branch in range(len(xs))]
            weight = torch.cat([self.weights[name] for name in names], dim=1)
            first = self.convolve(joined, weight, self.weights["decoder.join.convolutions.0.bias"])
            first = self.norm("decoder.join.normalization", first, active=True)
        heads = [self.head(0, first)]
        if self.spec.deep_supervision:
            levels = range(1, len(self.spec.features) - 1)
            heads += [self.head(level, xs[level - self.stem]) for level in levels]
        return [grow(heads[0], image.shape[2:]), *heads[1:]]

    def head(self, level: int, x: Tensor) -> Tensor:
        name = f"decoder.heads.{level}"
        return self.convolve(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


@pytest.mark.parametrize("name", SPECS)
def test_logits_follow_the_published_recipe(name):
    recipe, image = Recipe(name), torch.randn(IMAGES[name])
    found = recipe.network(image)
    found = found if isinstance(found, list) else [found]
    expected = recipe.logits(image)
    assert [each.shape for each in found] == [each.shape for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", SPECS)
def test_every_parameter_gets_a_gradient(name):
    network = network_of(name).train()
    logits = network(torch.randn(IMAGES[name]))
    outputs = logits if isinstance(logits, list) else [logits]
    # the lowest head has no weight in the loss, and is frozen
    sum(each.square().mean() for each in outputs[: max(1, len(outputs) - 1)]).backward()
    frozen = {f"decoder.heads.{len(outputs) - 1}.{kind}" for kind in ("weight", "bias")} if len(outputs) > 1 else set()
    assert {key for key, parameter in network.named_parameters() if parameter.grad is None} == frozen


@pytest.mark.parametrize("name", SPECS)
def test_recomputed_activations_give_the_same_gradients(name):
    image, gradients = torch.randn(IMAGES[name]), []
    for recompute in (False, True):
        network = network_of(name).train()
        network.recompute_activations = recompute
        logits = network(image)
        sum(each.square().mean() for each in (logits if isinstance(logits, list) else [logits])).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_a_prediction_has_full_resolution_and_one_output():
    network = network_of("3d").eval()
    image = torch.randn(1, 2, 8, 16, 12)
    with torch.inference_mode():
        assert network(image).shape == (1, 3, 8, 16, 12)


def test_sizes_that_the_branches_cannot_divide_are_refused():
    with pytest.raises(ValueError, match=r"multiple of the total stride \(2, 8, 12\)"):
        network_of("3d")(torch.randn(1, 2, 4, 16, 16))


def published(
    width: int, first: tuple[int, int], modules: tuple[int, ...], blocks: int, *, joined: bool
) -> NetworkSpec:
    """A network of the authors' configuration files, with 19 classes of three channels; pose has 17 and the first head.

    Args:
        width: Feature maps of the finest branch.
        first: Number and width of the bottlenecks of the first stage.
        modules: Exchanges of each stage.
        blocks: Residual blocks of each branch before an exchange.
        joined: Whether the head is the second one.
    """
    widths = [width * 2**branch for branch in range(4)]
    return NetworkSpec(
        architecture="hrnet",
        dimensions=2,
        input_channels=3,
        output_channels=19 if joined else 17,
        features=(64, 64, *widths),
        strides=((1, 1), *((2, 2),) * 5),
        kernel_sizes=((3, 3),) * 6,
        encoder_blocks=(1, 1, *(blocks,) * 4),
        decoder_blocks=(1,) * 5,
        normalization="batch",
        deep_supervision=False,
        branches=BranchSpec(
            stem_levels=2,
            first_blocks=first[0],
            bottleneck_features=first[1],
            modules=modules,
            joined_features=sum(widths) if joined else 0,
        ),
    )


PUBLISHED = {
    "W18-small-v1": (published(16, (1, 32), (1, 1, 1), 2, joined=True), 1_540_819),
    "W18-small-v2": (published(18, (2, 64), (1, 3, 2), 2, joined=True), 3_939_579),
    "W48": (published(48, (4, 64), (1, 4, 3), 4, joined=True), 65_859_379),
    "pose-W32": (published(32, (4, 64), (1, 4, 3), 4, joined=False), 28_536_113),
}
"""github.com/HRNet/HRNet-Semantic-Segmentation gives 1.5, 3.9 and 65.8 million for Cityscapes, Sun et al. 28.5."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_of_parameters(name):
    spec, expected = PUBLISHED[name]
    with torch.device("meta"):
        network = build_network(spec, deep_supervision=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_parameters_of_a_small_network_by_hand():
    with torch.device("meta"):
        network = build_network(JOINED, deep_supervision=True)

    def block(inputs: int, outputs: int, kernel: tuple[int, int]) -> int:
        return prod(kernel) * inputs * outputs + 2 * outputs

    square, long, point = (3, 3), (3, 5), (1, 1)
    fine, middle, low = 2 * block(4, 4, square), 2 * block(6, 6, long), 2 * block(8, 8, square)
    stem = block(1, 4, square) + block(4, 4, square)
    to_two = block(4, 6, long) + fine + 2 * middle + block(6, 4, point) + block(4, 6, long)
    # three branches: 6 paths, the one from the finest to the lowest has two steps
    upwards = block(6, 4, point) + block(8, 4, point) + block(8, 6, point)
    downwards = block(4, 6, long) + block(4, 4, long) + block(4, 8, square) + block(6, 8, square)
    to_three = block(6, 8, square) + fine + 2 * middle + low + upwards + downwards
    joined = (4 + 6 + 8) * 5 + 5 + 2 * 5
    heads = 2 * (5 + 1) + 2 * (6 + 1)
    expected = stem + fine + to_two + to_three + joined + heads
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
