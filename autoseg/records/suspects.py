"""Cases whose reference label maps may be wrong, in suspects.json.

Tested in tests/selection/test_suspects.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from autoseg.records.files import Record
from autoseg.records.names import FileName

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

FaultKind = Literal["shifted", "swapped", "mirrored", "larger", "smaller", "missing", "extra", "unexplained"]
"""What a reference looks like beside the prediction; `missing` and `extra` are said of the reference."""


class Suspect(Record):
    """One validation case whose reference and prediction differ more than the prediction's confidence explains."""

    case: FileName
    score: NonNegativeFloat
    """How suspicious the case is: `deviation` times 1 plus the Dice that undoing the fault restores, at most 1."""
    deviation: NonNegativeFloat
    """Robust standard deviations by which the Dice of `label`, as a logit, is below what is expected."""
    label: str
    """Label or region that deviates most."""
    dice: Fraction
    """Dice of that label."""
    expected_dice: Fraction
    """Dice that cases of the same confidence have."""
    kind: FaultKind
    reason: str
    """What is wrong, in words."""


class Suspects(Record):
    """Suspects among the validation cases of the selected model, the most suspicious one first."""

    schema_version: Literal[1] = 1
    num_cases: NonNegativeInt
    """Validation cases that were looked at."""
    suspects: tuple[Suspect, ...]
