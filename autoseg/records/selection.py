"""The recipe that prediction follows when nothing else is asked for."""

from typing import Annotated, Literal

from pydantic import Field

from autoseg.records.files import Record
from autoseg.records.postprocessing import PostprocessingStep
from autoseg.records.refinement import Refinement

Interval = tuple[float, float]
"""Lower and upper bound; 95 % of bootstrap samples of the cases lie between them."""


class Candidate(Record):
    """One thing that could have been selected, and its cross-validated score."""

    configurations: tuple[str, ...]
    """One, or a pair whose probabilities are averaged."""
    folds: tuple[str, ...]
    num_cases: int
    mean_foreground_dice: float | None
    interval: Interval | None = None
    """Of the mean foreground Dice; None: not known."""
    relative_cost: float | None = None
    """Of predicting a typical case with one fold, counted in multiplications; 1: the cheapest candidate."""


class EnsembleOrigin(Record):
    """The JSON beside validation label maps of an ensemble: what they were made from."""

    schema_version: Literal[1] = 1
    configurations: tuple[str, ...]
    fold: str
    origin: str
    """Hash of the weights of all members and stages, and of the cases."""


class ThresholdSweep(Record):
    """What a sweep over the thresholds of regions has found; kept, so that it is not repeated for the same weights."""

    schema_version: Literal[1] = 1
    origin: str
    """Hash of the weights and of the sweep's settings."""
    finished: bool
    """False: probabilities are still being looked at."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()


class Selection(Record):
    """What was chosen, and why."""

    schema_version: Literal[1] = 1
    configurations: tuple[str, ...]
    """One, or several whose probabilities are averaged."""
    folds: tuple[str, ...]
    region_thresholds: dict[str, Annotated[float, Field(gt=0.0, lt=1.0)]] = Field(default_factory=dict)
    """Region -> probability above which a voxel belongs to it; regions that are not named: one half."""
    refinement: Refinement | None = None
    """Comes before post-processing; None: none."""
    postprocessing: tuple[PostprocessingStep, ...] = ()
    mean_foreground_dice: float | None
    """Cross-validated, after post-processing."""
    interval: Interval | None = None
    """Of the mean foreground Dice; None: not known."""
    candidates: tuple[Candidate, ...]
    """The chosen one first, then by score."""
    reasons: tuple[str, ...]
