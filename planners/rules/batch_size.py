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

from planners.rules.patch_size import MemoryReference

MINIMUM_BATCH = 2
"""One patch alone makes the gradient too noisy."""

SILLY_BATCH = {2: 100, 3: 32}
"""From here on a batch is larger than any published training needed, by dimension: said so in the plan."""


def choose_batch_size(
    elements: int,
    patch_size: Sequence[int],
    dataset_voxels: float,
    reference: MemoryReference,
    memory_gigabytes: float,
    dataset_share: float,
) -> tuple[int, str]:
    """Fill the memory, but cover no more than a share of the dataset, and take two patches at least.

    Args:
        elements: Feature-map elements of the network, batch 1.
        patch_size: Voxels.
        dataset_voxels: Voxels of all cases at the target spacing, about.
        reference: What fits in 8 GB.
        memory_gigabytes: Training memory of the device.
        dataset_share: Largest part of the dataset's voxels in one batch, (0, 1]; a guard against overfitting.

    Returns:
        The batch size, and the reason.
    """
    by_memory = round(reference.scaled_elements(memory_gigabytes) / elements * reference.batch_size)
    by_data = round(dataset_voxels * dataset_share / math.prod(patch_size))
    batch_size = max(min(by_memory, by_data), MINIMUM_BATCH)
    if batch_size > by_data:
        reason = f"{MINIMUM_BATCH} patches at least, although they cover more than {dataset_share:.0%} of the dataset."
    elif batch_size < by_memory:
        reason = f"The memory has room for {by_memory}, but a batch covers at most {dataset_share:.0%} of the dataset."
    else:
        reason = f"As many patches as {memory_gigabytes:g} GB hold."
    if batch_size >= SILLY_BATCH[len(patch_size)]:
        reason += (
            " nnU-Net's rule; far more than useful, because such patches are small: a smaller batch trains as well."
        )
    return batch_size, reason
