"""How deep a network is, where it pools, and which kernels it has, for one patch.

Called for every patch size that a planner considers.

Example: a patch of 20 x 256 x 224 voxels at 5 x 1.5625 x 1.5625 mm pools in plane first (strides 1 x 2 x 2, kernels
1 x 3 x 3), then twice along all axes once the spacings are within a factor of 2 (5, 3.125, 3.125), and in plane
again when 20 has become 5: strides 111, 122, 222, 222, 122, 122; the patch must be divisible by 4 x 32 x 32.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): dynamic adaptation of the network topology.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoseg.errors import PlanningError
from autoseg.records.network import NetworkSpec
from planners.rules import Decided

MIN_EDGE = 4
"""Voxels of a pooled feature map per axis: pooling further leaves the bottleneck nothing to look at."""

SINGLE_AXIS_FACTOR = 3
"""An axis is pooled alone only from this many minimum edges on; a level for one short axis is not worth it."""

SIMILAR_SPACING = 2.0
"""Axes whose spacings differ by less than this factor are pooled together and convolved with kernel 3."""

BASE_FEATURES = 32
"""Feature maps at full resolution; doubled at each level."""

FEATURE_CAPS = {2: 512, 3: 320}
"""Most feature maps by dimension, at 32 base features: limits parameters where levels have hardly any voxels."""


@dataclass(frozen=True)
class Topology:
    """Levels of a network, and the patch padded so that they fit."""

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    """Per level; ones at level 0."""
    kernel_sizes: tuple[tuple[int, ...], ...]
    """Per level."""
    divisors: tuple[int, ...]
    """Total stride per axis; divides the patch size."""

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.strides)


@dataclass(frozen=True)
class FixedLevels:
    """Levels of a network that its package has decided."""

    strides: tuple[tuple[int, ...], ...]
    """Per level; ones at level 0."""
    fit: Callable[[Sequence[float]], tuple[int, ...]]
    """Edges of a patch -> the smallest patch of at least these edges that the network takes."""

    def topology(self, patch_size: Sequence[float]) -> Topology:
        """The levels for a patch, which is padded to what the network takes."""
        dimensions = len(patch_size)
        divisors = tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(dimensions))
        return Topology(self.fit(patch_size), self.strides, ((3,) * dimensions,) * len(self.strides), divisors)


Depth = int | FixedLevels | None
"""How deep a network is: so many levels at most, as its package has decided, or as deep as the patch allows (None)."""


def compute_topology(spacing: Sequence[float], patch_size: Sequence[float], depth: Depth = None) -> Topology:
    """Pool axes of similar spacing together until their edges would fall below the minimum.

    Args:
        spacing: (z, y, x) or (y, x), mm.
        patch_size: Same axes, voxels; may be fractional, and is padded up to what the network can divide.
        depth: How deep the network is.

    Returns:
        The topology; a single level when no axis is long enough to be pooled.
    """
    if isinstance(depth, FixedLevels):
        return depth.topology(patch_size)
    size, current = list(patch_size), list(spacing)
    dimensions = len(size)
    kernel = [1] * dimensions
    strides: list[tuple[int, ...]] = [(1,) * dimensions]
    kernels: list[tuple[int, ...]] = []
    while (depth is None or len(strides) < depth) and (pooled := _axes_to_pool(current, size)):
        # An axis is convolved once it is about as well resolved as the best one, and from then on.
        for axis in range(dimensions):
            if current[axis] / min(current) < SIMILAR_SPACING:
                kernel[axis] = 3
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in range(dimensions)))
        for axis in pooled:
            current[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append((3,) * dimensions)
    divisors = tuple(math.prod(stride[axis] for stride in strides) for axis in range(dimensions))
    padded = tuple(math.ceil(edge / divisor) * divisor for edge, divisor in zip(patch_size, divisors, strict=True))
    return Topology(padded, tuple(strides), tuple(kernels), divisors)


def _axes_to_pool(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    long_enough = [axis for axis, edge in enumerate(size) if edge >= 2 * MIN_EDGE]
    if not long_enough:
        return []
    finest = min(spacing[axis] for axis in long_enough)
    pooled = [axis for axis in long_enough if spacing[axis] / finest < SIMILAR_SPACING]
    if len(pooled) == 1 and size[pooled[0]] < SINGLE_AXIS_FACTOR * MIN_EDGE:
        return []
    return pooled


def describe_levels(topology: Topology, depth: Depth) -> Decided[int]:
    """The number of levels, and why there are not more: how often each axis is halved."""
    halved = ", ".join(str(divisor.bit_length() - 1) for divisor in topology.divisors)
    reason = f"The axes are halved {halved} times, until the next halving would leave fewer than {MIN_EDGE} voxels"
    if isinstance(depth, FixedLevels):
        reason = "What the network's package declares"
    elif topology.levels == depth:
        reason = f"The axes are halved {halved} times, which is as deep as this network is meant to be"
    elif len(set(topology.strides[1:])) > 1:
        reason += "; the axes of finer spacing first, so that all become alike"
    return Decided(topology.levels, f"{reason}.")


def pad_to_two_levels(spacing: Sequence[float], patch_size: Sequence[float]) -> tuple[float, ...]:
    """Enlarge a patch that is too small to be pooled even once; other patches come back as they are.

    A U-Net needs two levels; nnU-Net fails on such images.
    """
    if compute_topology(spacing, patch_size).levels > 1:
        return tuple(patch_size)
    similar = [axis for axis, value in enumerate(spacing) if value / min(spacing) < SIMILAR_SPACING]
    smallest = MIN_EDGE * (2 if len(similar) > 1 else SINGLE_AXIS_FACTOR)
    return tuple(max(edge, smallest) if axis in similar else edge for axis, edge in enumerate(patch_size))


def features_per_level(levels: int, dimensions: int, base_features: int = BASE_FEATURES) -> tuple[int, ...]:
    """Feature maps per level: doubled from level to level up to a cap, which shrinks with the base."""
    cap = FEATURE_CAPS[dimensions] * base_features // BASE_FEATURES
    return tuple(min(cap, base_features * 2**level) for level in range(levels))


def adopt_topology(network: NetworkSpec, patch_size: Sequence[int]) -> Topology:
    """The model's levels, and a patch enlarged to what they can divide.

    Raises:
        PlanningError: If the patch would leave one voxel at the lowest level.
    """
    divisors = tuple(math.prod(stride[axis] for stride in network.strides) for axis in range(network.dimensions))
    padded = tuple(math.ceil(edge / divisor) * divisor for edge, divisor in zip(patch_size, divisors, strict=True))
    if padded == divisors:
        raise PlanningError(
            f"--patch-size {' '.join(map(str, patch_size))} leaves one voxel at the lowest level of the network, "
            f"whose total stride is {' '.join(map(str, divisors))}; take more along one axis at least."
        )
    return Topology(padded, network.strides, network.kernel_sizes, divisors)
