"""Operations of the parts that a U-Net may be made of: blocks, attention, skips, bottlenecks.

They mirror `autoseg.networks.parts`, from which what differs from a formula is taken with the same names.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from autoseg.costs.detection import detection_operations
from autoseg.costs.mednext import mednext_block
from autoseg.costs.operations import Operation, convolution_block, head, residual_shortcut
from autoseg.records.network import NetworkSpec, Sizes

BlockCosts = Callable[[int, int, int, Sequence[int], bool], Iterator[Operation]]
"""(input feature maps, output feature maps, voxels of the output, kernel, whether it has a stride) -> operations."""

POINT = (1, 1, 1)
"""Kernel of one voxel."""


def _quarter(features: int) -> int:
    return -(-features // 4)


def _entry(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], strided: bool) -> Iterator[Operation]:
    if strided:
        yield from convolution_block(inputs, outputs, voxels, kernel)
    elif inputs != outputs:
        yield from convolution_block(inputs, outputs, voxels, POINT)


def _plain(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], _strided: bool) -> Iterator[Operation]:
    yield from convolution_block(inputs, outputs, voxels, kernel)


def residual_block(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], strided: bool) -> Iterator[Operation]:
    """Operations of one residual block."""
    yield from convolution_block(inputs, outputs, voxels, kernel)
    yield from convolution_block(outputs, outputs, voxels, kernel, activated=False)
    yield from residual_shortcut(inputs, outputs, voxels, pooled=strided)
    yield Operation("join", 1, outputs, voxels)


def _recurrent(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], strided: bool) -> Iterator[Operation]:
    yield from _entry(inputs, outputs, voxels, kernel, strided)
    for _ in range(2):
        yield from convolution_block(outputs, outputs, voxels, kernel)
        for _ in range(2):
            yield Operation("join", 1, outputs, voxels)
            yield from convolution_block(outputs, outputs, voxels, kernel, repeated=True)
    yield Operation("join", 1, outputs, voxels)


def _dense(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], strided: bool) -> Iterator[Operation]:
    growth, width = _quarter(outputs), inputs
    if strided:
        yield from convolution_block(inputs, outputs, voxels, kernel)
        width = outputs
    for _ in range(4):
        yield from convolution_block(width, growth, voxels, kernel)
        width += growth
        yield Operation("join", 1, width, voxels)
    yield from convolution_block(width, outputs, voxels, POINT)


def _inception(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], strided: bool) -> Iterator[Operation]:
    yield from _entry(inputs, outputs, voxels, kernel, strided)
    width = _quarter(outputs)
    for convolutions in (1, 1, 2, 3):
        yield from convolution_block(outputs, width, voxels, POINT)
        for _ in range(convolutions):
            yield from convolution_block(width, width, voxels, kernel)
    yield Operation("join", 1, 4 * width, voxels)
    yield from convolution_block(4 * width, outputs, voxels, POINT)


def _multires(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], strided: bool) -> Iterator[Operation]:
    if strided:
        yield from convolution_block(inputs, outputs, voxels, kernel)
        inputs = outputs
    first, second = max(1, outputs // 6), max(1, outputs // 3)
    widths = (first, second, outputs - first - second)
    for before, width in zip((inputs, *widths), widths, strict=False):
        yield from convolution_block(before, width, voxels, kernel)
    yield from convolution_block(inputs, outputs, voxels, POINT, activated=False)
    yield Operation("join", 1, outputs, voxels, kept=False)
    yield Operation("join", 1, outputs, voxels)


def _separable(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], _strided: bool) -> Iterator[Operation]:
    yield Operation("depthwise", 1, inputs, voxels, math.prod(kernel))
    yield Operation("norm", 1, inputs, voxels)
    yield from convolution_block(inputs, outputs, voxels, POINT)


def _factorized(inputs: int, outputs: int, voxels: int, kernel: Sequence[int], strided: bool) -> Iterator[Operation]:
    yield from _entry(inputs, outputs, voxels, kernel, strided)
    lengths = [size for size in kernel if size > 1] or [1]
    for is_last in (False, True):
        for length in lengths:
            yield Operation("convolution", outputs, outputs, voxels, length)
        yield Operation("norm", 1, outputs, voxels, kept=not is_last)
    yield Operation("join", 1, outputs, voxels)


BLOCK_COSTS: Final[Mapping[str, BlockCosts]] = MappingProxyType(
    {
        "plain": _plain,
        "residual": residual_block,
        "recurrent": _recurrent,
        "dense": _dense,
        "inception": _inception,
        "multires": _multires,
        "separable": _separable,
        "factorized": _factorized,
        "mednext": mednext_block,
    }
)


def _attention(network: NetworkSpec, features: int, voxels: int) -> Iterator[Operation]:
    if network.attention in {"channel", "mixed"}:
        hidden = max(4, features // 16)
        yield Operation("average_pool", 1, features, 1)
        yield Operation("linear", features, hidden, 1)
        yield Operation("linear", hidden, features, 1)
        yield Operation("join", 1, features, voxels, kept=network.attention == "channel")
    if network.attention in {"spatial", "mixed"}:
        yield Operation("convolution", features, 1, voxels)
        yield Operation("join", 1, features, voxels, kept=network.attention == "spatial")
    if network.attention == "mixed":
        yield Operation("join", 1, features, voxels)


def level_operations(
    network: NetworkSpec, inputs: int, level: int, voxels: int, *, in_encoder: bool
) -> Iterator[Operation]:
    """Blocks and attention of one level.

    Args:
        network: A U-Net of parts.
        inputs: Feature maps that lead into the first block.
        level: 0 at full resolution.
        voxels: Voxels of the level.
        in_encoder: Whether the first block has the level's stride; else it is a level of the decoder.
    """
    outputs, kernel = network.features[level], network.kernel_sizes[level]
    blocks = network.encoder_blocks if in_encoder else network.decoder_blocks
    has_stride = in_encoder and any(step != 1 for step in network.strides[level])
    for position in range(blocks[level]):
        strided = has_stride and position == 0
        yield from BLOCK_COSTS[network.block](inputs if position == 0 else outputs, outputs, voxels, kernel, strided)
    yield from _attention(network, outputs, voxels)


def bottleneck_operations(network: NetworkSpec, voxels: int) -> Iterator[Operation]:
    """What follows the blocks of the lowest level."""
    features, kernel = network.features[-1], network.kernel_sizes[-1]
    if network.bottleneck == "pyramid":
        yield from _pooling_pyramid(features, kernel, voxels)
    if network.bottleneck in {"atrous", "atrous_nonlocal"}:
        yield from _atrous_pyramid(features, kernel, voxels)
    if network.bottleneck in {"nonlocal", "atrous_nonlocal"}:
        yield from _nonlocal(features, voxels)


def _nonlocal(features: int, voxels: int) -> Iterator[Operation]:
    width = max(1, features // 2)
    for _ in range(3):
        yield Operation("convolution", features, width, voxels)
    yield Operation("attention", 1, width, voxels, voxels)
    yield from convolution_block(width, features, voxels, POINT, activated=False)
    yield Operation("join", 1, features, voxels)


def _pooling_pyramid(features: int, kernel: Sequence[int], voxels: int) -> Iterator[Operation]:
    width = _quarter(features)
    for grid in (1, 2, 3, 6):
        yield Operation("interpolate", 1, features, grid ** len(kernel))
        yield Operation("convolution", features, width, grid ** len(kernel))
        yield Operation("interpolate", 1, width, voxels, kept=False)
    yield Operation("join", 1, features + 4 * width, voxels)
    yield from convolution_block(features + 4 * width, features, voxels, kernel)


def _atrous_pyramid(features: int, kernel: Sequence[int], voxels: int) -> Iterator[Operation]:
    width = _quarter(features)
    for each in (POINT, kernel, kernel, kernel):
        yield from convolution_block(features, width, voxels, each)
    yield Operation("average_pool", 1, features, 1)
    yield Operation("convolution", features, width, 1)
    yield Operation("join", 1, 5 * width, voxels)
    yield from convolution_block(5 * width, features, voxels, POINT)


def skip_operations(network: NetworkSpec, level: int, voxels: int) -> Iterator[Operation]:
    """What happens to the encoder's features of one level on their way."""
    features = network.features[level]
    if network.skip == "gate":
        width = max(1, features // 2)
        yield from convolution_block(features, width, voxels, POINT, activated=False)
        yield from convolution_block(features, width, voxels, POINT, activated=False)
        yield Operation("join", 1, width, voxels)
        yield from convolution_block(width, 1, voxels, POINT)
        yield Operation("join", 1, features, voxels, kept=False)
    elif network.skip == "respath":
        for _ in range(max(1, 4 - level)):
            yield from convolution_block(features, features, voxels, network.kernel_sizes[level], activated=False)
            yield from convolution_block(features, features, voxels, POINT, activated=False)
            yield Operation("join", 1, features, voxels)


def unet_operations(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    """A whole U-Net of parts, for one sample; shape of each level, full resolution first."""
    inputs, voxels = network.input_channels, [math.prod(shape) for shape in shapes]
    for level, outputs in enumerate(network.features):
        yield from level_operations(network, inputs, level, voxels[level], in_encoder=True)
        inputs = outputs
    yield from bottleneck_operations(network, voxels[-1])
    if network.detection is not None:
        yield from detection_operations(network, network.detection, shapes)
        return
    yield from nested_decoder(network, voxels) if network.skip == "nested" else unet_decoder(network, voxels)


def unet_decoder(
    network: NetworkSpec, voxels: Sequence[int], skip_features: Sequence[int] | None = None
) -> Iterator[Operation]:
    """A U-Net's decoder, the lowest level first, up to full resolution or to the coarse level of a point head.

    Args:
        network: The network.
        voxels: Voxels of each level.
        skip_features: Feature maps that the encoder gives at each level; None: as many as the level has.
    """
    skips = network.features if skip_features is None else skip_features
    for level in reversed(range(network.coarse_level, len(network.features) - 1)):
        inputs = network.features[level] + skips[level]  # the skip is concatenated
        yield _upsampling(network, level, voxels[level], kept=network.skip == "gate")
        yield from skip_operations(network, level, voxels[level])
        yield Operation("join", 1, inputs, voxels[level])
        yield from level_operations(network, inputs, level, voxels[level], in_encoder=False)
        yield from head(network, level, voxels[level])


def nested_decoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    """All nodes of a U-Net++, column by column; every column ends at the finest level of the decoder, with a head."""
    depth, finest = len(network.features) - 1, network.coarse_level
    for column in range(1, depth - finest + 1):
        for level in reversed(range(finest, depth - column + 1)):
            inputs = (column + 1) * network.features[level]
            yield _upsampling(network, level, voxels[level], kept=False)
            yield Operation("join", 1, inputs, voxels[level])
            *operations, last = level_operations(network, inputs, level, voxels[level], in_encoder=False)
            is_only_joined = level == finest and column < depth - finest and not network.deep_supervision
            yield from operations
            yield replace(last, kept=False) if is_only_joined and _ends_with_sum(network) else last
        if network.deep_supervision or column == depth - finest:
            kept = column == depth - finest and network.head == "points"
            yield Operation("head", network.features[finest], network.output_channels, voxels[finest], kept=kept)


def _ends_with_sum(network: NetworkSpec) -> bool:
    """Whether a level ends without an activation, so that only what comes next keeps its features."""
    return network.attention != "none" or network.block in {"recurrent", "mednext"}


def _upsampling(network: NetworkSpec, level: int, voxels: int, *, kept: bool) -> Operation:
    below, kernel = network.features[level + 1], math.prod(network.strides[level + 1])
    return Operation("transposed", below, network.features[level], voxels, kernel, kept=kept)


RELATIVE_SPEEDS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "residual": (0.8, 0.8),
        "recurrent": (1.0, 1.0),
        "dense": (0.45, 0.4),
        "inception": (0.2, 0.12),
        "multires": (0.3, 0.25),
        "separable": (0.16, 0.03),
        "factorized": (0.6, 0.4),
        "mednext": (0.4, 0.07),
        "gate": (0.75, 0.9),
        "respath": (0.9, 1.0),
        "nested": (0.9, 1.0),
        "channel": (0.8, 0.9),
        "spatial": (0.8, 0.9),
        "mixed": (0.7, 0.8),
        "detection": (0.8, 0.6),
    }
)
"""Multiply-accumulates per second of a training step relative to a plain U-Net's, in 2D and in 3D. Four levels of 16 to
128 features, bf16, one core with AVX-512, 160 x 128 and 24 x 40 x 32, torch 2.13, 2026-11-29. Parts that are not listed
cost as much as their multiplications. Heads that find objects: 8, 16 and 32 features at full resolution, 128 x 80 and
24 x 32 x 28, gave 0.65 to 1.5 and 0.54 to 0.97, 2026-11-30."""


def relative_speed_of_parts(network: NetworkSpec) -> float:
    """How many multiply-accumulates per second a U-Net of parts does, relative to a plain one."""
    heads = () if network.detection is None else ("detection",)
    parts = (network.block, network.skip, network.attention, network.bottleneck, *heads)
    column = network.dimensions - 2
    return math.prod(RELATIVE_SPEEDS[part][column] for part in parts if part in RELATIVE_SPEEDS)
