"""How many patches a step takes.

Called once per configuration, after the patch size.

Example: 19,174,400 feature-map elements against a reference of 560 million at batch 2 leave room for
round(560 / 19.1744 * 2) = 58 patches; 260 cases of 36 x 50 x 35 voxels and patches of 40 x 56 x 40 allow
round(260 * 63,000 * 0.05 / 89,600) = 9. The batch is 9.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): batch size from what memory the patch leaves.
"""

import math
from collections.abc import Sequence

from autoseg.errors import PlanningError
from planners.rules import Decided
from planners.rules.patch_size import MemoryReference

MIN_BATCH = 2
"""One patch alone makes the gradient too noisy."""

EXCESSIVE_BATCH = {2: 100, 3: 32}
"""Batches from here on are larger than any published training needed, by dimension; the plan says so."""


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
    by_data = round(dataset_voxels * dataset_fraction / math.prod(patch_size))
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
