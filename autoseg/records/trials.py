"""Trials: short trainings of several candidates on fold 0, by whose Dice the plan is chosen.

`trials/trials.json` of a workspace. Tested in tests/records/test_trials.py.
"""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from autoseg.records.budget import Budget
from autoseg.records.files import FieldFault, Record, refuse_faults
from autoseg.records.names import FileName
from autoseg.records.plan import Target


class Candidate(Record):
    """One way to plan that is tried: a planner with settings, for one configuration."""

    name: FileName
    """Name that no other candidate has, such as `unext-2d`."""
    planner: str
    configuration: FileName
    """Name of the configuration that is planned."""
    options: dict[str, str] = Field(default_factory=dict)
    """Settings of the planner, besides those that the user gave."""
    progressive: bool = False
    """Whether training begins with smaller patches; False: as the user asked."""
    learning_rate_factor: PositiveFloat = 1.0
    """The planned learning rate is multiplied by it."""


class TrialRound(Record):
    """One round: every candidate that is left trains for the same time, each from the start."""

    candidates: tuple[FileName, ...]
    training_seconds: PositiveFloat
    """Time of each candidate for training, its validation not counted."""


class CurvePoint(Record):
    """One epoch of a trial."""

    seconds: NonNegativeFloat
    """Training time up to the end of the epoch, its validation on patches included."""
    pseudo_dice: float
    """Mean Dice over random validation patches: an indicator, not the score."""


class Trial(Record):
    """One candidate in one round."""

    candidate: FileName
    round: NonNegativeInt
    """0-based."""
    training_seconds: NonNegativeFloat
    """Time that it trained."""
    steps: NonNegativeInt
    mean_foreground_dice: float | None
    """Dice of the validation cases as whole volumes on their own grid, mean over labels; None: it failed, or the
    cases have no foreground."""
    label_dice: dict[str, float | None] = Field(default_factory=dict)
    """Dice by label."""
    validation_seconds: NonNegativeFloat = 0.0
    failure: str = ""
    """Why it could not be trained; empty if it was."""
    curve: tuple[CurvePoint, ...] = ()


class Trials(Record):
    """What was asked for, what was tried, and what was found."""

    schema_version: Literal[1] = 1
    seconds: PositiveFloat
    """Time that was asked for all trials together; preprocessing comes on top."""
    planner: str
    """Planner that the user asked for, whose candidates were tried."""
    target: Target
    budget: Budget
    """Budget of the plan that is decided; with the speed that was measured."""
    data_hash: str
    """Hash of the cases of fold 0 and their files; other data need other trials."""
    candidates: tuple[Candidate, ...]
    """Those that are tried, in the order of the rules."""
    by_rules: FileName | None = None
    """Name of the candidate that is planned without trials; None: it is not tried, `left_out` says why."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Name -> why a candidate was not tried."""
    round_sizes: tuple[PositiveInt, ...]
    """Candidates of each round as planned; each round gets the same part of the time."""
    num_validation_cases: PositiveInt
    """Validation cases of fold 0."""
    validation_cases: tuple[FileName, ...] = ()
    """Those of them that score all trials; empty: not decided yet."""
    rounds: tuple[TrialRound, ...] = ()
    """Rungs that have begun."""
    trials: tuple[Trial, ...] = ()
    """Finished trials, in order."""
    chosen: FileName | None = None
    """Name of the candidate that is planned; None: not finished."""
    reason: str = ""
    """Why it was chosen."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [candidate.name for candidate in self.candidates]
        faults: list[FieldFault] = []
        if len(set(names)) != len(names):
            faults.append((("candidates",), f"{', '.join(names)}, expected names that differ"))
        for index, trial in enumerate(self.trials):
            if trial.candidate not in names:
                faults.append((("trials", index, "candidate"), f"'{trial.candidate}', expected one of {names}"))
        if self.chosen is not None and self.chosen not in names:
            faults.append((("chosen",), f"'{self.chosen}', expected one of {', '.join(names)}"))
        refuse_faults(faults)
        return self
