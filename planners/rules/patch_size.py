"""How large a patch the network sees, given the memory of the device.

Called once per configuration, and repeatedly while a low resolution is looked for.

Example: target spacing 1 x 1 x 1 mm, median shape 138 x 169 x 138. The first guess is 256 x 256 x 256, cut to the
median and padded to 160 x 192 x 160. Its network has more than 560 million feature-map elements, so the axis that is
largest relative to the median shrinks again and again; 128 x 128 x 128 is the first patch that fits 8 GB.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): patch size as large as the memory allows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import PlanningError
from planners.rules.topology import Topology, compute_topology, pad_to_two_levels

INITIAL_VOXELS = {2: 2048**2, 3: 256**3}
"""Voxels of the first guess by dimension: more than any device of today takes."""

REFERENCE_GIGABYTES = 8.0
"""The memory for which the references were measured; others scale linearly."""


@dataclass(frozen=True)
class MemoryReference:
    """What fits in 8 GB: a network with so many feature-map elements at such a batch size."""

    elements: float
    batch_size: int
    guaranteed_batch: int = 2
    """Smallest batch that must fit; the patch shrinks until it does."""

    def scaled_elements(self, memory_gigabytes: float) -> float:
        """Elements that fit in another memory at the reference batch size."""
        return self.elements * (memory_gigabytes / REFERENCE_GIGABYTES)

    def share(self, elements: int) -> float:
        """Elements of the smallest batch, counted in reference batches."""
        return elements / self.batch_size * self.guaranteed_batch


def choose_initial_patch(spacing: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """A cube (square) in mm of the initial volume, cut to the median shape.

    Args:
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels at that spacing.

    Returns:
        Voxels, fractional where the median is.
    """
    density = 1 / np.array(spacing, dtype=np.float64)
    dimensions = len(spacing)
    edges = density * (INITIAL_VOXELS[dimensions] / np.prod(density)) ** (1 / dimensions)
    return tuple(float(min(round(edge), size)) for edge, size in zip(edges, median_shape, strict=True))


def fit_patch(
    spacing: Sequence[float],
    median_shape: Sequence[float],
    reference: MemoryReference,
    memory_gigabytes: float,
    count_elements: Callable[[Topology], int],
) -> Topology:
    """Shrink the first guess until the smallest batch fits in memory.

    Args:
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels at that spacing.
        reference: What fits in 8 GB.
        memory_gigabytes: Training memory of the device.
        count_elements: Feature-map elements of the network with a given topology, batch 1.

    Returns:
        The first topology on the way down that fits.

    Raises:
        PlanningError: If none fits; names the smallest memory that would do.
    """
    limit = reference.scaled_elements(memory_gigabytes)
    initial = choose_initial_patch(spacing, median_shape)
    topology: Topology | None = compute_topology(spacing, pad_to_two_levels(spacing, initial))
    smallest = math.inf
    seen: set[tuple[int, ...]] = set()
    while topology is not None:
        share = reference.share(count_elements(topology))
        if share <= limit:
            return topology
        smallest = min(smallest, share)
        seen.add(topology.patch_size)
        topology = _shrink(spacing, median_shape, topology, seen)
    needed = math.ceil(smallest / reference.elements * REFERENCE_GIGABYTES * 1000) / 1000
    raise PlanningError(
        f"No {len(spacing)}D network fits in {memory_gigabytes:g} GB: the smallest one needs a memory budget of "
        f"{needed:g} GB. Plan with a larger --memory."
    )


def explain_patch(patch_size: Sequence[int], median_shape: Sequence[float], memory_gigabytes: float) -> str:
    """One sentence: how much of the median image the patch sees, and why not more."""
    if all(edge >= size for edge, size in zip(patch_size, median_shape, strict=True)):
        return "The whole median image, padded to what the network can divide; memory does not limit it."
    covered = min(math.prod(patch_size) / math.prod(median_shape), 1.0)
    return (
        f"The largest patch of about the image's proportions that fits {memory_gigabytes:g} GB; "
        f"it covers {covered:.0%} of the median image."
    )


def _shrink(
    spacing: Sequence[float], median_shape: Sequence[float], topology: Topology, seen: set[tuple[int, ...]]
) -> Topology | None:
    """Shorten the axis that is longest relative to the median, the last of equals; the next one where it cannot be."""
    ratios = [edge / size for edge, size in zip(topology.patch_size, median_shape, strict=True)]
    for axis in sorted(range(len(ratios)), key=lambda axis: (ratios[axis], axis), reverse=True):
        shorter = _shorten(spacing, topology, axis)
        if shorter is not None and shorter.patch_size not in seen:
            return shorter
    return None


def _shorten(spacing: Sequence[float], topology: Topology, axis: int) -> Topology | None:
    """Take one divisor off an axis; None when nothing would be left to pool.

    The divisor is that of the shorter patch: a shorter axis pools less often, so its sizes lie closer together.
    """
    patch_size = list(topology.patch_size)
    tentative = list(patch_size)
    tentative[axis] -= topology.divisors[axis]
    patch_size[axis] -= compute_topology(spacing, tentative).divisors[axis]
    if patch_size[axis] < 1:
        return None
    shorter = compute_topology(spacing, patch_size)
    return shorter if shorter.levels > 1 else None
