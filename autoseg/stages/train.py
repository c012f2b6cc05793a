"""Train one configuration on one fold, then predict and score the fold's validation cases as whole volumes."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import TrainingError, UsageError
from autoseg.imaging.arrays.storage import label_map_origin, stored_cases
from autoseg.inference.models.cascade_maps import load_previous
from autoseg.interop.models import open_model
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import Progress, read_record
from autoseg.records.plan import Configuration, Plan
from autoseg.records.workspace import Workspace
from autoseg.report.charts.figures import plot_progress
from autoseg.stages.plan import find_configuration
from autoseg.stages.split import find_split
from autoseg.stages.validate import Validation, estimate_validation_seconds, lacks_next_stage, validate_fold
from autoseg.training.distributed import device_of_process, join_ranks
from autoseg.training.folds.earlier_training import describe_departures, finished_earlier, list_ignored
from autoseg.training.folds.fold import train_until_done
from autoseg.training.folds.fold_training import FoldTraining
from autoseg.training.folds.log import fold_log
from autoseg.training.folds.tracking import track
from autoseg.training.options import TrainingOptions, apply_options

__all__ = ["TrainingOptions", "train_fold"]

logger = logging.getLogger("autoseg.train")

STARTUP_SECONDS = 8.0
"""Share of a promised time that passes before and after what this stage can measure: loading torch, leaving."""

VALIDATION_MARGIN = 1.3
"""Factor on the measured time of the final validation: later cases may be larger, and the machine busier."""

ProgressBar = Callable[[str], AbstractContextManager[Progress | None]]


def train_fold(
    workspace: Workspace,
    configuration: str,
    fold: str,
    options: TrainingOptions,
    *,
    bar: ProgressBar = lambda _title: nullcontext(None),
) -> Checkpoint:
    """Train a fold, or go on with it, and score its validation cases; a finished fold is left as it is.

    Started by torchrun, all processes call this and train together; the first one alone writes and validates.

    Args:
        workspace: Planned and preprocessed.
        configuration: Name in the plan.
        fold: Index in splits.json as text, or `all` (every case trains, none validates).
        options: See TrainingOptions.
        bar: Shows progress; in the first of several processes only.

    Returns:
        The final checkpoint; unfinished when the training was stopped by a signal.

    Raises:
        UsageError: If configuration or fold do not exist, the data is not preprocessed, or options do not fit.
        TrainingError: If training cannot go on, or a cascade's previous configuration is not trained.
    """
    began = time.monotonic()
    job = _prepare(workspace, configuration, fold, options)
    with join_ranks(job.training.device) as ranks:
        job = replace(job, training=replace(job.training, ranks=ranks))
        _check_ranks(job.training)
        done = None if options.restart else finished_earlier(job.training)
        _, one_has_work = ranks.agree(0.0, stop=done is None)  # then all of them train, or find out that they cannot
        checkpoint = _train(job, began, bar) if done is None or one_has_work else done
    if ranks.is_first and checkpoint.finished:
        if done is None or one_has_work:
            _validate(job, bar)
        else:
            _leave(job, bar, done)
    return checkpoint


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A fold's training, and what its validation needs besides."""

    workspace: Workspace
    dataset: DatasetDescription
    training: FoldTraining

    @property
    def title(self) -> str:
        return f"{self.training.name}, fold {self.training.fold}"

    @property
    def validation(self) -> Validation:
        training = self.training
        return Validation(
            workspace=self.workspace,
            dataset=self.dataset,
            plan=training.plan,
            configuration=training.name,
            fold=training.fold,
            cases=training.split.validation,
            device=training.device,
            precision=training.options.precision,
        )


def _prepare(workspace: Workspace, name: str, fold: str, options: TrainingOptions) -> _Job:
    """Decide everything that one process can decide alone."""
    plan = read_record(Plan, workspace.plan)
    configuration = apply_options(find_configuration(plan, name, workspace.plan), options)
    dataset = read_record(DatasetDescription, workspace.dataset)
    folder = workspace.dataset_folder(dataset.folder)
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: the dataset is not there, and the final validation needs its label maps. Move it back, or plan "
            "again with the same workspace (-w); what is preprocessed and trained stays."
        )
    split = find_split(workspace, dataset, fold)
    cases = [*split.training, *split.validation]
    _check_preprocessed(workspace, name, configuration, cases)
    for next_name, following in plan.configurations.items():
        if following.previous_configuration == name:  # the validation makes label maps on its grid
            _check_preprocessed(workspace, next_name, following, split.validation)
    is_cascade = configuration.previous_configuration is not None
    previous = load_previous(workspace, plan, name, cases) if is_cascade else None
    device = device_of_process(choose_device(options.device))
    training = FoldTraining(
        folder=workspace.fold(name, fold),
        preprocessed=workspace.preprocessed(configuration.preprocessed_as),
        plan=plan,
        name=name,
        configuration=configuration,
        fold=fold,
        split=split,
        previous=previous,
        previous_origins=tuple(label_map_origin(previous[case]) for case in sorted(previous)) if previous else (),
        options=options,
        device=device,
        precision=choose_dtype(options.precision, device),
        open_pretrained=_open_pretrained,
    )
    return _Job(workspace=workspace, dataset=dataset, training=training)


@contextmanager
def _open_pretrained(source: Path) -> Iterator[Path]:
    """The folder of a model or fold whose weights are taken over."""
    with open_model(source) as model:
        yield model.root


def _check_preprocessed(workspace: Workspace, name: str, configuration: Configuration, cases: Sequence[str]) -> None:
    folder = workspace.preprocessed(configuration.preprocessed_as)
    missing = sorted(set(cases) - set(stored_cases(folder)))
    if missing:
        raise UsageError(
            f"{folder}: {len(missing)} cases are not preprocessed for {name}, {missing[0]} first. Run autoseg-plan "
            "again with the same workspace, without --no-preprocess."
        )


def _check_ranks(training: FoldTraining) -> None:
    devices, count, batch_size = training.options.devices, training.ranks.count, training.configuration.batch_size
    if devices not in (1, count):
        raise UsageError(
            f"{devices} devices are asked for, but {count} process(es) run. Use autoseg train --devices {devices}, or "
            "torchrun with as many processes."
        )
    if count > batch_size:
        raise UsageError(
            f"{count} devices cannot share a batch of {batch_size} samples; use at most {batch_size} devices, or plan "
            "a larger batch."
        )


def _train(job: _Job, began: float, bar: ProgressBar) -> Checkpoint:
    """Train in the time that is left, showing and tracking how it goes."""
    training = job.training
    if not training.ranks.is_first:
        with _warnings_only():
            return train_until_done(training, _training_seconds(job, began))
    with fold_log(training.folder), track(training.options.tracking, training.folder, job.title) as tell:

        def show(history: list[EpochHistory]) -> None:
            tell(history[-1])
            plot_progress(history, training.folder / "progress.png", f"{job.dataset.name}: {job.title}")

        logger.info(
            "training %s: %d cases, %d for validation, on %s in %s, processes: %d",
            job.title, len(training.split.training), len(training.split.validation), training.device,
            training.precision, training.ranks.count,
        )  # fmt: skip
        limit = _training_seconds(job, began)
        with bar(f"{job.title}, percent") as progress:
            checkpoint = train_until_done(training, limit, progress=progress, after_epoch=show)
        logger.info("trained after %.0f s", time.monotonic() - began)
    return checkpoint


def _training_seconds(job: _Job, began: float) -> float | None:
    """What is left of a promised time for training itself; None when steps alone decide.

    The first process measures for all.
    """
    spec, ranks = job.training.spec, job.training.ranks
    promised = spec.time_per_fold_seconds
    if promised is None:
        return None
    reserved = 0.0
    if ranks.is_first:
        validation = VALIDATION_MARGIN * estimate_validation_seconds(job.validation, spec.mirror_axes)
        reserved = STARTUP_SECONDS + time.monotonic() - began + validation
    (reserved,) = ranks.broadcast_numbers([reserved])
    if reserved >= promised:
        raise TrainingError(
            f"{promised:.0f} s are too few for {job.training.name}: start-up and the final validation alone need "
            f"{reserved:.0f} s. Allow more time."
        )
    return promised - reserved


def _leave(job: _Job, bar: ProgressBar, done: Checkpoint) -> None:
    """Say what is not done to a fold that was trained earlier; make what a cascade that was planned later needs."""
    if lacks_next_stage(job.validation):
        _validate(job, bar)
    logger.info("%s is trained and validated; --restart trains it again", job.title)
    if departures := describe_departures(done, job.training):
        logger.info("it stays as it was trained, with %s", departures)
    for sentence in list_ignored(done, job.training):
        logger.warning("%s", sentence)


def _validate(job: _Job, bar: ProgressBar) -> None:
    if not job.training.split.validation:
        return
    with fold_log(job.training.folder), bar("final validation") as progress:
        score = validate_fold(job.validation, progress).mean_foreground_dice
        dice = "none" if score is None else f"{score:.4f}"
        logger.info("whole-volume Dice of fold %s: %s", job.training.fold, dice)


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Of several processes one tells how training goes; the others say what goes wrong with them."""
    autoseg = logging.getLogger("autoseg")
    level = autoseg.level
    autoseg.setLevel(logging.WARNING)
    try:
        yield
    finally:
        autoseg.setLevel(level)
