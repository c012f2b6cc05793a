"""Unlabelled cases that are worth labelling next, in suggestions.json.

Tested in tests/stages/test_suggest.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from autoseg.records.files import Record
from autoseg.records.names import FileName

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class CaseSigns(Record):
    """What a model's prediction says of an unlabelled case; kept in a file of its own, so that a run resumes."""

    case: FileName
    origin: str
    """Hash of weights, settings and images."""
    uncertainty: Fraction
    """Mean entropy where the model sees foreground or is uncertain, as a fraction of the largest possible one."""
    disagreement: Fraction | None
    """Fraction of the foreground on which single networks, or mirrored variants of one network, differ from the whole;
    None: one network without mirrored variants."""
    expected_dice: Fraction | None
    """Lowest expected Dice of its labels; None: not learnt."""
    features: dict[str, tuple[float, ...]]
    """What the case looks like, by kind of feature; equally many for all cases."""


class Suggestion(Record):
    """A case to label next."""

    rank: PositiveInt
    case: FileName
    images: tuple[str, ...]
    """Its image files, as found."""
    score: Fraction
    """Product of how little the model knows of it (mean rank of uncertainty and disagreement) and of `distance`."""
    uncertainty: Fraction
    disagreement: Fraction | None
    expected_dice: Fraction | None
    distance: Fraction
    """Distance to the nearest case suggested before, as a fraction of the largest distance from the first one."""
    reason: str


class Suggestions(Record):
    """Cases to label next, the first one first."""

    schema_version: Literal[1] = 1
    num_cases: NonNegativeInt
    """Unlabelled cases that were compared."""
    suggestions: tuple[Suggestion, ...]
    signs: tuple[CaseSigns, ...]
    """What was measured of all cases."""
