"""A training that collapses to background is begun again at a lower rate.

Where foreground is rare, predicting none of it is a state that costs little, and that a training may not leave: the
gradients of empty patches keep it there, above all at a high learning rate. It shows as epochs in which patches had
foreground and nothing of it was predicted, neither in training nor in validation.

    epochs with foreground, nothing predicted, for a fifth of the training so far ahead -> fresh weights, lower rate

Example: 600 steps in 15 epochs of 40; nothing is predicted in the epochs 2 to 8, 7 of them and 280 steps. Then the
training begins again, with 0.3 times the learning rate and the whole schedule over the remaining 240 steps.
"""

import logging
from collections.abc import Sequence

from autoseg.records.checkpoint import EpochHistory, Restart
from autoseg.training.folds.fold import Fold
from autoseg.training.steps.averaging import WeightAverage
from autoseg.training.steps.run import TrainingRun
from autoseg.training.steps.setup import build_initial_network

logger = logging.getLogger("autoseg.train")

PATIENCE_FRACTION = 0.2
"""Fraction of the training after which nothing but background counts as a collapse."""

MIN_EPOCHS = 3
MIN_STEPS = 250
"""Steps before which many networks predict nothing yet."""

LATEST_PROGRESS = 0.8
"""Progress after which too little time is left to begin again."""

MAX_RESTARTS = 2
RATE_FACTOR = 0.3
"""Learning rate after a restart as a fraction of the one before."""


def judge_collapse(history: Sequence[EpochHistory], progress: float, rate: float) -> Restart | None:
    """Whether the training is to begin again after the last epoch.

    Args:
        history: All epochs, earlier restarts included; epochs whose patches had no foreground say nothing.
        progress: Fraction of the training that is done, [0, 1].
        rate: Planned learning rate.

    Returns:
        The restart; None as long as foreground is found, and after `MAX_RESTARTS` restarts.
    """
    restarts = [index for index, line in enumerate(history) if line.restart is not None]
    begun = restarts[-1] + 1 if restarts else 0
    missed: list[EpochHistory] = []
    before = history[begun - 1].step if begun else 0
    for line in history[begun:]:
        if line.found_foreground == "some":
            missed, before = [], line.step
        elif line.found_foreground == "none":
            missed.append(line)
    if len(missed) < MIN_EPOCHS or len(restarts) >= MAX_RESTARTS or progress > LATEST_PROGRESS:
        return None
    steps = history[-1].step - before
    if steps < MIN_STEPS or progress * steps / history[-1].step < PATIENCE_FRACTION:
        return None
    return Restart(learning_rate=rate * RATE_FACTOR ** (len(restarts) + 1), progress=progress)


def mark_collapse(fold: Fold, history: list[EpochHistory], progress: float) -> None:
    """Record in the last epoch that the training is to begin again after it, if it is.

    A training that started from the weights of another model, or from published ones, is not begun again.

    Args:
        fold: Its seed and rate count.
        history: All epochs; the last one is replaced.
        progress: Fraction of the training that is done, equal in all processes.
    """
    if fold.options.pretrained is not None or fold.spec.initial_weights is not None:
        return
    restart = judge_collapse(history, progress, fold.spec.learning_rate)
    if restart is not None:
        history[-1] = history[-1].model_copy(update={"restart": restart})


def begin_again_if_marked(fold: Fold, run: TrainingRun, history: Sequence[EpochHistory]) -> None:
    """After an epoch with a restart: fresh weights, an optimiser without memory, the schedule of the restart.

    Args:
        fold: Its seed, plus the number of restarts, seeds the weights.
        run: Changed in place.
        history: All epochs.
    """
    restart = history[-1].restart
    if restart is None:
        return
    logger.warning(
        "step %d: nothing but background is predicted for at least %.0f %% of the training, on patches that have "
        "foreground; the training begins again, with the learning rate %.2g, in the time that is left",
        history[-1].step, 100 * PATIENCE_FRACTION, restart.learning_rate,
    )  # fmt: skip
    seed = fold.options.seed + sum(line.restart is not None for line in history)
    run.network.load_state_dict(build_initial_network(fold.configuration, seed).state_dict())
    run.optimizer.state.clear()
    if run.average is not None:
        run.average = WeightAverage(run.network, run.average.decay)
    follow_restart(run, restart)


def follow_restart(run: TrainingRun, restart: Restart) -> None:
    """Take the rate and the schedule of a restart; weights and optimiser stay as they are."""
    run.schedule_start = restart.progress
    run.rate_factor = restart.learning_rate / run.spec.learning_rate


def follow_last_restart(run: TrainingRun, history: Sequence[EpochHistory]) -> None:
    """Continue a resumed training as its last restart says, if there was one."""
    for line in reversed(history):
        if line.restart is not None:
            follow_restart(run, line.restart)
            return
