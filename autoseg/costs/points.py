"""Operations of a point head in training, and how many points it looks at.

They mirror `autoseg.networks.points`, which takes these numbers from here.

Example: a patch of 128 x 128 x 128 has 32,768 training points; the perceptron keeps three times 64 numbers for each,
besides the 96 that it is given: 9.4 million, a sixth of what one tensor of 32 feature maps at full resolution takes.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from autoseg.costs.operations import Operation
from autoseg.records.network import NetworkSpec, Sizes

TRAINING_VOXELS_PER_POINT: Final = 64
"""Voxels of the patch for each training point. Kirillov et al. take 256 in pictures of 512 x 1024; surfaces of volumes
are a larger part of them."""

PREDICTION_VOXELS_PER_POINT: Final = 8
"""Voxels of a grid for each point that is predicted again on it."""

HIDDEN_LAYERS: Final = 3
"""Layers of the perceptron, as published; as wide as the decoder's finest level."""


def count_training_points(shape: Sequence[int]) -> int:
    """Points of each sample in a training step; shape of the patch."""
    return max(1, math.prod(shape) // TRAINING_VOXELS_PER_POINT)


def count_predicted_points(shape: Sequence[int]) -> int:
    """Points of each sample that are predicted again on a grid of this shape."""
    return max(1, math.prod(shape) // PREDICTION_VOXELS_PER_POINT)


def count_point_features(network: NetworkSpec, widths: Sequence[int]) -> int:
    """Numbers that the perceptron is given for each point; arguments as for `point_operations`."""
    coarse = network.coarse_level
    return sum(width or network.input_channels for width in widths[:coarse]) + network.features[coarse]


def point_operations(network: NetworkSpec, shapes: Sequence[Sizes], widths: Sequence[int]) -> Iterator[Operation]:
    """Operations of a point head in training, for one sample.

    Args:
        network: A network with a point head.
        shapes: Shape of each level, full resolution first.
        widths: Feature maps that the encoder gives at each level; 0 where that is the image, which nothing is kept for.
    """
    points, coarse, finest = count_training_points(shapes[0]), network.coarse_level, shapes[0]
    learnt = [shape for shape, width in zip(shapes[:coarse], widths, strict=False) if width > 0]
    for shape in (*learnt, shapes[coarse]):
        neighbours = 2 ** sum(edge != full for edge, full in zip(shape, finest, strict=True))
        # what is kept are the weights of the neighbours, where there are several, and where they are
        yield Operation("sample", 1, 1, neighbours * points, kept=neighbours > 1)
    hidden, inputs = network.features[coarse], count_point_features(network, widths)
    yield Operation("join", 1, inputs, points)
    for _ in range(HIDDEN_LAYERS):
        yield Operation("linear", inputs, hidden, points)
        inputs = hidden
    yield Operation("head", hidden, network.output_channels, points, kept=False)
