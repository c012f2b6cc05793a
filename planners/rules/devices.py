"""How a batch and its learning rate grow when several devices train one network together.

Called for each configuration when a plan is made for more than one device. Patch and batch are first decided for one
device, whose memory limits them; then every device takes that batch, as far as the dataset has enough voxels.

Example: one device trains patches of 128 x 128 x 128 with batch 2 and sgd at a rate of 0.01. Four of them train with
batch 8, 2 on each, at a rate of 0.01 * sqrt(8 / 2) = 0.02, with as many steps as one device.

References:
    Hoffer et al., "Train longer, generalize better", NeurIPS 2017: with the number of updates kept, a rate that grows
    with the square root of the batch keeps the covariance of the updates, and closes the gap of large batches. Malladi
    et al., "On the SDEs and scaling rules for adaptive gradient algorithms", NeurIPS 2022: the same root for Adam. The
    linear rule (Goyal et al. 2017) is for fewer updates. Nothing of this was measured by this project.
"""

import math

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.training import TrainingSpec
from planners.rules import Decided


def largest_share(batch_size: int, devices: int) -> int:
    """Patches of a batch that the device with most of them takes."""
    return math.ceil(batch_size / devices)


def spread_batch(single: Decided[int], devices: int, by_data: int) -> Decided[int]:
    """The batch of all devices together, the same number of patches on each.

    Args:
        single: What one device takes.
        devices: How many there are.
        by_data: Patches that the dataset allows in a batch.
    """
    if devices == 1:
        return single
    share = max(min(single.value, by_data // devices), 1)
    reason = f"{share} on each of {devices} devices. For one device: {single.reason}"
    if share * devices > by_data:
        reason += " One on each at least, although they cover more of the dataset than one device may."
    elif share < single.value:
        reason += f" More than {by_data} in all would cover too much of the dataset."
    return Decided(share * devices, reason)


def check_asked_batch(asked: int, devices: int) -> None:
    """Refuse a batch that leaves a device without a patch.

    Raises:
        PlanningError: Names the smallest batch that would do.
    """
    if asked < devices:
        raise PlanningError(
            f"--batch-size {asked} with --devices {devices}: each device needs a patch of every batch. Give "
            f"--batch-size {devices} or more, or fewer devices."
        )


def timed_batch(budget: Budget, share: int) -> int:
    """Patches whose computation takes the time of a step: GPUs work side by side, processes share a CPU's cores."""
    return share if budget.device != "cpu" else share * budget.devices


def scale_rate(training: TrainingSpec, batch_size: int, single: int) -> Decided[TrainingSpec]:
    """The schedule with the rate for a batch that several devices have made larger.

    Args:
        training: Schedule for one device.
        batch_size: Patches of all devices.
        single: Patches that one device would take.
    """
    if batch_size <= single:
        return Decided(training, "That of one device, whose batch is no smaller.")
    rate = training.learning_rate * math.sqrt(batch_size / single)
    return Decided(
        training.model_copy(update={"learning_rate": rate}),
        f"{training.learning_rate:g} for a batch of {single}, times the square root of {batch_size} / {single}: with "
        "as many steps, updates vary as with the smaller batch (Hoffer et al. 2017). --lr of the training overrides.",
    )
