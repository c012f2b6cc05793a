"""Train one configuration on one fold, then predict and score the fold's validation cases as whole volumes."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.errors import TrainingError, UsageError
from autoseg.imaging.storage import stored_cases
from autoseg.inference.previous_stage import load_previous
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import Progress, read_record
from autoseg.records.plan import Configuration, Plan, Split, Splits, hash_of, model_hash
from autoseg.records.workspace import Workspace
from autoseg.report.figures import plot_progress
from autoseg.stages.validate import Validation, estimate_validation_seconds, lacks_next_stage, validate_fold
from autoseg.training.distributed import Ranks, device_of_process, join_ranks
from autoseg.training.fold import train_until_done
from autoseg.training.fold_training import FoldTraining
from autoseg.training.loading import default_workers
from autoseg.training.log import fold_log
from autoseg.training.options import TrainingOptions, apply_options
from autoseg.training.previous import finished_earlier, forget_results
from autoseg.training.sampling import SliceableLabels
from autoseg.training.tracking import track

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
    with join_ranks(job.device) as ranks:
        _check_ranks(job, options, ranks)
        training = _fold_training(job, options, ranks)
        done = None if options.restart else finished_earlier(training)
        ranks.barrier()  # all have looked before the first one changes anything
        checkpoint = done or _train(job, training, options, began, bar)
    if ranks.is_first and checkpoint.finished:
        _validate(job, bar, trained=done is None)
    return checkpoint


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything that is decided before the processes are joined."""

    workspace: Workspace
    dataset: DatasetDescription
    plan: Plan
    name: str
    configuration: Configuration
    """With the user's options in its schedule."""
    fold: str
    split: Split
    previous: Mapping[str, SliceableLabels] | None
    """Cascade: label maps by case."""
    device: torch.device
    precision: torch.dtype

    @property
    def folder(self) -> Path:
        return self.workspace.fold(self.name, self.fold)

    @property
    def preprocessed(self) -> Path:
        return self.workspace.preprocessed(self.configuration.preprocessed_as)

    @property
    def validation(self) -> Validation:
        return Validation(
            workspace=self.workspace,
            dataset=self.dataset,
            plan=self.plan,
            configuration=self.name,
            fold=self.fold,
            cases=self.split.validation,
            device=self.device,
            dtype=self.precision,
        )


def _prepare(workspace: Workspace, name: str, fold: str, options: TrainingOptions) -> _Job:
    plan = read_record(Plan, workspace.plan)
    if name not in plan.configurations:
        raise UsageError(f"{workspace.plan}: no configuration {name!r}; it has {', '.join(plan.configurations)}")
    configuration = apply_options(plan.configurations[name], options)
    dataset = read_record(DatasetDescription, workspace.dataset)
    folder = workspace.dataset_folder(dataset.folder)
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: the dataset is not there, and the final validation needs its label maps. Move it back, or plan "
            "again with the same workspace (-w); what is preprocessed and trained stays."
        )
    split = _find_split(workspace, dataset, fold)
    cases = sorted({*split.training, *split.validation})
    _check_preprocessed(workspace.preprocessed(configuration.preprocessed_as), cases)
    is_cascade = configuration.previous_configuration is not None
    device = device_of_process(choose_device(options.device))
    return _Job(
        workspace=workspace,
        dataset=dataset,
        plan=plan,
        name=name,
        configuration=configuration,
        fold=fold,
        split=split,
        previous=load_previous(workspace, plan, name, cases) if is_cascade else None,
        device=device,
        precision=choose_dtype(options.precision, device),
    )


def _find_split(workspace: Workspace, dataset: DatasetDescription, fold: str) -> Split:
    splits = read_record(Splits, workspace.splits)
    if fold == "all":
        return Split(training=tuple(files.case for files in dataset.cases), validation=())
    if fold not in map(str, range(len(splits.folds))):
        names = ", ".join([*map(str, range(len(splits.folds))), "all"])
        raise UsageError(f"fold {fold!r} does not exist; {workspace.splits} has {names}")
    return splits.folds[int(fold)]


def _check_preprocessed(folder: Path, cases: list[str]) -> None:
    missing = sorted(set(cases) - set(stored_cases(folder)))
    if missing:
        raise UsageError(
            f"{folder}: {len(missing)} cases are not preprocessed, {missing[0]} first. Run autoseg-plan again with the "
            "same workspace, without --no-preprocess."
        )


def _check_ranks(job: _Job, options: TrainingOptions, ranks: Ranks) -> None:
    if options.devices not in (1, ranks.count):
        raise UsageError(
            f"{options.devices} devices are asked for, but {ranks.count} process(es) run. Use autoseg train --devices "
            f"{options.devices}, or torchrun with as many processes."
        )
    if ranks.count > job.configuration.batch_size:
        raise UsageError(
            f"{ranks.count} devices cannot share a batch of {job.configuration.batch_size} samples; use at most "
            f"{job.configuration.batch_size} devices, or plan a larger batch."
        )


def _fold_training(job: _Job, options: TrainingOptions, ranks: Ranks) -> FoldTraining:
    return FoldTraining(
        folder=job.folder,
        preprocessed=job.preprocessed,
        plan=job.plan,
        name=job.name,
        configuration=job.configuration,
        fold=job.fold,
        model_hash=model_hash(job.plan, job.name),
        cases_hash=hash_of(sorted(job.split.training)),
        split=job.split,
        previous=job.previous,
        device=job.device,
        precision=job.precision,
        ranks=ranks,
        compile=options.compile,
        seed=options.seed,
        workers=default_workers(job.device) if options.workers is None else options.workers,
        restart=options.restart,
        pretrained=options.pretrained,
        freeze_encoder=options.freeze_encoder,
    )


def _train(job: _Job, training: FoldTraining, options: TrainingOptions, began: float, bar: ProgressBar) -> Checkpoint:
    """Train in the time that is left, showing and tracking how it goes."""
    ranks = training.ranks
    if ranks.is_first:
        forget_results(job.folder, everything=options.restart)
    ranks.barrier()
    if not ranks.is_first:
        with _warnings_only():
            return train_until_done(training, _training_seconds(job, began, ranks))
    title = f"{job.name} fold {job.fold}"
    with fold_log(job.folder), track(options.tracking, job.folder, title) as tell:

        def show(history: list[EpochHistory]) -> None:
            tell(history[-1])
            plot_progress(history, job.folder / "progress.png", f"{job.dataset.name}: {job.name}, fold {job.fold}")

        logger.info(
            "training %s, fold %s: %d cases, %d for validation, on %s in %s, processes: %d",
            job.name, job.fold, len(job.split.training), len(job.split.validation), job.device, job.precision,
            ranks.count,
        )  # fmt: skip
        limit = _training_seconds(job, began, ranks)
        with bar(f"{title}, percent") as progress:
            checkpoint = train_until_done(training, limit, progress=progress, after_epoch=show)
        logger.info("trained after %.0f s", time.monotonic() - began)
    return checkpoint


def _training_seconds(job: _Job, began: float, ranks: Ranks) -> float | None:
    """What is left of a promised time for training itself; None when steps alone decide.

    The first process measures for all.
    """
    promised = job.configuration.training.time_per_fold_seconds
    if promised is None:
        return None
    reserved = 0.0
    if ranks.is_first:
        axes = job.configuration.training.mirror_axes
        validation = VALIDATION_MARGIN * estimate_validation_seconds(job.validation, axes)
        reserved = STARTUP_SECONDS + time.monotonic() - began + validation
    (reserved,) = ranks.broadcast_numbers([reserved])
    if reserved >= promised:
        raise TrainingError(
            f"{promised:.0f} s are too few for {job.name}: start-up and the final validation alone need "
            f"{reserved:.0f} s. Allow more time."
        )
    return promised - reserved


def _validate(job: _Job, bar: ProgressBar, *, trained: bool) -> None:
    """Score the fold after its training, or make what a cascade that was planned later needs of it."""
    if not trained and not lacks_next_stage(job.validation):
        logger.info("%s, fold %s is trained and validated; --restart trains it again", job.name, job.fold)
        return
    if not job.split.validation:
        return
    with fold_log(job.folder), bar("final validation") as progress:
        score = validate_fold(job.validation, progress).mean_foreground_dice
        logger.info("whole-volume Dice of fold %s: %s", job.fold, "none" if score is None else f"{score:.4f}")


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
