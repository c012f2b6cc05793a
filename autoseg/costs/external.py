"""Networks of other packages: description, patches that they take, and operations with what was counted.

Tested in tests/costs/test_external.py.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from autoseg.costs.operations import Operation
from autoseg.records.external import CostPoint, ExternalNetwork, NetworkCosts, NetworkDeclaration
from autoseg.records.network import NetworkSpec, Sizes

USUAL_DIVISORS = (16, 16, 16)
"""What a network is counted with that takes the planned strides: five levels."""

FEATURES = 32
"""Feature maps at full resolution that a builder is told, doubled from level to level."""

MAX_FEATURES = 320

COUNTED_EDGE = 16
"""Edges of the smallest patch that is counted, where the network takes such a small one; voxels."""

MAX_COUNTED_VOXELS = 2**24


def list_external(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    """Equal operations, as many as were counted, whose sums are what was counted; and the logits.

    Args:
        network: Its costs are known.
        shapes: Shape of each level, full resolution first.

    Raises:
        ValueError: If nothing was counted on it.
    """
    if network.costs is None:
        raise ValueError(f"no costs were counted on {network.network_name}")
    voxels = math.prod(shapes[0])
    largest = _at(network.costs, voxels, lambda point: point.largest_elements)
    kept = max(_at(network.costs, voxels, lambda point: point.kept_elements) - network.input_channels * voxels, 0)
    yield Operation(
        "measured", 1, 1, largest, kept=False,
        measured_macs=_at(network.costs, voxels, lambda point: point.macs),
        measured_parameters=network.costs.parameters,
    )  # fmt: skip
    count = max(network.costs.operations - 1, math.ceil(kept / largest), 1)
    for index in range(count):
        yield Operation("measured", 1, 1, kept * (index + 1) // count - kept * index // count)
    supervised = shapes[:-1] if network.deep_supervision else shapes[:1]
    for shape in reversed(supervised):
        yield Operation("head", 0, network.output_channels, math.prod(shape), bias=False, kept=False)


def _at(costs: NetworkCosts, voxels: int, count: Callable[[CostPoint], int]) -> int:
    """A count on the line through the two measured patches beside so many voxels, or through the nearest two."""
    if len(costs.points) == 1:
        return round(count(costs.points[0]) * voxels / costs.points[0].voxels)
    above = next((i for i, point in enumerate(costs.points) if point.voxels >= voxels), len(costs.points) - 1)
    low, high = costs.points[max(above, 1) - 1], costs.points[max(above, 1)]
    slope = (count(high) - count(low)) / (high.voxels - low.voxels)
    return max(round(count(low) + slope * (voxels - low.voxels)), 1)


def describe_external(
    network: ExternalNetwork,
    inputs: int,
    outputs: int,
    strides: Sequence[Sizes] | None = None,
    kernel_sizes: Sequence[Sizes] | None = None,
) -> NetworkSpec:
    """The `NetworkSpec` of a network of another package, for some data.

    Args:
        network: What is known of it.
        inputs: Channels of the image.
        outputs: Heads.
        strides: Planned strides of each level, where the network takes them; None: as it declares.
        kernel_sizes: Kernels of each level; None: 3 everywhere.
    """
    strides = strides or level_strides(network.declaration.divisors or USUAL_DIVISORS, network.dimensions)
    levels = len(strides)
    return NetworkSpec(
        architecture="external",
        dimensions=network.dimensions,
        input_channels=inputs,
        output_channels=outputs,
        features=tuple(min(FEATURES * 2**level, MAX_FEATURES) for level in range(levels)),
        strides=tuple(strides),
        kernel_sizes=tuple(kernel_sizes or ((3,) * network.dimensions,) * levels),
        encoder_blocks=(2,) * levels,
        decoder_blocks=(2,) * (levels - 1),
        deep_supervision=network.declaration.deep_supervision,
        network_name=network.name,
        network_package=" ".join((network.package, *network.declaration.requires)),
        network_options=network.options,
        costs=network.costs,
    )


def level_strides(divisors: Sequence[int], dimensions: int) -> tuple[Sizes, ...]:
    """Strides of levels whose product is what a network divides; the axes that it divides most come first.

    Args:
        divisors: (z, y, x); the last ones are taken in 2D.
        dimensions: 2 or 3.

    Examples:
        >>> level_strides((2, 4, 4), 3)
        ((1, 1, 1), (1, 2, 2), (2, 2, 2))
        >>> level_strides((14, 14, 14), 2)
        ((1, 1), (14, 14))
    """
    left, strides = list(divisors[-dimensions:]), []
    while any(edge > 1 and edge.bit_count() == 1 for edge in left):
        most = max(edge for edge in left if edge.bit_count() == 1)
        strides.append(tuple(2 if edge == most else 1 for edge in left))
        left = [edge // step for edge, step in zip(left, strides[-1], strict=True)]
    if any(edge > 1 for edge in left) or not strides:
        strides.append(tuple(left))
    return ((1,) * dimensions, *strides)


def patches_to_count(network: ExternalNetwork) -> tuple[Sizes, ...]:
    """Patches on which a network is counted, from small to large."""
    smallest = fit_edges(network.declaration, (COUNTED_EDGE,) * network.dimensions)
    patches = [tuple(edge * factor for edge in smallest) for factor in (1, 2, 3, 4, 6, 8)]
    return (patches[0], *(patch for patch in patches[1:] if math.prod(patch) <= MAX_COUNTED_VOXELS))


def fit_edges(declaration: NetworkDeclaration, edges: Sequence[float]) -> Sizes:
    """The smallest patch of at least these edges that a network takes; the first edge grows where one voxel is left.

    Args:
        declaration: What the network declares.
        edges: (z, y, x) or (y, x), voxels; may be fractional.
    """
    divisors = (declaration.divisors or USUAL_DIVISORS)[-len(edges) :]
    at_least = declaration.smallest_patch[-len(edges) :]
    fitting = tuple(
        math.ceil(max(edge, least) / divisor) * divisor
        for edge, least, divisor in zip(edges, at_least, divisors, strict=True)
    )
    return (2 * fitting[0], *fitting[1:]) if fitting == tuple(divisors) else fitting
