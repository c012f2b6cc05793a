"""How often predicted probabilities came true: counts that can be added up over cases and folds.

Tested in tests/inference/sinks/test_calibration.py.
"""

from typing import Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, model_validator

from autoseg.records.files import FieldFault, Record, refuse_faults

NUM_BINS = 20
"""Number of bins of equal width, from probability 0 to 1; the first one stays empty."""


class CalibrationCounts(Record):
    """One label or region; an entry per bin of its predicted probability.

    Voxels below probability 1 / NUM_BINS are left out: nearly all are background far away, and would hide the rest.
    The choice depends on the prediction alone, so it does not bend the comparison.
    """

    voxels: tuple[NonNegativeInt, ...]
    probability_sums: tuple[NonNegativeFloat, ...]
    """Sum of the predicted probabilities."""
    label_voxels: tuple[NonNegativeInt, ...]
    """Voxels that truly have the label."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults: list[FieldFault] = [
            ((name,), f"{len(getattr(self, name))} entries, expected {NUM_BINS}: one per bin")
            for name in ("voxels", "probability_sums", "label_voxels")
            if len(getattr(self, name)) != NUM_BINS
        ]
        refuse_faults(faults)
        return self


class Calibration(Record):
    """Validation cases of one fold, before any post-processing; voxels with the ignore value are left out."""

    schema_version: Literal[1] = 1
    labels: dict[str, CalibrationCounts]
    """Foreground labels or regions by name."""
