"""The recipe that prediction follows by default.

Tested in tests/stages/test_select.py.
"""

from typing import Annotated, Literal

from pydantic import Field

from autoseg.records.files import Record
from autoseg.records.postprocessing import PostprocessingStep
from autoseg.records.refinement import Refinement

Interval = tuple[float, float]
"""Lower and upper bound; 95 % of bootstrap samples of the cases lie between them."""


class Candidate(Record):
    """A configuration or ensemble that can be selected, with its cross-validated score."""

    configurations: tuple[str, ...]
    """Name of one configuration, or of a pair whose probabilities are averaged."""
    folds: tuple[str, ...]
    num_cases: int
    mean_foreground_dice: float | None
    interval: Interval | None = None
    """Interval of the mean foreground Dice; None: not known."""
    relative_cost: float | None = None
    """Multiply-accumulates of predicting a typical case with one fold, relative to the cheapest candidate."""


class EnsembleOrigin(Record):
    """The JSON beside validation label maps of an ensemble: the weights and cases that they were made from."""

    schema_version: Literal[1] = 1
    configurations: tuple[str, ...]
    fold: str
    origin: str
    """Hash of the weights of all members and cascade steps, and of the cases."""


class ThresholdSweep(Record):
    """Result of a sweep over the thresholds of regions; stored, so that it is not repeated for the same weights."""

    schema_version: Literal[1] = 1
    origin: str
    """Hash of the weights and of the sweep's settings."""
    finished: bool
    """False: the sweep was begun and not completed."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()


class Selection(Record):
    """The chosen recipe, with scores and reasons."""

    schema_version: Literal[1] = 1
    configurations: tuple[str, ...]
    """Name of one configuration, or of several whose probabilities are averaged."""
    folds: tuple[str, ...]
    region_thresholds: dict[str, Annotated[float, Field(gt=0.0, lt=1.0)]] = Field(default_factory=dict)
    """Probability above which a voxel belongs to a region, by region; one half for regions that are not named."""
    refinement: Refinement | None = None
    """Boundary refinement, before post-processing; None: no refinement."""
    postprocessing: tuple[PostprocessingStep, ...] = ()
    mean_foreground_dice: float | None
    """Cross-validated mean foreground Dice after post-processing."""
    interval: Interval | None = None
    """Interval of the mean foreground Dice; None: not known."""
    candidates: tuple[Candidate, ...]
    """The chosen one first, then by score."""
    reasons: tuple[str, ...]
