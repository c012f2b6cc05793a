"""How large a patch the network sees and how many patches a step takes, given the memory of the device.

Called once per configuration, the patch before the batch; the patch also repeatedly while a low resolution is looked
for.

Example of a patch: target spacing 1 x 1 x 1 mm, median shape 138 x 169 x 138. The first guess is 256 x 256 x 256, cut
to the median and padded to 160 x 192 x 160. Its network has more than 560 million feature-map elements, so the axis
that is largest relative to the median shrinks again and again; 128 x 128 x 128 is the first patch that fits 8 GB.

Example of a batch: 19,174,400 feature-map elements against a reference of 560 million at batch 2 leave room for
round(560 / 19.1744 * 2) = 58 patches; 260 cases of 36 x 50 x 35 voxels and patches of 40 x 56 x 40 allow
round(260 * 63,000 * 0.05 / 89,600) = 9. The batch is 9.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): patch size as large as the memory allows, batch size from what
    memory the patch leaves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import BudgetError, PlanningError
from planners.rules import Decided
from planners.rules.topology import Depth, Topology, compute_topology, pad_to_two_levels

INITIAL_VOXELS = {2: 2048**2, 3: 256**3}
"""Voxels of the first guess by dimension: more than any device of today takes."""

MIN_BATCH = 2
"""One patch alone makes the gradient too noisy."""

EXCESSIVE_BATCH = {2: 100, 3: 32}
"""Batches from here on are larger than any published training needed, by dimension; the plan says so."""

ESTIMATE_TOLERANCE = 1.15
"""The estimate of training memory may be too high by so much."""


@dataclass(frozen=True)
class MemoryReference:
    """What fits in a memory: a network with so many feature-map elements at such a batch size."""

    elements: float
    batch_size: int
    gigabytes: float = 8.0
    """The memory for which it was measured; others scale linearly."""
    guaranteed_batch: int = 2
    """Smallest batch that must fit; the patch shrinks until it does."""

    def scaled_elements(self, memory_gigabytes: float) -> float:
        """Elements that fit in another memory at the reference batch size."""
        return self.elements * (memory_gigabytes / self.gigabytes)

    def needed_gigabytes(self, reference_elements: float) -> float:
        """Memory in which so many elements at the reference batch size fit, rounded up to a thousandth."""
        return math.ceil(reference_elements / self.elements * self.gigabytes * 1000) / 1000

    def reference_elements(self, elements: int) -> float:
        """Elements per patch at the reference batch size that need as much memory as the guaranteed batch does."""
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
    depth: Depth = None,
) -> Topology:
    """Shrink the first guess until the smallest batch fits in memory.

    Args:
        spacing: (z, y, x) or (y, x), mm.
        median_shape: Same axes, voxels at that spacing.
        reference: What fits in its memory.
        memory_gigabytes: Training memory of the device.
        count_elements: Feature-map elements of the network with a given topology, batch 1.
        depth: How deep the network is.

    Returns:
        The first topology on the way down that fits.

    Raises:
        BudgetError: If none fits; names the smallest memory that would do.
    """
    limit = reference.scaled_elements(memory_gigabytes)
    initial = choose_initial_patch(spacing, median_shape)
    topology: Topology | None = compute_topology(spacing, pad_to_two_levels(spacing, initial), depth)
    smallest = math.inf
    seen: set[tuple[int, ...]] = set()
    while topology is not None:
        needed_elements = reference.reference_elements(count_elements(topology))
        if needed_elements <= limit:
            return topology
        smallest = min(smallest, needed_elements)
        seen.add(topology.patch_size)
        topology = _shrink(spacing, median_shape, topology, seen, depth)
    needed = reference.needed_gigabytes(smallest)
    raise BudgetError(
        f"No {len(spacing)}D network fits in {memory_gigabytes:g} GB: the smallest one needs a memory budget of "
        f"{needed:.10g} GB. Plan with a larger --memory.",
        "--memory",
        needed,
    )


def take_patch(
    asked: Sequence[int],
    spacing: Sequence[float],
    reference: MemoryReference,
    memory_gigabytes: float,
    count_elements: Callable[[Topology], int],
    depth: Depth = None,
) -> Topology:
    """The user's own patch, enlarged to what its network can divide.

    Args:
        asked: (z, y, x) or (y, x), voxels.
        spacing: Same axes, mm.
        reference: What fits in its memory.
        memory_gigabytes: Training memory of the device.
        count_elements: Feature-map elements of the network with a given topology, batch 1.
        depth: How deep the network is.

    Raises:
        PlanningError: If it is too small for a network of two levels, or its smallest batch does not fit; names the
            memory that would do.
    """
    topology = compute_topology(spacing, asked, depth)
    if topology.levels < 2:
        raise PlanningError(
            f"--patch-size {_text(asked)} is too small: no axis is long enough to be pooled. "
            f"At least {_text([math.ceil(edge) for edge in pad_to_two_levels(spacing, asked)])} is needed."
        )
    needed_elements = reference.reference_elements(count_elements(topology))
    if needed_elements > reference.scaled_elements(memory_gigabytes):
        raise PlanningError(
            f"--patch-size {_text(asked)} does not fit in {memory_gigabytes:g} GB at batch "
            f"{reference.guaranteed_batch}: it needs a memory budget of "
            f"{reference.needed_gigabytes(needed_elements):.10g} GB. "
            "Take a smaller patch, or plan with a larger --memory."
        )
    return topology


def explain_patch(patch_size: Sequence[int], median_shape: Sequence[float], memory_gigabytes: float) -> str:
    """One sentence: how much of the median image the patch sees, and why not more."""
    if all(edge >= size for edge, size in zip(patch_size, median_shape, strict=True)):
        return "The whole median image, padded to what the network can divide; memory does not limit it."
    covered = min(math.prod(patch_size) / math.prod(median_shape), 1.0)
    return (
        f"The largest patch of about the image's proportions that fits {memory_gigabytes:g} GB; "
        f"it covers {covered:.0%} of the median image."
    )


def explain_asked_patch(asked: Sequence[int], patch_size: Sequence[int]) -> str:
    """One sentence: that the user chose it, and what was added."""
    if tuple(asked) == tuple(patch_size):
        return "Requested."
    return f"Requested {_text(asked)}; enlarged to a multiple of the network's total stride."


def _text(sizes: Sequence[int]) -> str:
    return " ".join(str(size) for size in sizes)


def _shrink(
    spacing: Sequence[float],
    median_shape: Sequence[float],
    topology: Topology,
    seen: set[tuple[int, ...]],
    depth: Depth,
) -> Topology | None:
    """Shorten the axis that is longest relative to the median, the last of equals; the next one where it cannot be."""
    ratios = [edge / size for edge, size in zip(topology.patch_size, median_shape, strict=True)]
    for axis in sorted(range(len(ratios)), key=lambda axis: (ratios[axis], axis), reverse=True):
        shorter = _shorten(spacing, topology, axis, depth)
        if shorter is not None and shorter.patch_size not in seen:
            return shorter
    return None


def _shorten(spacing: Sequence[float], topology: Topology, axis: int, depth: Depth) -> Topology | None:
    """Take one divisor off an axis; None when nothing would be left to pool.

    The divisor is that of the shorter patch: a shorter axis pools less often, so its sizes lie closer together.
    """
    patch_size = list(topology.patch_size)
    tentative = list(patch_size)
    tentative[axis] -= topology.divisors[axis]
    patch_size[axis] -= compute_topology(spacing, tentative, depth).divisors[axis]
    if patch_size[axis] < 1:
        return None
    shorter = compute_topology(spacing, patch_size, depth)
    return shorter if shorter.levels > 1 else None


def count_patches_of_data(patch_size: Sequence[int], dataset_voxels: float, dataset_fraction: float) -> int:
    """Patches that cover no more than a fraction of the dataset; arguments as for `choose_batch_size`."""
    return round(dataset_voxels * dataset_fraction / math.prod(patch_size))


def choose_batch_size(
    elements: int,
    patch_size: Sequence[int],
    dataset_voxels: float,
    dataset_fraction: float,
    reference: MemoryReference,
    memory_gigabytes: float,
) -> Decided[int]:
    """Fill the memory, but cover no more than a fraction of the dataset, and take two patches at least.

    Args:
        elements: Feature-map elements of the network, batch 1.
        patch_size: Voxels.
        dataset_voxels: Voxels of all cases at the target spacing, about.
        dataset_fraction: Largest part of the dataset's voxels in one batch, (0, 1]; a guard against overfitting.
        reference: What fits in its memory.
        memory_gigabytes: Training memory of the device.
    """
    by_memory = round(reference.scaled_elements(memory_gigabytes) / elements * reference.batch_size)
    by_data = count_patches_of_data(patch_size, dataset_voxels, dataset_fraction)
    batch_size = max(min(by_memory, by_data), MIN_BATCH)
    if batch_size > by_data:
        reason = f"{MIN_BATCH} patches at least, although they cover more than {dataset_fraction:.0%} of the dataset."
    elif batch_size < by_memory:
        reason = (
            f"The memory has room for {by_memory}, but a batch covers at most {dataset_fraction:.0%} of the dataset."
        )
    else:
        reason = f"As many patches as {memory_gigabytes:g} GB hold."
    if batch_size >= EXCESSIVE_BATCH[len(patch_size)]:
        reason += (
            " nnU-Net's rule; far more than useful, because such patches are small: a smaller batch trains as well."
        )
    return Decided(batch_size, reason)


def cap_batch_size(batch_size: Decided[int], max_batch: int) -> Decided[int]:
    """Limit a batch to so many patches, for planners that do not follow nnU-Net where a batch is larger than useful."""
    if batch_size.value <= max_batch:
        return batch_size
    return Decided(
        max_batch,
        f"nnU-Net's rule gives {batch_size.value}, but more than {max_batch} patches per step add little and cost "
        "time in proportion.",
    )


def take_batch_size(asked: int, elements: int, reference: MemoryReference, memory_gigabytes: float) -> Decided[int]:
    """The user's own batch size.

    Raises:
        PlanningError: If it does not fit the memory; names the memory that would do.
    """
    needed_elements = elements / reference.batch_size * asked
    if needed_elements > reference.scaled_elements(memory_gigabytes):
        raise PlanningError(
            f"--batch-size {asked} does not fit in {memory_gigabytes:g} GB: it needs a memory budget of "
            f"{reference.needed_gigabytes(needed_elements):.10g} GB. Take fewer, or plan with a larger --memory."
        )
    return Decided(asked, "Requested.")


def check_adopted_memory(smallest_bytes: Mapping[str, int], memory_gigabytes: float) -> None:
    """Refuse a model whose smallest batch does not fit, as far as the estimate can tell.

    Args:
        smallest_bytes: Estimated training memory by configuration.
        memory_gigabytes: Training memory of the device.

    Raises:
        PlanningError: Names the memory that would do for all configurations.
    """
    needed = max(smallest_bytes.values(), default=0) / 1e9 / ESTIMATE_TOLERANCE
    if needed > memory_gigabytes:
        largest = max(smallest_bytes, key=lambda name: smallest_bytes[name])
        raise PlanningError(
            f"The model's {largest} does not fit in {memory_gigabytes:g} GB: it needs a memory budget of "
            f"{math.ceil(needed * 1000) / 1000:.10g} GB. Take a smaller --patch-size, or plan with a larger --memory."
        )
