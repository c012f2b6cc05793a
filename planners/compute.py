"""What a planned network computes: its convolutions, one by one, and their multiply-accumulates.

Called by the planners to size a network, and by `planners.memory`, which sums over the same list. Nothing is built.

Example: a 3 x 3 x 3 convolution from 8 to 16 feature maps on 4 x 4 x 4 output voxels costs
64 * 27 * 8 * 16 = 221,184 multiply-accumulates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoseg.records.plan import NetworkSpec


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network, applied to one sample."""

    kind: Literal["block", "up", "head"]
    """block: with instance norm and leaky ReLU. up: transposed, kernel equal to stride. head: 1 x 1, to logits."""
    level: int
    """Of its output; 0 is full resolution."""
    inputs: int
    """Feature maps."""
    outputs: int
    """Feature maps."""
    kernel_voxels: int
    output_voxels: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates; in an `up` each output voxel hangs on exactly one input voxel. Biases count nothing."""
        taps = 1 if self.kind == "up" else self.kernel_voxels
        return self.output_voxels * taps * self.inputs * self.outputs

    @property
    def output_elements(self) -> int:
        """Elements of its output."""
        return self.outputs * self.output_voxels


def list_convolutions(network: NetworkSpec, patch_size: Sequence[int]) -> tuple[Convolution, ...]:
    """All convolutions of a plain U-Net in forward order: encoder, then decoder from the deepest level upwards.

    Every decoder level has a segmentation head, as in training with deep supervision; the one at level 0 gives the
    prediction.

    Args:
        network: Plain U-Net.
        patch_size: Input voxels, (z, y, x) or (y, x).

    Returns:
        The convolutions for one sample (batch 1).

    Raises:
        ValueError: If the patch is not divisible by the network's total stride.
    """
    voxels = _voxels_per_level(network, patch_size)
    return (*_encoder(network, voxels), *_decoder(network, voxels))


def forward_macs(network: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Convolution multiply-accumulates of one forward pass in training, batch 1.

    Counted: every convolution, every transposed convolution, and the segmentation heads of all levels. Not counted:
    biases, normalisation, activations, the loss. Twice this number is what torch's FlopCounterMode reports.
    """
    return sum(convolution.macs for convolution in list_convolutions(network, patch_size))


def _voxels_per_level(network: NetworkSpec, patch_size: Sequence[int]) -> list[int]:
    size = list(patch_size)
    voxels = []
    for stride in network.strides:
        if any(edge % step for edge, step in zip(size, stride, strict=True)):
            raise ValueError(f"patch {tuple(patch_size)} is not divisible by the total stride of {network.strides}")
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        voxels.append(math.prod(size))
    return voxels


def _encoder(network: NetworkSpec, voxels: Sequence[int]) -> list[Convolution]:
    convolutions = []
    inputs = network.input_channels
    for level, outputs in enumerate(network.features):
        kernel = math.prod(network.kernel_sizes[level])
        for _ in range(network.encoder_convolutions[level]):
            convolutions.append(Convolution("block", level, inputs, outputs, kernel, voxels[level]))
            inputs = outputs
    return convolutions


def _decoder(network: NetworkSpec, voxels: Sequence[int]) -> list[Convolution]:
    convolutions = []
    for level in reversed(range(len(network.features) - 1)):
        outputs, below = network.features[level], network.features[level + 1]
        up_kernel = math.prod(network.strides[level + 1])
        convolutions.append(Convolution("up", level, below, outputs, up_kernel, voxels[level]))
        inputs = 2 * outputs  # the skip is concatenated
        kernel = math.prod(network.kernel_sizes[level])
        for _ in range(network.decoder_convolutions[level]):
            convolutions.append(Convolution("block", level, inputs, outputs, kernel, voxels[level]))
            inputs = outputs
        convolutions.append(Convolution("head", level, inputs, network.output_channels, 1, voxels[level]))
    return convolutions
