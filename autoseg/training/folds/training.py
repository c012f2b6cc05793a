"""Training of one fold from the first step to the final weights: epochs, history, checkpoints, resuming, stopping."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from autoseg.errors import TrainingError
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import forget_peak_memory, peak_memory_bytes
from autoseg.progress import Progress, no_progress
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.system import measure_peak_memory
from autoseg.training.data.batch import Batch
from autoseg.training.data.growth import own_patch_fraction
from autoseg.training.folds.checkpointing import (
    ResumePoint,
    StateDict,
    cpu_weights,
    float_weights,
    load_resume_point,
    name_resume_tensors,
    restore_optimizer,
    save_weights,
)
from autoseg.training.folds.collapse import begin_again_if_marked, follow_last_restart, mark_collapse
from autoseg.training.folds.earlier_training import check_same_training, forget_results
from autoseg.training.folds.final_weights import choose_final_weights
from autoseg.training.folds.first_weights import make_first_network
from autoseg.training.folds.fold import Fold, choose_step_threads, open_training_batches, open_validation_batches
from autoseg.training.folds.history import log_line, read_history, write_history
from autoseg.training.folds.pace import Pace
from autoseg.training.folds.stopping import stopping_on_signals
from autoseg.training.folds.writing import BackgroundWriter
from autoseg.training.steps.compiling import choose_compiling
from autoseg.training.steps.foreground import join_findings
from autoseg.training.steps.loop import train_epoch, validate_epoch
from autoseg.training.steps.pseudo_dice import mean_dice, moving_average
from autoseg.training.steps.run import Clock, StepSettings, TrainingRun
from autoseg.training.steps.setup import start_run

logger = logging.getLogger("autoseg.train")

SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""Work in seconds, besides one step, that a kill costs at most; writing takes seconds at most, during training."""

COMPARISON_FRACTION = 0.01
"""Fraction of a promised training time that is kept for choosing between last and averaged weights."""


@dataclass
class _Progress:
    """State of a fold's training between two steps."""

    run: TrainingRun
    clock: Clock
    history: list[EpochHistory]
    average_dice: float | None = None
    """Moving average of the mean pseudo-Dice over epochs."""
    best_dice: float | None = None
    unvalidated: EpochHistory | None = None
    """Epoch that is trained and not validated yet, without figures of its validation."""
    saved: float = field(default_factory=time.monotonic)
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)


def train_until_done(
    fold: Fold,
    limit_seconds: float | None,
    *,
    progress: Progress = no_progress,
    after_epoch: Callable[[list[EpochHistory]], None] = lambda _history: None,
    draw: Callable[[list[EpochHistory]], None] = lambda _history: None,
) -> Checkpoint:
    """Train a fold, or resume its training; write history and checkpoints on the way.

    Of several processes that train together all call it, and the first one writes.

    Args:
        fold: What is trained; with `pretrained` only if it starts afresh.
        limit_seconds: Training time over all resumed runs; None: the planned steps.
        progress: Called after each step with (percent done, 100).
        after_epoch: Called with the whole history; in the first process only.
        draw: Draws the whole history, in a thread; called after the last epoch, and after others as often as costs
            little. In the first process only.

    Returns:
        The record of the final weights, or of the last checkpoint when a signal stopped the training.
    """
    state = _begin(fold, limit_seconds)
    run, clock, pace = state.run, state.clock, Pace(fold, len(state.history))

    def show(history: list[EpochHistory]) -> None:
        pace.tell(history, run.settings.threads.load)
        after_epoch(history)
        state.writer.draw(partial(draw, list(history)))

    with stopping_on_signals(run.stop), state.writer:
        _train_epochs(fold, state, _step_progress(progress, clock), show)
        if fold.ranks.is_first:
            _save_last(fold, state)
        if run.stopped.is_set():
            return _record(fold, state)
        end = Clock(clock.total_steps, limit_seconds, clock.elapsed_before, clock.started)
        with _comparison_batches(fold) as batches:
            chosen, network = choose_final_weights(run, batches, end)
        run.agree(end)  # a stop may have been requested since the last step
        if run.stopped.is_set():
            return _record(fold, state)
        checkpoint = _record(fold, state).model_copy(update={"finished": True, "weights": chosen})
        state.writer.finish()
        if fold.ranks.is_first:
            save_weights(cpu_weights(network.state_dict()), checkpoint, fold.folder / "checkpoint_final")
    return checkpoint


def _begin(fold: Fold, limit_seconds: float | None) -> _Progress:
    """Build everything, and resume from the last checkpoint if there is one."""
    began = time.monotonic()
    path = fold.last_checkpoint
    resumed = None if fold.starts_afresh else load_resume_point(path)
    if resumed is not None:
        check_same_training(resumed.checkpoint, fold, path.with_suffix(".safetensors"))
    forget_peak_memory(fold.device)  # of the fold before
    steps, spec = fold.spec.epochs * fold.spec.steps_per_epoch, fold.spec
    network = make_first_network(fold)
    settings = _step_settings(fold, steps, limit_seconds, None if resumed is None else resumed.checkpoint)
    run = start_run(network, fold.configuration, fold.encoding, settings)
    if limit_seconds is not None and spec.weight_average_decay is not None:
        limit_seconds *= 1.0 - COMPARISON_FRACTION
    if resumed is not None:
        _restore(run, resumed, fold)
    _check_same_step(run)
    if resumed is None:
        return _Progress(run, Clock(steps, limit_seconds, started=began), [])
    checkpoint = resumed.checkpoint
    history = read_history(fold.folder / "history.jsonl", before=checkpoint.epoch)
    follow_last_restart(run, history)
    logger.info("resuming after epoch %d, step %d", checkpoint.epoch, run.step)
    if fold.options.pretrained is not None and fold.ranks.is_first:
        logger.warning("--pretrained is ignored: training resumes after step %d; --restart starts over", run.step)
    return _Progress(
        run,
        Clock(steps, limit_seconds, elapsed_before=checkpoint.elapsed_seconds, started=began),
        history,
        average_dice=checkpoint.average_pseudo_dice,
        best_dice=checkpoint.best_pseudo_dice,
        unvalidated=checkpoint.unvalidated,
    )


def _step_settings(fold: Fold, steps: int, limit_seconds: float | None, earlier: Checkpoint | None) -> StepSettings:
    """How steps are computed; what remains of the own patch, whose code it would be, decides if compiling is tried."""
    own = own_patch_fraction(fold.spec)
    done, elapsed, decided = 0, 0.0, None
    if earlier is not None:
        done, elapsed, decided = earlier.step, earlier.elapsed_seconds, earlier.compiling
    steps = min(steps - done, int(steps * own))
    limit_seconds = None if limit_seconds is None else min(limit_seconds - elapsed, limit_seconds * own)
    compiled = choose_compiling(fold.options.compile, fold.device, steps, limit_seconds, decided)
    return StepSettings(
        fold.device,
        fold.training_precision,
        fold.ranks,
        compiled=compiled,
        steps_left=steps,
        seconds_left=limit_seconds,
        threads=choose_step_threads(fold, limit_seconds),
        seed=fold.options.seed,
    )


def _restore(run: TrainingRun, resumed: ResumePoint, fold: Fold) -> None:
    checkpoint = resumed.checkpoint
    try:
        run.network.load_state_dict(resumed.network)
        restore_optimizer(run.optimizer, resumed.optimizer)
        if run.average is not None:
            run.average.load_state_dict(resumed.average)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{fold.last_checkpoint.with_suffix('.safetensors')}: does not fit the planned training ({error}). Train "
            "with --restart to start over."
        ) from error
    if checkpoint.loss_scale is not None and run.scaler.is_enabled():
        state = {"scale": checkpoint.loss_scale, "_growth_tracker": checkpoint.loss_scale_steps}
        run.scaler.load_state_dict({**run.scaler.state_dict(), **state})
    run.step = checkpoint.step
    run.compiling = run.compiling or checkpoint.compiling


def _check_same_step(run: TrainingRun) -> None:
    ranks = run.settings.ranks
    (first,) = ranks.broadcast_numbers([run.step])
    if first != run.step:
        raise TrainingError(
            f"the first process resumes after step {first:.0f}, process {ranks.rank + 1} after step {run.step}: "
            "they see different checkpoints. Processes on several machines need one workspace that all of them see."
        )


def _train_epochs(
    fold: Fold,
    state: _Progress,
    after_step: Callable[[int], None],
    after_epoch: Callable[[list[EpochHistory]], None],
) -> None:
    """Epoch after epoch until the clock has run out or all have agreed to stop."""
    run, clock, history = state.run, state.clock, state.history
    training = open_training_batches(fold, run.step, partial(run.choose_patch, clock))
    validation = open_validation_batches(fold, len(history) * fold.spec.validation_steps)
    _forget_earlier(fold)

    def finish_step(step: int) -> None:
        after_step(step)
        _save_now_and_then(fold, state)

    with closing(training), closing(validation):
        if state.unvalidated is not None:
            _validate_epoch(fold, state, state.unvalidated, validation, after_epoch)
        while run.agree(clock) < 1.0 and not run.stopped.is_set():
            began = time.monotonic()
            trained = train_epoch(run, training, clock, finish_step)
            if run.stopped.is_set():
                return
            epoch = EpochHistory(
                epoch=len(history),
                step=run.step,
                seconds=time.monotonic() - began,
                data_wait_fraction=trained.data_wait_fraction,
                train_loss=trained.mean_loss,
                validation_loss=None,
                pseudo_dice={},
                learning_rate=trained.learning_rate,
                peak_memory_bytes=_peak_memory_bytes(fold.device),
                patch_size=trained.patch_size,
                found_foreground=run.foreground.take(fold.ranks),
            )
            _validate_epoch(fold, state, epoch, validation, after_epoch)


def _validate_epoch(
    fold: Fold,
    state: _Progress,
    epoch: EpochHistory,
    batches: Iterator[Batch],
    after_epoch: Callable[[list[EpochHistory]], None],
) -> None:
    """Validate a trained epoch on patches and record it; if a stop cuts this short, leave it to a resumed training."""
    began = time.monotonic()
    state.unvalidated = epoch
    validation_loss, pseudo_dice = validate_epoch(state.run, batches, state.clock)
    if state.run.stopped.is_set():
        return
    state.unvalidated = None
    figures = {
        "validation_loss": validation_loss,
        "pseudo_dice": pseudo_dice,
        "seconds": epoch.seconds + time.monotonic() - began,
        "peak_memory_bytes": _peak_memory_bytes(fold.device),
        "found_foreground": join_findings(epoch.found_foreground, state.run.foreground.take(fold.ranks)),
    }
    state.history.append(epoch.model_copy(update=figures))
    mark_collapse(fold, state.history, state.run.agree(state.clock))
    _keep(fold, state, after_epoch)
    begin_again_if_marked(fold, state.run, state.history)


def _save_now_and_then(fold: Fold, state: _Progress) -> None:
    """Write the resume point after a step, also within a long epoch; notice that an earlier one could not be."""
    state.writer.check()
    if fold.ranks.is_first and time.monotonic() - state.saved >= SECONDS_BETWEEN_CHECKPOINTS:
        _save_last(fold, state)
        state.saved = time.monotonic()


def _forget_earlier(fold: Fold) -> None:
    """Remove outdated results, now that no check can fail and all processes have read what they need."""
    fold.ranks.barrier()
    if fold.ranks.is_first:
        forget_results(fold)


def _keep(fold: Fold, state: _Progress, after_epoch: Callable[[list[EpochHistory]], None]) -> None:
    """Write the epoch's results: history, and the weights if they are the best so far."""
    run, line = state.run, state.history[-1]
    state.average_dice = moving_average(state.average_dice, mean_dice(line.pseudo_dice))
    is_best = state.average_dice is not None and (state.best_dice is None or state.average_dice > state.best_dice)
    if is_best:
        state.best_dice = state.average_dice
    if not fold.ranks.is_first:
        return
    log_line(
        line,
        earlier=state.history[:-1],
        workers=fold.workers,
        remaining_seconds=state.clock.remaining_seconds(run.step, run.spec),
    )
    write_history(state.history, fold.folder / "history.jsonl")
    after_epoch(state.history)
    if is_best:
        weights = float_weights(run.kept_network.state_dict())
        _write(state, weights, _record(fold, state), fold.folder / "checkpoint_best")


@contextmanager
def _comparison_batches(fold: Fold) -> Iterator[Iterator[Batch] | None]:
    """The first validation patches; None where there is nothing to compare or to compare on.

    A student keeps the average untested: its cases of validation judge it beside its teacher, and must choose nothing.
    """
    if fold.spec.weight_average_decay is None or not fold.split.validation or fold.soft is not None:
        yield None
        return
    with closing(open_validation_batches(fold, 0, for_loss=False)) as batches:
        yield batches


def _record(fold: Fold, state: _Progress) -> Checkpoint:
    run = state.run
    return Checkpoint(
        configuration=fold.configuration_name,
        fold=fold.fold_name,
        model_hash=fold.model_hash,
        cases_hash=fold.cases_hash,
        data_hash=fold.data_hash,
        epoch=len(state.history),
        step=run.step,
        training=fold.spec,
        weights="last" if run.average is None else "average",
        elapsed_seconds=state.clock.elapsed(),
        best_pseudo_dice=state.best_dice,
        average_pseudo_dice=state.average_dice,
        unvalidated=state.unvalidated,
        seed=fold.options.seed,
        loss_scale=run.scaler.get_scale() if run.scaler.is_enabled() else None,
        loss_scale_steps=run.scaler.state_dict().get("_growth_tracker", 0),
        compiling=run.compiling,
    )


def _save_last(fold: Fold, state: _Progress) -> None:
    run = state.run
    average = {} if run.average is None else run.average.state_dict()
    tensors = name_resume_tensors(float_weights(run.network.state_dict()), run.optimizer, average)
    _write(state, tensors, _record(fold, state), fold.last_checkpoint)


def _write(state: _Progress, tensors: StateDict, record: Checkpoint, path: Path) -> None:
    """Write tensors as they are now, while training continues."""
    state.writer.write(lambda copies: save_weights(copies, record, path), tensors)


def _peak_memory_bytes(device: torch.device) -> int:
    return peak_memory_bytes(device) if device_type(device).is_gpu else measure_peak_memory()


def _step_progress(progress: Progress, clock: Clock) -> Callable[[int], None]:
    return lambda step: progress(round(100 * clock.progress(step)), 100)
