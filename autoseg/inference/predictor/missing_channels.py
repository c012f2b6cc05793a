"""Which channels an image lacks that is to be predicted, and what is said of it."""

import logging

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.absent_channels import find_absent_channels
from autoseg.records.plan import Plan

logger = logging.getLogger("autoseg.predict")


def may_lack_channels(plan: Plan) -> bool:
    """Whether images of a model may lack channels: all of its networks were trained for that."""
    return all(settings.channel_presence for settings in plan.configurations.values())


def find_missing_channels(image: NDArray[np.float32], plan: Plan) -> tuple[int, ...]:
    """Numbers of the channels that an image (C, Z, Y, X) lacks; none where the model needs all of them."""
    return find_absent_channels(image) if may_lack_channels(plan) else ()


def check_presence(image: NDArray[np.float32], case: str, plan: Plan, log_level: int = logging.INFO) -> tuple[int, ...]:
    """Numbers of the channels that an image lacks, which are logged; none where the model needs all of them.

    Args:
        image: (C, Z, Y, X), zeros where the image lacks a channel.
        case: Case id for messages.
        plan: Plan of the model.
        log_level: Level of the sentence.

    Raises:
        PredictionError: If it has no channel at all.
    """
    missing = find_missing_channels(image, plan)
    if not missing:
        return ()
    absent = ", ".join(plan.channel_names[channel] for channel in missing)
    if len(missing) == len(image):
        raise PredictionError(
            f"every channel of the image is missing or 0 everywhere: {absent}. Give an image of one of them at least."
        )
    present = ", ".join(name for channel, name in enumerate(plan.channel_names) if channel not in missing)
    logger.log(log_level, "%s: predicted from %s; without %s", case, present, absent)
    return missing
