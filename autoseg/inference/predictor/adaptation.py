"""Which images are adapted to the training images before they are predicted, and what is said about it.

Tested in tests/stages/test_predict_adapted.py.
"""

import logging

from autoseg.errors import UsageError
from autoseg.inference.predictor.contrast import Adapting
from autoseg.inference.predictor.training_range import TrainingRange
from autoseg.records.contrast import Adaptation
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.predict")


def choose_adapting(
    workspace: Workspace, training: TrainingRange | None, asked: Adaptation | None, allowed: Adaptation
) -> Adapting:
    """Choose the images whose intensities are matched, and log it if there may be any.

    Args:
        workspace: The model, for messages.
        training: What is known of the training images; None: nothing.
        asked: What the user asked for; None: nothing.
        allowed: What cross-validation allowed.

    Raises:
        UsageError: If it was asked for, and the model does not know the contrast of its training images.
    """
    is_known = training is not None and bool(training.contrasts)
    if asked == "histogram" and not is_known:
        raise UsageError(
            f"{workspace.fingerprint}: has no contrasts of the training images, which --adapt histogram needs: the "
            "model was planned by an earlier version, or imported. Predict without --adapt, or plan the dataset again "
            "with autoseg-plan and the same options."
        )
    if asked == "histogram":
        logger.info("intensities of all images are matched to those of the training images (off: --adapt none)")
        return "always"
    if asked is None and allowed == "histogram" and is_known:
        logger.info("images with another contrast are matched to the training images (off: --adapt none)")
        return "unlike"
    return "never"
