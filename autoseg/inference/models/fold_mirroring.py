"""What the folds of a configuration have in common in mirroring, because their logits are averaged first."""

import logging
from collections.abc import Sequence

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import LabelEncoding
from autoseg.records.sides import SideSwap, find_side_swap

logger = logging.getLogger("autoseg.predict")


def common_mirroring(
    name: str, checkpoints: Sequence[Checkpoint], encoding: LabelEncoding
) -> tuple[tuple[int, ...], SideSwap | None]:
    """Axes that every fold mirrored in training, and the labels that change places.

    Folds that swap other labels, or none, do not have the axis from left to right in common.

    Args:
        name: Name of the configuration, for the log.
        checkpoints: Records of the folds' weights, at least one.
        encoding: Labels of the plan.

    Returns:
        Axes of the patch, and the swap; it is known even where that axis was not mirrored.
    """
    axes = [set(record.training.mirror_axes) for record in checkpoints]
    sides = [record.training.sides for record in checkpoints]
    differing = {each.axis for each in sides if each is not None} if len(set(sides)) > 1 else set()
    common = tuple(sorted(set.intersection(*axes) - differing))
    if any(mirrored != set(common) for mirrored in axes):
        logger.info(
            "the folds of %s were not all mirrored alike in training; mirroring at prediction: %s",
            name, f"axes {', '.join(map(str, common))}" if common else "none",
        )  # fmt: skip
    if sides[0] is None or differing:
        return common, None
    return common, find_side_swap(sides[0].axis, sides[0].pairs, encoding)
