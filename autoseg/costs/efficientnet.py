"""Operations of a U-Net with the encoder of EfficientNet-Lite0.

Example: the second block of level 2, at 64 x 64: a 1 x 1 convolution from 24 to 144 feature maps, a depthwise one of
kernel 3, a 1 x 1 convolution back to 24, and the sum with the block's input. Each of the first two is
followed by ReLU6, which makes a tensor of its own.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Iterator, Sequence

from autoseg.costs.operations import Operation
from autoseg.costs.parts import unet_decoder
from autoseg.records.encoders import (
    EFFICIENTNET_LEVELS,
    STEM_FEATURES,
    STEM_KERNEL,
    InvertedStage,
    encoder_features,
)
from autoseg.records.network import NetworkSpec, Sizes


def list_efficientnet_unet(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    """All operations in forward order, for one sample.

    Args:
        network: The network.
        shapes: Shape of each level, full resolution first.
    """
    skips = (network.input_channels, *encoder_features(len(shapes))[1:])
    yield from _list_encoder(network, shapes)
    yield from unet_decoder(network, [math.prod(shape) for shape in shapes], skips)


def _list_encoder(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    inputs, no_stride = STEM_FEATURES, (1,) * network.dimensions
    for level, stages in enumerate(EFFICIENTNET_LEVELS[: len(shapes)]):
        shape, stride = shapes[level], network.strides[level]
        if level == 1:
            yield from _padding(network.input_channels, shape, stride, STEM_KERNEL)
            yield Operation("convolution", network.input_channels, inputs, math.prod(shape), STEM_KERNEL**2)
            yield Operation("activation", 1, inputs, math.prod(shape))
            stride = no_stride
        for stage in stages:
            for _ in range(stage.blocks):
                yield from _inverted_residual(inputs, stage, shape, stride)
                inputs, stride = stage.features, no_stride


def _inverted_residual(inputs: int, stage: InvertedStage, shape: Sizes, stride: Sizes) -> Iterator[Operation]:
    wide, voxels = inputs * stage.expansion, math.prod(shape)
    is_residual = inputs == stage.features and set(stride) == {1}
    if stage.expansion > 1:
        yield Operation("convolution", inputs, wide, voxels * math.prod(stride))
        # where it is padded next, the copy is kept instead
        yield Operation("activation", 1, wide, voxels * math.prod(stride), kept=set(stride) == {1})
    yield from _padding(wide, shape, stride, stage.kernel_size)
    yield Operation("depthwise", 1, wide, voxels, stage.kernel_size**2)
    yield Operation("activation", 1, wide, voxels)
    yield Operation("convolution", wide, stage.features, voxels, kept=not is_residual)
    if is_residual:
        yield Operation("join", 1, stage.features, voxels)


def _padding(features: int, shape: Sizes, stride: Sizes, kernel_size: int) -> Iterator[Operation]:
    """A copy with zeros around it, where a stride of 2 wants less of them before the image than after it."""
    if any(step > 1 for step in stride):
        padded = [edge * step + kernel_size - step for edge, step in zip(shape, stride, strict=True)]
        yield Operation("padding", 1, features, math.prod(padded))
