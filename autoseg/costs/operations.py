"""Single operations of a network, whatever it is: what each computes, keeps and learns; and the blocks made of them.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autoseg.records.network import NetworkSpec

Kind = Literal[
    "convolution", "transposed", "depthwise", "linear", "head",
    "norm", "layer_norm", "max_pool", "average_pool", "shortcut", "shift", "interpolate", "join", "padding",
    "activation",
]  # fmt: skip
"""transposed: kernel equal to stride. head: 1 x 1 convolution to logits. norm: over space. layer_norm: over feature
maps. average_pool: on a shortcut, before its projection. shortcut: average pooling that is the whole shortcut. shift:
along one axis, by group of feature maps. join: sum or concatenation of two tensors. padding: a copy with zeros around
it; its voxels are those of the copy. activation: one that keeps its input and makes a tensor that is kept, too. Others
are not listed: they take the place of their input, or like the GELU keep it and make a tensor that is not kept."""

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
    """Voxels of the output."""
    kernel_voxels: int = 1
    bias: bool = True
    kept: bool = True
    """Whether the output stays in memory for the backward pass: the next operation, or its activation, needs it."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates with weights; in a `transposed` each output voxel depends on exactly one input voxel."""
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


def convolution_block(inputs: int, outputs: int, voxels: int, kernel: Sequence[int]) -> Iterator[Operation]:
    """Convolution and norm; the activation is in place, on the norm's output."""
    yield Operation("convolution", inputs, outputs, voxels, math.prod(kernel))
    yield Operation("norm", 1, outputs, voxels)


def head(network: NetworkSpec, level: int, voxels: int) -> Iterator[Operation]:
    """The head of a decoder level, where it has one."""
    if level == 0 or network.deep_supervision:
        yield Operation("head", network.features[level], network.output_channels, voxels, kept=False)


def convolutional_decoder(
    network: NetworkSpec, voxels: Sequence[int], skip_features: Sequence[int] | None = None
) -> Iterator[Operation]:
    """A U-Net's decoder, the lowest level first.

    Args:
        network: The network.
        voxels: Voxels of each level.
        skip_features: Feature maps that the encoder gives at each level; None: as many as the level has.
    """
    skips = network.features if skip_features is None else skip_features
    for level in reversed(range(len(network.features) - 1)):
        outputs, below = network.features[level], network.features[level + 1]
        up_kernel = math.prod(network.strides[level + 1])
        yield Operation("transposed", below, outputs, voxels[level], up_kernel, kept=False)
        inputs = outputs + skips[level]  # the skip is concatenated
        yield Operation("join", 1, inputs, voxels[level])
        for _ in range(network.decoder_blocks[level]):
            yield from convolution_block(inputs, outputs, voxels[level], network.kernel_sizes[level])
            inputs = outputs
        yield from head(network, level, voxels[level])
