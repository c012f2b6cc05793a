"""A validation case that is finished while others of its fold are not, so that an interrupted validation resumes.

Tested in tests/stages/test_validate.py.
"""

from autoseg.records.calibration import Calibration
from autoseg.records.evaluation import CaseScores
from autoseg.records.files import Record


class ValidatedCase(Record):
    """What a fold's evaluation needs of one case whose label map is written."""

    origin: str
    """Final weights (SHA-256 of the tensors; of the file where it does not say) and precision of the prediction."""
    scores: CaseScores
    calibration: Calibration
    """Counts of this case alone."""
