"""Train and validate one candidate of a trial, as `autoseg train` does, for a given time.

Tested in tests/stages/test_trials.py and tests/pipeline/test_trials.py.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from autoseg.errors import TrainingError
from autoseg.progress import ProgressBar
from autoseg.records.evaluation import Evaluation
from autoseg.records.plan import Split
from autoseg.records.trials import CurvePoint, Trial
from autoseg.stages.train import naming_lack_of_memory
from autoseg.stages.validate import validate_fold
from autoseg.training.folds.fold import Fold
from autoseg.training.folds.fold_logs import warnings_only
from autoseg.training.folds.history import read_history
from autoseg.training.folds.training import train_until_done
from autoseg.training.steps.pseudo_dice import mean_dice

WARM_UP_SECONDS = 1.0
"""Training that is not counted, before the first trial of a round."""

INTERRUPTED = "The trials were interrupted. Run the same command again to resume; finished ones are kept."


def with_validation_cases(fold: Fold, cases: tuple[str, ...]) -> Fold:
    """The fold with these validation cases, or with its own where none are decided."""
    return replace(fold, split=Split(training=fold.split.training, validation=cases or fold.split.validation))


@contextmanager
def without_advice() -> Iterator[None]:
    """Advice of a training on workers, speed and time is for `autoseg train`; the record of a trial has its figures."""
    training = logging.getLogger("autoseg.train")
    level = training.level
    training.setLevel(logging.ERROR)
    try:
        with warnings_only():
            yield
    finally:
        training.setLevel(level)


def warm_up(fold: Fold) -> None:
    """Train for a second and forget it: the first training of a process loads libraries, which takes a while.

    Raises:
        TrainingError: If a signal stopped it.
    """
    other = replace(fold, fold_name="warm_up")
    try:
        with naming_lack_of_memory(fold), without_advice():
            is_finished = train_until_done(other, WARM_UP_SECONDS).finished
    except TrainingError:  # the trial of this candidate fails in the same way, and says so
        is_finished = True
    shutil.rmtree(other.folder, ignore_errors=True)
    if not is_finished:
        raise TrainingError(INTERRUPTED)


def train_candidate(fold: Fold, name: str, number: int, seconds: float, bar: ProgressBar) -> Trial:
    """Train and validate one candidate; one that fails does not stop the others.

    Raises:
        TrainingError: If a signal stopped the training.
    """
    try:
        with naming_lack_of_memory(fold), without_advice():
            with bar(f"{name}, round {number + 1}") as progress:
                checkpoint = train_until_done(fold, seconds, progress=progress)
            began = time.monotonic()
            evaluation = validate_fold(fold) if checkpoint.finished else None
    except TrainingError as error:
        return failed_trial(name, number, error)
    if evaluation is None:
        raise TrainingError(INTERRUPTED)
    return Trial(
        candidate=name,
        round=number,
        training_seconds=checkpoint.elapsed_seconds,
        steps=checkpoint.step,
        mean_foreground_dice=evaluation.mean_foreground_dice,
        label_dice=_dice_by_label(evaluation),
        validation_seconds=time.monotonic() - began,
        failure="" if evaluation.mean_foreground_dice is not None else "no validation case has foreground",
        curve=_read_curve(fold, checkpoint.epoch),
    )


def failed_trial(name: str, number: int, error: TrainingError) -> Trial:
    """The record of a candidate that could not be trained."""
    return Trial(
        candidate=name, round=number, training_seconds=0.0, steps=0, mean_foreground_dice=None, failure=str(error)
    )


def _dice_by_label(evaluation: Evaluation) -> dict[str, float | None]:
    return {label: summary.dice for label, summary in evaluation.labels.items()}


def _read_curve(fold: Fold, epochs: int) -> tuple[CurvePoint, ...]:
    """Pseudo-Dice of every epoch in which a label was seen."""
    points, seconds = [], 0.0
    for line in read_history(fold.folder / "history.jsonl", before=epochs):
        seconds += line.seconds
        dice = mean_dice(line.pseudo_dice)
        if dice is not None:
            points.append(CurvePoint(seconds=seconds, pseudo_dice=dice))
    return tuple(points)
