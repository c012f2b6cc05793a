"""Which images are adapted to the training images before they are predicted, and what is said about it.

Tested in tests/stages/test_predict_adapted.py.
"""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from autoseg.errors import UsageError
from autoseg.inference.models.image_statistics import has_statistics
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor.contrast import NO_ADAPTING, Adapting
from autoseg.inference.predictor.training_range import TrainingRange
from autoseg.records.contrast import Adaptation
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.predict")

DONE_TO_IMAGES: Mapping[Adaptation, str] = MappingProxyType(
    {
        "histogram": "intensities are matched to those of the training images",
        "statistics": "networks take half of their statistics of normalisation from the image",
    }
)
"""What happens, by adaptation."""


def choose_adapting(
    workspace: Workspace,
    members: Sequence[LoadedConfiguration],
    training: TrainingRange | None,
    asked: Adaptation | None,
    allowed: Adaptation,
) -> Adapting:
    """Choose how images are adapted and which ones, and log it if there may be any.

    Args:
        workspace: The model, for messages.
        members: Its networks.
        training: What is known of the training images; None: nothing.
        asked: What the user asked for; None: nothing.
        allowed: What cross-validation allowed.

    Raises:
        UsageError: If it was asked for, and the model does not know the contrast of its training images, or has no
            statistics.
    """
    is_known = training is not None and bool(training.contrasts)
    if asked == "histogram" and not is_known:
        raise UsageError(
            f"{workspace.fingerprint}: has no contrasts of the training images, which --adapt histogram needs: the "
            "model was planned by an earlier version, or imported. Predict without --adapt, or plan the dataset again "
            "with autoseg-plan and the same options."
        )
    if asked == "statistics" and not has_statistics(members):
        raise UsageError(
            f"{workspace.root}: its networks normalise every image by itself and keep no statistics, which --adapt "
            "statistics would take from the image. Predict with --adapt histogram, or without --adapt."
        )
    if asked is not None and asked != "none":
        logger.info("all images: %s (off: --adapt none)", DONE_TO_IMAGES[asked])
        return Adapting(asked)
    if asked is None and allowed != "none" and is_known:
        logger.info(
            "images with another contrast than the training images: %s (off: --adapt none)", DONE_TO_IMAGES[allowed]
        )
        return Adapting(allowed, only_unlike=True)
    return NO_ADAPTING
