"""The operations of a planned network, one by one, in forward order: what every cost is a sum over.

Called by planners, and by `autoseg.costs.memory`. Nothing is built.

Example: a residual block from 8 to 16 feature maps with stride 2 is two convolutions with their norms, on the shortcut
a pooling and a 1 x 1 convolution with its norm, and an addition.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autoseg.records.network import NetworkSpec

Kind = Literal[
    "convolution", "transposed", "depthwise", "linear", "head",
    "norm", "layer_norm", "max_pool", "average_pool", "shortcut", "shift", "interpolate", "join",
]  # fmt: skip
"""transposed: kernel equal to stride. head: 1 x 1 convolution to logits. norm: over space. layer_norm: over feature
maps. average_pool: on a shortcut, before its projection. shortcut: average pooling that is the whole shortcut. shift:
along one axis, by group of feature maps. join: sum or concatenation of two tensors. Activations are not listed: they
take the place of their input, or like the GELU keep it and make a tensor that is itself not kept."""

FORWARD_FRACTION = 1 / 3
"""Part of a training step that its forward pass takes: the backward pass costs twice as much."""

WITH_WEIGHTS = frozenset({"convolution", "transposed", "depthwise", "linear", "head"})


@dataclass(frozen=True)
class Operation:
    """One operation, applied to one sample."""

    kind: Kind
    inputs: int
    """Feature maps that each output is computed from; 1 where every feature map stays by itself."""
    outputs: int
    """Feature maps."""
    voxels: int
    """Of the output."""
    kernel_voxels: int = 1
    bias: bool = True
    kept: bool = True
    """Whether the output stays in memory for the backward pass: the next operation, or its activation, needs it."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates with weights; in a `transposed` each output voxel hangs on exactly one input voxel."""
        if self.kind not in WITH_WEIGHTS:
            return 0
        taps = 1 if self.kind == "transposed" else self.kernel_voxels
        return self.voxels * taps * self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Weights and biases; of a norm its scale and shift."""
        if self.kind in ("norm", "layer_norm"):
            return 2 * self.outputs
        if self.kind not in WITH_WEIGHTS:
            return 0
        return self.inputs * self.outputs * self.kernel_voxels + (self.outputs if self.bias else 0)

    @property
    def elements(self) -> int:
        """Elements of the output."""
        return self.outputs * self.voxels


def list_operations(network: NetworkSpec, patch_size: Sequence[int]) -> tuple[Operation, ...]:
    """All operations of a network in forward order, for one sample (batch 1).

    With deep supervision every decoder level has a segmentation head, as in training; the one at full resolution
    comes last and gives the prediction.

    Args:
        network: Any architecture.
        patch_size: Input voxels, (z, y, x) or (y, x).

    Raises:
        ValueError: If the patch is not divisible by the network's total stride.
    """
    voxels = _voxels_per_level(network, patch_size)
    match network.architecture:
        case "unet":
            return (*_plain_encoder(network, voxels), *_convolutional_decoder(network, voxels))
        case "residual_unet":
            return (*_residual_encoder(network, voxels), *_convolutional_decoder(network, voxels))
        case "unext":
            return (*_unext_encoder(network, voxels), *_unext_decoder(network, voxels))


def _voxels_per_level(network: NetworkSpec, patch_size: Sequence[int]) -> list[int]:
    size = list(patch_size)
    voxels = []
    for stride in network.strides:
        if any(edge % step for edge, step in zip(size, stride, strict=True)):
            raise ValueError(f"patch {tuple(patch_size)} is not divisible by the total stride of {network.strides}")
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        voxels.append(math.prod(size))
    return voxels


def _convolution_block(inputs: int, outputs: int, voxels: int, kernel: Sequence[int]) -> Iterator[Operation]:
    """The activation is in place, on the norm's output."""
    yield Operation("convolution", inputs, outputs, voxels, math.prod(kernel))
    yield Operation("norm", 1, outputs, voxels)


def _plain_encoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    inputs = network.input_channels
    for level, outputs in enumerate(network.features):
        for _ in range(network.encoder_blocks[level]):
            yield from _convolution_block(inputs, outputs, voxels[level], network.kernel_sizes[level])
            inputs = outputs


def _residual_encoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    inputs = network.features[0]
    yield from _convolution_block(network.input_channels, inputs, voxels[0], network.kernel_sizes[0])
    for level, outputs in enumerate(network.features):
        kernel = network.kernel_sizes[level]
        for block in range(network.encoder_blocks[level]):
            pooled = block == 0 and any(step != 1 for step in network.strides[level])
            yield from _convolution_block(inputs, outputs, voxels[level], kernel)
            yield Operation("convolution", outputs, outputs, voxels[level], math.prod(kernel))
            yield Operation("norm", 1, outputs, voxels[level], kept=False)
            yield from _shortcut(inputs, outputs, voxels[level], pooled=pooled)
            yield Operation("join", 1, outputs, voxels[level])
            inputs = outputs


def _shortcut(inputs: int, outputs: int, voxels: int, *, pooled: bool) -> Iterator[Operation]:
    projected = inputs != outputs
    if pooled and not projected:
        yield Operation("shortcut", 1, outputs, voxels, kept=False)
    elif pooled:
        yield Operation("average_pool", 1, inputs, voxels)
    if projected:
        yield Operation("convolution", inputs, outputs, voxels, bias=False)
        yield Operation("norm", 1, outputs, voxels, kept=False)


def _convolutional_decoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    for level in reversed(range(len(network.features) - 1)):
        outputs, below = network.features[level], network.features[level + 1]
        up_kernel = math.prod(network.strides[level + 1])
        yield Operation("transposed", below, outputs, voxels[level], up_kernel, kept=False)
        yield Operation("join", 1, 2 * outputs, voxels[level])
        inputs = 2 * outputs  # the skip is concatenated
        for _ in range(network.decoder_blocks[level]):
            yield from _convolution_block(inputs, outputs, voxels[level], network.kernel_sizes[level])
            inputs = outputs
        yield from _head(network, level, voxels[level])


def _unext_encoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    inputs = network.input_channels
    for level, outputs in list(enumerate(network.features))[1:]:
        if level < _first_token_level(network):
            yield from _convolution_block(inputs, outputs, voxels[level - 1], network.kernel_sizes[level - 1])
            yield Operation("max_pool", 1, outputs, voxels[level])
        else:
            kernel = math.prod(network.kernel_sizes[level])
            yield Operation("convolution", inputs, outputs, voxels[level], kernel)
            yield Operation("layer_norm", 1, outputs, voxels[level])
            yield from _shifted_block(network, level, voxels[level])
        inputs = outputs


def _unext_decoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    """Convolutions work at the resolution of the level below, before interpolation."""
    for level in reversed(range(len(network.features) - 1)):
        outputs, below = network.features[level], network.features[level + 1]
        kernel = math.prod(network.kernel_sizes[level + 1])
        yield Operation("convolution", below, outputs, voxels[level + 1], kernel, kept=level > 0)
        if level > 0:
            yield Operation("norm", 1, outputs, voxels[level + 1], kept=False)
        yield Operation("interpolate", 1, outputs, voxels[level])
        if level > 0 or network.full_resolution_skip:
            yield Operation("join", 1, outputs, voxels[level])
        if level + 1 >= _first_token_level(network):
            yield from _shifted_block(network, level, voxels[level])
        yield from _head(network, level, voxels[level])


def _shifted_block(network: NetworkSpec, level: int, voxels: int) -> Iterator[Operation]:
    """Sum of x and MLP(norm(x)), then a norm; one shift and one linear layer per axis, the GELU after the first."""
    width = network.features[level]
    yield Operation("layer_norm", 1, width, voxels, kept=False)
    yield Operation("shift", 1, width, voxels)
    yield Operation("linear", width, width, voxels)
    yield Operation("depthwise", 1, width, voxels, math.prod(network.kernel_sizes[level]))
    for _ in range(1, network.dimensions):
        yield Operation("shift", 1, width, voxels)
        yield Operation("linear", width, width, voxels, kept=False)
    yield Operation("join", 1, width, voxels)
    yield Operation("layer_norm", 1, width, voxels)


def _first_token_level(network: NetworkSpec) -> int:
    return len(network.features) - network.token_levels


def _head(network: NetworkSpec, level: int, voxels: int) -> Iterator[Operation]:
    if level == 0 or network.deep_supervision:
        yield Operation("head", network.features[level], network.output_channels, voxels, kept=False)


def forward_macs(network: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Multiply-accumulates of one forward pass in training, batch 1.

    Counted: convolutions of every kind, linear layers, and the segmentation heads of all levels that have one. Not
    counted: biases, normalisation, activations, pooling, interpolation, the loss. Twice this number is what torch's
    FlopCounterMode reports.

    Args:
        network: Any architecture.
        patch_size: (z, y, x) or (y, x), voxels.

    Raises:
        ValueError: If the patch is not divisible by the network's total stride.
    """
    return sum(operation.macs for operation in list_operations(network, patch_size))
