"""Operations of MedNeXt and of its block, as `autoseg.networks.mednext` builds them.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from autoseg.costs.operations import Operation, head
from autoseg.records.network import NetworkSpec, Sizes


def mednext_block(
    inputs: int,
    outputs: int,
    voxels: int,
    kernel: Sequence[int],
    strided: bool,
    *,
    expansion: int = 2,
    response_normalization: bool = False,
) -> Iterator[Operation]:
    """One block.

    Args:
        inputs: Feature maps of the input.
        outputs: Feature maps of the output.
        voxels: Voxels of the output.
        kernel: Voxels along each axis.
        strided: Whether it has a stride.
        expansion: How many times as wide as the input the hidden layer is.
        response_normalization: Whether the hidden layer is normalised by its responses.
    """
    yield Operation("depthwise", 1, inputs, voxels, math.prod(kernel))
    yield from _perceptron(inputs, outputs, voxels, expansion, response_normalization)
    if strided or inputs != outputs:
        yield Operation("convolution", inputs, outputs, voxels, kept=False)
    yield Operation("join", 1, outputs, voxels)


def _perceptron(
    inputs: int, outputs: int, voxels: int, expansion: int, response_normalization: bool
) -> Iterator[Operation]:
    hidden = expansion * inputs
    yield Operation("norm", 1, inputs, voxels)
    yield Operation("convolution", inputs, hidden, voxels)
    yield Operation("activation", 1, hidden, voxels)
    if response_normalization:
        yield Operation("response_norm", 1, hidden, voxels)
    yield Operation("convolution", hidden, outputs, voxels, kept=False)


def list_mednext(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    """The whole network for one sample; shape of each level, full resolution first."""
    voxels = [math.prod(shape) for shape in shapes]
    yield Operation("convolution", network.input_channels, network.features[0], voxels[0])
    yield from _blocks(network, 0, voxels[0], network.encoder_blocks[0])
    for level, (inputs, outputs) in enumerate(pairwise(network.features), 1):
        strided = set(network.strides[level]) != {1}
        yield from _of_level(network, inputs, outputs, level, voxels[level], strided=strided)
        yield from _blocks(network, level, voxels[level], network.encoder_blocks[level])
    for level in reversed(range(network.coarse_level, len(shapes) - 1)):
        yield from _upsampling(network, level, shapes[level + 1])
        yield Operation("padding", 1, network.features[level], voxels[level], kept=False)
        yield Operation("join", 1, network.features[level], voxels[level])
        yield from _blocks(network, level, voxels[level], network.decoder_blocks[level])
        yield from head(network, level, voxels[level])


def _blocks(network: NetworkSpec, level: int, voxels: int, num_blocks: int) -> Iterator[Operation]:
    features = network.features[level]
    for _ in range(num_blocks):
        yield from _of_level(network, features, features, level, voxels, strided=False)


def _of_level(
    network: NetworkSpec, inputs: int, outputs: int, level: int, voxels: int, *, strided: bool
) -> Iterator[Operation]:
    return mednext_block(
        inputs,
        outputs,
        voxels,
        network.kernel_sizes[level],
        strided,
        expansion=network.expansions[level],
        response_normalization=network.response_normalization,
    )


def _upsampling(network: NetworkSpec, level: int, below: Sizes) -> Iterator[Operation]:
    """The block that leads up to a level, before its zeros: (n - 1) * stride + 1 voxels of n along each axis."""
    inputs, outputs, stride = network.features[level + 1], network.features[level], network.strides[level + 1]
    voxels = math.prod((edge - 1) * step + 1 for edge, step in zip(below, stride, strict=True))
    before, kernel = math.prod(below), math.prod(network.kernel_sizes[level + 1])
    yield Operation("depthwise", 1, inputs, voxels, kernel, applied_voxels=before)
    yield from _perceptron(inputs, outputs, voxels, network.expansions[level], network.response_normalization)
    if set(stride) != {1} or inputs != outputs:
        yield Operation("convolution", inputs, outputs, voxels, kept=False, applied_voxels=before)
    yield Operation("join", 1, outputs, voxels, kept=False)
