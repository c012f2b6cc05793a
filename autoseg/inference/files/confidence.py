"""What a model without a learnt confidence cannot give, said before the first case.

Tested in tests/stages/test_predict_confidence.py.
"""

import logging

from autoseg.errors import UsageError
from autoseg.records.confidence import Confidence
from autoseg.records.prediction import OutputChoices

logger = logging.getLogger("autoseg.predict")

ORIGIN = (
    "it is learnt from held-out cases when autoseg select chooses a recipe (without --no-confidence), and belongs to "
    "that recipe alone (predict without -c); imported models have none"
)


def check_confidence(confidence: Confidence | None, choices: OutputChoices) -> None:
    """Refuse calibrated probabilities of a model without temperatures; say where statistics lack the expected Dice.

    Raises:
        UsageError: If calibrated probabilities are asked for and the model has no temperatures.
    """
    if choices.calibrated and confidence is None:
        raise UsageError(f"--calibrated: this model has no temperature: {ORIGIN}. Leave --calibrated out.")
    if choices.statistics and (confidence is None or not confidence.expected_dice):
        reason = ORIGIN if confidence is None else "autoseg select had too few held-out cases to learn it from"
        logger.info("statistics without expected Dice: %s", reason)
