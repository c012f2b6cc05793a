"""Single operations of a network, whatever it is: what each computes, keeps and learns; and the blocks made of them.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from autoseg.records.network import NetworkSpec, list_head_levels

Kind = Literal[
    "convolution", "transposed", "depthwise", "linear", "head",
    "norm", "layer_norm", "response_norm", "max_pool", "average_pool", "shortcut", "shift", "interpolate", "join",
    "padding", "activation", "attention", "logits", "measured", "sample",
]  # fmt: skip
"""transposed: kernel equal to stride. head: 1 x 1 convolution to logits. norm: over space. layer_norm: over feature
maps. response_norm: a weight for each feature map. average_pool: on a shortcut, before its projection, or over all
voxels. shortcut: average pooling that is the whole shortcut. shift: along one axis, by group of feature maps. join:
sum, product or concatenation of tensors. logits: those of a head, interpolated to full resolution. attention: scores of
every voxel with `kernel_voxels` voxels, and sums by them. padding: a copy with zeros around it; its voxels are those of
the copy. sample: features at single points; its voxels are the neighbours that it looks at, of which it keeps places
and weights. activation: one that keeps its input and makes a tensor that is kept, too. Others are not listed: they take
the place of their input, or like the GELU keep it and make a tensor that is not kept. measured: a part of what was
counted on a whole network."""

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
    repeated: bool = False
    """Whether the weights are those of an operation before it."""
    measured_macs: int = 0
    """measured: its multiply-accumulates."""
    measured_parameters: int = 0
    """measured: its parameters."""
    applied_voxels: int | None = None
    """Voxels that the kernel is applied to: those of the input in a transposed convolution whose kernel is not its
    stride; None: those of the output."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates; in a `transposed` each output voxel depends on exactly one input voxel."""
        if self.kind == "attention":  # scores, and sums of values
            return 2 * self.voxels * self.kernel_voxels * self.outputs
        if self.kind not in WITH_WEIGHTS:
            return self.measured_macs
        taps = 1 if self.kind == "transposed" else self.kernel_voxels
        voxels = self.voxels if self.applied_voxels is None else self.applied_voxels
        return voxels * taps * self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Weights and biases; of a norm its scale and shift."""
        if self.repeated:
            return 0
        if self.kind in ("norm", "layer_norm", "response_norm"):
            return 2 * self.outputs
        if self.kind not in WITH_WEIGHTS:
            return self.measured_parameters
        return self.inputs * self.outputs * self.kernel_voxels + (self.outputs if self.bias else 0)

    @property
    def elements(self) -> int:
        """Elements of the output."""
        return self.outputs * self.voxels


def convolution_block(
    inputs: int,
    outputs: int,
    voxels: int,
    kernel: Sequence[int],
    *,
    activated: bool = True,
    repeated: bool = False,
    bias: bool = True,
) -> Iterator[Operation]:
    """Convolution and norm; the activation is in place, on the norm's output.

    Args:
        inputs: Feature maps of the input.
        outputs: Feature maps of the output.
        voxels: Voxels of the output.
        kernel: Voxels along each axis.
        activated: Whether an activation follows, which keeps its output.
        repeated: Whether the weights are those of an operation before it.
        bias: Whether the convolution has a bias.
    """
    yield Operation("convolution", inputs, outputs, voxels, math.prod(kernel), bias=bias, repeated=repeated)
    yield Operation("norm", 1, outputs, voxels, kept=activated, repeated=repeated)


def residual_shortcut(inputs: int, outputs: int, voxels: int, *, pooled: bool) -> Iterator[Operation]:
    """What a residual block's shortcut does: pool where there is a stride, convolve where the width changes."""
    projected = inputs != outputs
    if pooled and not projected:
        yield Operation("shortcut", 1, outputs, voxels, kept=False)
    elif pooled:
        yield Operation("average_pool", 1, inputs, voxels)
    if projected:
        yield Operation("convolution", inputs, outputs, voxels, bias=False)
        yield Operation("norm", 1, outputs, voxels, kept=False)


def head(network: NetworkSpec, level: int, voxels: int) -> Iterator[Operation]:
    """The head of a decoder level, where it has one; logits that points are sampled from are kept."""
    if level in list_head_levels(network):
        kept = level == network.coarse_level and network.head == "points"
        yield Operation("head", network.features[level], network.output_channels, voxels, kept=kept)
