"""How much a planned network computes, in multiply-accumulates.

Called by the planners to size a network and to say how long it trains and predicts. Analytic: nothing is built.

Example: a 3 x 3 x 3 convolution from 8 to 16 feature maps on 4 x 4 x 4 output voxels costs
64 * 27 * 8 * 16 = 221,184 multiply-accumulates.
"""

from collections.abc import Sequence

from autoseg.records.network import NetworkSpec
from planners.operations import list_operations


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
