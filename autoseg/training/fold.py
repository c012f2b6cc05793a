"""One fold from the first step to the final weights: epochs, history, checkpoints, resuming, stopping."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from autoseg.errors import TrainingError
from autoseg.imaging.storage import StoredCase, open_case
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import Progress
from autoseg.records.plan import Configuration, Split, TrainingSpec
from autoseg.training.batch import Batch
from autoseg.training.checkpointing import (
    ResumePoint,
    cpu_weights,
    load_resume_point,
    restore_optimizer,
    save_resume_point,
    save_weights,
)
from autoseg.training.history import history_line, log_line, read_history, write_history
from autoseg.training.loading import build_loader
from autoseg.training.loop import (
    Clock,
    TrainingRun,
    ValidationResult,
    start_run,
    train_epoch,
    validate_epoch,
)
from autoseg.training.pseudo_dice import mean_dice, moving_average

logger = logging.getLogger("autoseg.train")

SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""A kill costs at most this much work, and an epoch; writing costs well under a second."""

RAM_SHARE_FOR_CASES = 0.25
"""Cases stay in memory when they fit into this share of it: then no patch waits for the disk."""


@dataclass(frozen=True, kw_only=True)
class FoldTraining:
    """What to train, decided before the first step."""

    folder: Path
    """models/<configuration>/fold_<k>."""
    preprocessed: Path
    name: str
    fold: str
    model_hash: str
    cases_hash: str
    configuration: Configuration
    encoding: LabelEncoding
    split: Split
    spec: TrainingSpec
    """The configuration's, with the user's overrides."""
    device: torch.device
    precision: torch.dtype
    seed: int
    workers: int
    restart: bool


@dataclass
class _Scores:
    """What decides about checkpoint_best."""

    average: float | None = None
    best: float | None = None


def train_until_done(
    fold: FoldTraining,
    limit_seconds: float | None,
    *,
    progress: Progress | None = None,
    after_epoch: Callable[[list[EpochHistory]], None] = lambda _history: None,
) -> Checkpoint:
    """Train, or go on with, a fold; write history and checkpoints on the way.

    Args:
        fold: See FoldTraining.
        limit_seconds: Training time over all resumed runs; None: the planned steps.
        progress: Called after each step with (percent done, 100).
        after_epoch: Called with the whole history, for the plot.

    Returns:
        The record of the final weights, or of the last checkpoint when a signal stopped the training.
    """
    resumed = None if fold.restart else load_resume_point(fold.folder / "checkpoint_last")
    run = start_run(fold.configuration, fold.spec, fold.encoding, fold.device, fold.precision, seed=fold.seed)
    if resumed is not None:
        _restore(run, resumed, fold)
    history = read_history(fold.folder / "history.jsonl", before=resumed.checkpoint.epoch if resumed else 0)
    scores = _Scores()
    elapsed = 0.0
    if resumed is not None:
        scores = _Scores(resumed.checkpoint.average_pseudo_dice, resumed.checkpoint.best_pseudo_dice)
        elapsed = resumed.checkpoint.elapsed_seconds
        logger.info("going on after epoch %d, step %d", resumed.checkpoint.epoch, run.step)
    total = fold.spec.epochs * fold.spec.steps_per_epoch
    clock = Clock(total_steps=total, limit_seconds=limit_seconds, elapsed_before=elapsed)
    saved = time.monotonic()
    with _batches(fold, run.step, len(history)) as (training, validation), _stopping_on_signals(run):
        while clock.progress(run.step) < 1.0 and not run.stop.is_set():
            began = time.monotonic()
            trained = train_epoch(run, training, clock, _step_progress(progress, clock))
            if run.stop.is_set():
                break
            validated = _validate(run, validation, clock)
            history.append(history_line(len(history), run.step, time.monotonic() - began, trained, validated))
            log_line(history[-1])
            write_history(history, fold.folder / "history.jsonl")
            after_epoch(history)
            _keep_best(fold, run, _record(fold, run, history, clock, scores), scores, history[-1])
            if time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
                _save_last(fold, run, _record(fold, run, history, clock, scores))
                saved = time.monotonic()
    finished = not run.stop.is_set()
    checkpoint = _record(fold, run, history, clock, scores).model_copy(update={"finished": finished})
    _save_last(fold, run, checkpoint)
    if finished:
        save_weights(_final_weights(run), checkpoint, fold.folder / "checkpoint_final")
    return checkpoint


def _restore(run: TrainingRun, resumed: ResumePoint, fold: FoldTraining) -> None:
    checkpoint = resumed.checkpoint
    if (checkpoint.model_hash, checkpoint.cases_hash) != (fold.model_hash, fold.cases_hash):
        raise TrainingError(
            f"{fold.folder / 'checkpoint_last.safetensors'}: belongs to another plan or other training cases; the "
            "workspace was planned anew since this training began. Train with --restart to start over."
        )
    try:
        run.network.load_state_dict(resumed.network)
        restore_optimizer(run.optimizer, resumed.optimizer)
        if run.average is not None:
            run.average.load_state_dict(resumed.average)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{fold.folder / 'checkpoint_last.safetensors'}: does not fit the planned training ({error}). Train with "
            "--restart to start over."
        ) from error
    if checkpoint.loss_scale is not None and run.scaler.is_enabled():
        run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": checkpoint.loss_scale})
    run.step = checkpoint.step


@contextmanager
def _batches(fold: FoldTraining, step: int, epoch: int) -> Iterator[tuple[Iterator[Batch], Iterator[Batch]]]:
    """Open both loaders at the batch where they stopped; without validation cases the training cases stand in."""
    held_out = fold.split.validation or fold.split.training
    training = build_loader(
        _open_cases(fold, fold.split.training),
        fold.configuration,
        fold.encoding,
        training=True,
        seed=fold.seed,
        workers=fold.workers,
        ram_bytes=_bytes_for_cases(),
        start_batch=step,
    )
    validation = build_loader(
        _open_cases(fold, held_out),
        fold.configuration,
        fold.encoding,
        training=False,
        seed=fold.seed,
        workers=0,
        ram_bytes=_bytes_for_cases(),
        start_batch=epoch * fold.spec.validation_steps,
    )
    with closing(training), closing(validation):
        yield training, validation


def _open_cases(fold: FoldTraining, cases: Sequence[str]) -> dict[str, StoredCase]:
    opened = {case: open_case(fold.preprocessed, case) for case in cases}
    planned = fold.configuration.spacing
    stale = [case for case, stored in opened.items() if stored.record.spacing[-len(planned) :] != planned]
    if stale:
        raise TrainingError(
            f"{fold.preprocessed}: {len(stale)} cases, {stale[0]} first, were preprocessed for another spacing than "
            "the plan's. Run autoseg-plan again with the same workspace."
        )
    return opened


def _bytes_for_cases() -> int:
    return int(RAM_SHARE_FOR_CASES * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@contextmanager
def _stopping_on_signals(run: TrainingRun) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the training after the current step, so that the checkpoint can be written."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def request_stop(number: int, _frame: FrameType | None) -> None:
        logger.warning("%s: stopping after this step and writing a checkpoint", signal.Signals(number).name)
        run.stop.set()

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _validate(run: TrainingRun, batches: Iterator[Batch], clock: Clock) -> ValidationResult:
    """Validate with the averaged weights when there are any, since these are the ones that will be kept."""
    if run.average is None:
        return validate_epoch(run, batches, clock)
    current = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    run.network.load_state_dict(run.average.weights())
    try:
        return validate_epoch(run, batches, clock)
    finally:
        run.network.load_state_dict(current)


def _final_weights(run: TrainingRun) -> dict[str, Tensor]:
    return cpu_weights(run.network.state_dict() if run.average is None else run.average.weights())


def _keep_best(fold: FoldTraining, run: TrainingRun, record: Checkpoint, scores: _Scores, line: EpochHistory) -> None:
    """Update the moving average, and keep the weights when it has never been better."""
    scores.average = moving_average(scores.average, mean_dice(line.pseudo_dice))
    if scores.average is not None and (scores.best is None or scores.average > scores.best):
        scores.best = scores.average
        update = {"best_pseudo_dice": scores.best, "average_pseudo_dice": scores.average}
        save_weights(_final_weights(run), record.model_copy(update=update), fold.folder / "checkpoint_best")


def _record(
    fold: FoldTraining, run: TrainingRun, history: list[EpochHistory], clock: Clock, scores: _Scores
) -> Checkpoint:
    return Checkpoint(
        configuration=fold.name,
        fold=fold.fold,
        model_hash=fold.model_hash,
        cases_hash=fold.cases_hash,
        epoch=len(history),
        step=run.step,
        training=fold.spec,
        elapsed_seconds=clock.elapsed(),
        best_pseudo_dice=scores.best,
        average_pseudo_dice=scores.average,
        seed=fold.seed,
        loss_scale=run.scaler.get_scale() if run.scaler.is_enabled() else None,
    )


def _save_last(fold: FoldTraining, run: TrainingRun, record: Checkpoint) -> None:
    average = {} if run.average is None else run.average.state_dict()
    weights = cpu_weights(run.network.state_dict())
    save_resume_point(fold.folder / "checkpoint_last", record, weights, run.optimizer, average)


def _step_progress(progress: Progress | None, clock: Clock) -> Callable[[int], None]:
    if progress is None:
        return lambda _step: None
    return lambda step: progress(round(100 * clock.progress(step)), 100)
