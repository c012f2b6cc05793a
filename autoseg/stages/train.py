"""Train one configuration on one fold, then predict and score the fold's validation cases as whole volumes."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from autoseg.errors import TrainingError, UsageError
from autoseg.imaging.storage import stored_cases
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import Progress, read_record
from autoseg.records.plan import Configuration, LossName, Plan, Split, Splits, TrainingSpec, hash_of, model_hash
from autoseg.records.workspace import Workspace
from autoseg.report.figures import plot_progress
from autoseg.stages.validate import Validation, estimate_validation_seconds, validate_fold
from autoseg.training.fold import FoldTraining, train_until_done
from autoseg.training.loading import default_workers
from autoseg.training.log import fold_log
from autoseg.training.previous import finished_earlier, forget_results

logger = logging.getLogger("autoseg.train")

STARTUP_SECONDS = 8.0
"""Share of a promised time that passes before and after what this stage can measure: loading torch, leaving."""

VALIDATION_MARGIN = 1.3
"""Factor on the measured time of the final validation: later cases may be larger, and the machine busier."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a user may say about one training; None: as planned."""

    device: str = "auto"
    precision: str = "auto"
    epochs: int | None = None
    steps_per_epoch: int | None = None
    max_time_seconds: float | None = None
    """Wall-clock limit for the fold, final validation included."""
    restart: bool = False
    """False: go on from the last checkpoint when there is one."""
    seed: int = 0
    workers: int | None = None
    """Processes that prepare batches; 0: none besides the training process."""
    loss: LossName | None = None
    mirror_axes: tuple[int, ...] | None = None
    """Spatial axes of the patch; (): none. Prediction averages over the same ones."""
    learning_rate: float | None = None
    optimizer: Literal["sgd", "adamw"] | None = None
    warmup_fraction: float | None = None
    """Share of the training over which the learning rate rises."""
    compile: Literal["auto", "on", "off"] = "auto"
    pretrained: Path | None = None
    """A workspace or a weights file's fold folder to start from; see `training.transfer`."""
    freeze_encoder: bool = False
    """Train the decoder alone."""
    tracking: Literal["tensorboard", "mlflow"] | None = None


def train_fold(
    workspace: Workspace,
    configuration: str,
    fold: str,
    options: TrainingOptions,
    *,
    bar: Callable[[str], AbstractContextManager[Progress | None]] = lambda _title: nullcontext(None),
) -> Checkpoint:
    """Train a fold, or go on with it, and score its validation cases; a finished fold is left as it is.

    Args:
        workspace: Planned and preprocessed.
        configuration: Name in the plan.
        fold: Index in splits.json as text, or `all` (every case trains, none validates).
        options: See TrainingOptions.
        bar: Shows progress.

    Returns:
        The final checkpoint; unfinished when the training was stopped by a signal.

    Raises:
        UsageError: If configuration or fold do not exist, or the data is not preprocessed.
        TrainingError: If training cannot go on.
    """
    began = time.monotonic()
    job = _prepare(workspace, configuration, fold, options)
    training = _fold_training(job, options)
    done = None if options.restart else finished_earlier(training)
    if done is not None:
        logger.info("%s, fold %s is trained and validated; --restart trains it again", configuration, fold)
        return done
    forget_results(job.folder, everything=options.restart)
    with fold_log(job.folder):
        logger.info(
            "training %s, fold %s: %d cases, %d for validation, on %s in %s",
            configuration, fold, len(job.split.training), len(job.split.validation), job.device, job.precision,
        )  # fmt: skip
        limit = _training_seconds(job, began)
        with bar(f"{configuration} fold {fold}, percent") as progress:
            checkpoint = train_until_done(
                training,
                limit,
                progress=progress,
                after_epoch=lambda history: plot_progress(history, job.folder / "progress.png", _title(job)),
            )
        if checkpoint.finished and job.split.validation:
            with bar("final validation") as progress:
                evaluation = validate_fold(_validation(job), progress)
            score = evaluation.mean_foreground_dice
            logger.info("whole-volume Dice of fold %s: %s", fold, "none" if score is None else f"{score:.4f}")
        logger.info("done after %.0f s", time.monotonic() - began)
    return checkpoint


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything that is decided before the first step."""

    workspace: Workspace
    dataset: DatasetDescription
    plan: Plan
    name: str
    configuration: Configuration
    fold: str
    split: Split
    spec: TrainingSpec
    device: torch.device
    precision: torch.dtype

    @property
    def folder(self) -> Path:
        return self.workspace.fold(self.name, self.fold)

    @property
    def preprocessed(self) -> Path:
        return self.workspace.preprocessed(self.configuration.preprocessed_as)


def _prepare(workspace: Workspace, name: str, fold: str, options: TrainingOptions) -> _Job:
    plan = read_record(Plan, workspace.plan)
    if name not in plan.configurations:
        raise UsageError(f"{workspace.plan}: no configuration {name!r}; it has {', '.join(plan.configurations)}")
    configuration = plan.configurations[name]
    if configuration.previous_configuration is not None:
        raise UsageError(
            f"{name} is the second half of a cascade and needs label maps of {configuration.previous_configuration} "
            "for every case; training it is not available yet. Train 3d_fullres or 3d_lowres."
        )
    dataset = read_record(DatasetDescription, workspace.dataset)
    folder = workspace.dataset_folder(dataset.folder)
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: the dataset is not there, and the final validation needs its label maps. Move it back, or plan "
            "again with the same workspace (-w); what is preprocessed and trained stays."
        )
    split = _find_split(workspace, fold)
    folder = workspace.preprocessed(configuration.preprocessed_as)
    missing = sorted({*split.training, *split.validation} - set(stored_cases(folder)))
    if missing:
        raise UsageError(
            f"{folder}: {len(missing)} cases are not preprocessed, {missing[0]} first. Run autoseg-plan again with the "
            "same workspace, without --no-preprocess."
        )
    device = choose_device(options.device)
    return _Job(
        workspace=workspace,
        dataset=dataset,
        plan=plan,
        name=name,
        configuration=configuration,
        fold=fold,
        split=split,
        spec=_override(configuration.training, options),
        device=device,
        precision=choose_dtype(options.precision, device),
    )


def _override(spec: TrainingSpec, options: TrainingOptions) -> TrainingSpec:
    """Options instead of planned values; steps that were asked for are not limited by the plan's clock."""
    changes: dict[str, object] = {}
    if options.epochs is not None or options.steps_per_epoch is not None:
        changes["time_per_fold_seconds"] = None
    if options.epochs is not None:
        changes["epochs"] = options.epochs
    if options.steps_per_epoch is not None:
        changes["steps_per_epoch"] = options.steps_per_epoch
    if options.max_time_seconds is not None:
        changes["time_per_fold_seconds"] = options.max_time_seconds
    return spec.model_copy(update=changes)


def _find_split(workspace: Workspace, fold: str) -> Split:
    splits = read_record(Splits, workspace.splits)
    if fold == "all":
        cases = tuple(files.case for files in read_record(DatasetDescription, workspace.dataset).cases)
        return Split(training=cases, validation=())
    if fold not in map(str, range(len(splits.folds))):
        names = ", ".join([*map(str, range(len(splits.folds))), "all"])
        raise UsageError(f"fold {fold!r} does not exist; {workspace.splits} has {names}")
    return splits.folds[int(fold)]


def _fold_training(job: _Job, options: TrainingOptions) -> FoldTraining:
    return FoldTraining(
        folder=job.folder,
        preprocessed=job.preprocessed,
        name=job.name,
        fold=job.fold,
        model_hash=model_hash(job.plan, job.name),
        cases_hash=hash_of(sorted(job.split.training)),
        configuration=job.configuration,
        encoding=job.plan.encoding,
        split=job.split,
        spec=job.spec,
        device=job.device,
        precision=job.precision,
        seed=options.seed,
        workers=default_workers(job.device) if options.workers is None else options.workers,
        restart=options.restart,
    )


def _training_seconds(job: _Job, began: float) -> float | None:
    """What is left of a promised time for training itself; None when steps alone decide."""
    promised = job.spec.time_per_fold_seconds
    if promised is None:
        return None
    validation = VALIDATION_MARGIN * estimate_validation_seconds(_validation(job))
    reserved = STARTUP_SECONDS + time.monotonic() - began + validation
    if reserved >= promised:
        raise TrainingError(
            f"{promised:.0f} s are too few for {job.name}: start-up and the final validation alone need "
            f"{reserved:.0f} s. Allow more time."
        )
    return promised - reserved


def _validation(job: _Job) -> Validation:
    return Validation(
        workspace=job.workspace,
        dataset=job.dataset,
        plan=job.plan,
        configuration=job.name,
        fold=job.fold,
        cases=job.split.validation,
        device=job.device,
        dtype=job.precision,
    )


def _title(job: _Job) -> str:
    return f"{job.dataset.name}: {job.name}, fold {job.fold}"
