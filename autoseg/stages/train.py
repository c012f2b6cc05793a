"""Train one configuration on one fold, then predict and score the fold's validation cases as whole volumes."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.errors import TrainingError, UsageError
from autoseg.imaging.case_reading import read_case
from autoseg.imaging.geometry import restore_array
from autoseg.imaging.labels import decode_label_map
from autoseg.imaging.reading import read_label_map
from autoseg.imaging.storage import open_case, stored_cases
from autoseg.imaging.writing import label_map_ending, write_label_map
from autoseg.inference.case import predict_preprocessed
from autoseg.inference.model_loading import load_configuration
from autoseg.inference.sliding_window import count_windows
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.networks.build import build_network
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import CaseFiles, DatasetDescription
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import Progress, read_record, write_record
from autoseg.records.plan import Configuration, Plan, Split, Splits, TrainingSpec, hash_of, model_hash
from autoseg.records.workspace import Workspace
from autoseg.report.figures import plot_progress
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
                evaluation = _validate(job, progress)
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
    validation = VALIDATION_MARGIN * _estimate_validation(job)
    reserved = STARTUP_SECONDS + time.monotonic() - began + validation
    if reserved >= promised:
        raise TrainingError(
            f"{promised:.0f} s are too few for {job.name}: start-up and the final validation alone need "
            f"{reserved:.0f} s. Allow more time."
        )
    return promised - reserved


def _estimate_validation(job: _Job) -> float:
    """Seconds of the final validation: one case with an untrained network, times windows of all by windows of it."""
    if not job.split.validation:
        return 0.0
    network = build_network(job.configuration.network, deep_supervision=False).to(job.device).eval()
    shapes = [open_case(job.preprocessed, case).record.shape for case in job.split.validation]
    windows = [count_windows(shape, job.configuration.patch_size) for shape in shapes]
    seconds = 0.0
    for _ in range(2):  # the first call also pays for kernels being set up
        began = time.monotonic()
        _predict(job, network, job.split.validation[0])
        seconds = time.monotonic() - began
    return seconds * sum(windows) / windows[0]


def _predict(job: _Job, network: torch.nn.Module, case: str) -> NDArray[np.int16]:
    stored = open_case(job.preprocessed, case)
    image = stored.array[: len(job.plan.channel_names)]
    return predict_preprocessed(
        [network], image, stored.record, job.plan, job.name, device=job.device, dtype=job.precision
    )


def _validate(job: _Job, progress: Progress | None) -> Evaluation:
    """Predict every validation case with the final weights, write the label maps, score them on their own grid."""
    loaded = load_configuration(job.workspace, job.plan, job.name, [job.fold], "final", job.device)
    folder = job.folder / "validation"
    scores = []
    for number, files in enumerate(_files(job, job.split.validation), start=1):
        scores.append(_validate_case(job, loaded.networks[0], files, folder))
        if progress is not None:
            progress(number, len(job.split.validation))
    names = [head.name for head in job.plan.encoding.heads if head.indices != (0,)]
    evaluation = summarize(scores, names)
    write_record(evaluation, folder / "evaluation.json")
    return evaluation


def _validate_case(job: _Job, network: torch.nn.Module, files: CaseFiles, folder: Path) -> CaseScores:
    dataset = job.workspace.dataset_folder(job.dataset.folder)
    original = read_case(dataset, files, job.plan.encoding, job.plan.orientation)
    indices = restore_array(_predict(job, network, files.case), original.orientation)
    labels = decode_label_map(indices, job.plan.encoding)
    path = folder / f"{files.case}{label_map_ending(job.dataset.file_ending)}"
    write_label_map(labels, original.template, path)
    reference = read_label_map(dataset / files.label).array[0]
    return score_case(files.case, labels, reference, job.plan.labels)


def _title(job: _Job) -> str:
    return f"{job.dataset.name}: {job.name}, fold {job.fold}"


def _files(job: _Job, cases: Sequence[str]) -> list[CaseFiles]:
    by_case = {files.case: files for files in job.dataset.cases}
    return [by_case[case] for case in cases]
