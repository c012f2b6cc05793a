"""Train one configuration on one fold, then predict and score the fold's validation cases as whole volumes."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from autoseg.costs.memory import estimate_gpu_bytes
from autoseg.errors import TrainingError, UsageError
from autoseg.folds import find_split
from autoseg.imaging.arrays.storage import label_map_origin
from autoseg.imaging.datasets.labels.absent_labels import missing_labels
from autoseg.inference.models.cascade_maps import load_previous
from autoseg.interop.models import open_model
from autoseg.interop.nnssl import ENDINGS, read_nnssl_encoder
from autoseg.locks import lock, refuse_planning
from autoseg.metrics.learning import LEARNED_DICE, unlearned_labels
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import (
    choose_device,
    describe_faulty_versions,
    is_out_of_memory,
    use_precision,
    why_no_gpu,
)
from autoseg.progress import ProgressBar, no_bar
from autoseg.provenance import PROVENANCE_NAME, write_provenance
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.records.dataset import BACKGROUND, IGNORE, DatasetDescription, foreground_names
from autoseg.records.files import read_record
from autoseg.records.fingerprint import data_hash
from autoseg.records.plan import Plan
from autoseg.records.temporaries import sweep_temporaries
from autoseg.records.workspace import Workspace
from autoseg.report.charts.figures import plot_progress
from autoseg.stages.validate import estimate_validation_seconds, is_validated, lacks_next_step_maps, validate_fold
from autoseg.text import format_memory, format_this_command
from autoseg.training.distributed import device_of_process, is_first_process, join_ranks
from autoseg.training.folds.earlier_training import describe_changed_options, finished_earlier, list_ignored
from autoseg.training.folds.fold import Fold
from autoseg.training.folds.fold_logs import fold_log, warnings_only
from autoseg.training.folds.planned_data import (
    check_fold_files,
    check_preprocessed,
    check_still_planned,
    check_undamaged,
    planned_arrays,
    read_fingerprint,
)
from autoseg.training.folds.soft_cases import find_soft_cases
from autoseg.training.folds.tracking import track
from autoseg.training.folds.training import train_until_done
from autoseg.training.options import TrainingOptions, apply_options, find_configuration
from autoseg.training.probe import describe_torch_device

logger = logging.getLogger("autoseg.train")

STARTUP_SECONDS = 8.0
"""Seconds of a promised time that pass before and after what this stage can measure: loading torch, ending."""

VALIDATION_MARGIN = 1.3
"""Factor on the measured time of the final validation: later cases may be larger, and the machine busier."""


def train_fold(
    workspace: Workspace,
    configuration_name: str,
    fold_name: str,
    options: TrainingOptions,
    *,
    bar: ProgressBar = no_bar,
) -> Checkpoint:
    """Train a fold, or resume its training, and score its validation cases; a finished fold is left as it is.

    Started by torchrun, all processes call this and train together; only the first one writes and validates.

    Args:
        workspace: Planned and preprocessed.
        configuration_name: Name in the plan.
        fold_name: Index in splits.json as text, or `all` (every case trains, none validates).
        options: What the user wants otherwise than planned.
        bar: Shows progress; in the first of several processes only.

    Returns:
        The final checkpoint; unfinished when the training was stopped by a signal.

    Raises:
        UsageError: If configuration or fold do not exist, the data is not preprocessed, files were changed after
            planning, or options do not fit.
        TrainingError: If training cannot continue, memory is too small, the workspace was planned otherwise meanwhile,
            or a cascade's previous configuration is not trained.
        LockedError: If another process trains this fold, or plans the workspace.
    """
    began = time.monotonic()
    prepared = prepare_fold(workspace, configuration_name, fold_name, options)
    with _locking_fold(prepared), naming_lack_of_memory(prepared), join_ranks(prepared.device) as ranks:
        fold = replace(prepared, ranks=ranks)
        _check_ranks(fold)
        earlier = None if options.restart else finished_earlier(fold)
        _, one_has_work = ranks.agree(0.0, stop=earlier is None)  # then all of them train, or find out that they cannot
        if ranks.is_first:
            sweep_temporaries(fold.folder, recursive=True)
        if ranks.is_first and earlier is None:
            if fault := describe_faulty_versions(fold.device):
                logger.warning("warning: %s", fault)
            check_undamaged(fold)
            _warn_of_missing_labels(fold)
        checkpoint = _train_in_time(fold, began, bar) if earlier is None or one_has_work else earlier
    if ranks.is_first and checkpoint.finished:
        if earlier is None or one_has_work:
            _score_validation_cases(fold, bar, checkpoint.step)
        else:
            _finish_already_trained(fold, bar, earlier)
    return checkpoint


@contextmanager
def _locking_fold(fold: Fold) -> Iterator[None]:
    """Keep others from training the same fold, or planning, meanwhile; the first of several processes does it."""
    if not is_first_process():
        yield
        return
    refuse_planning(fold.workspace)
    path = fold.workspace.training_lock(fold.configuration_name, fold.fold_name)
    with lock(path, f"trained ({fold.title})"):
        refuse_planning(fold.workspace)  # planning may have begun in between
        yield


@contextmanager
def naming_lack_of_memory(fold: Fold) -> Iterator[None]:
    """Say in one sentence what to do when the device's or the machine's memory is exhausted."""
    try:
        yield
    except (RuntimeError, MemoryError, TrainingError) as error:
        if not is_out_of_memory(error):
            raise
        estimate = fold.configuration.estimates.training_memory_bytes
        if estimate is not None and device_type(fold.device).is_gpu:
            estimate = estimate_gpu_bytes(estimate)
        planned = "" if estimate is None else f" (the plan expects about {format_memory(estimate)} for training)"
        raise TrainingError(
            f"{fold.title}: the memory of {fold.device} is too small or used by others{planned}. End other programs "
            "that use it and give the same command again; or plan again for less, autoseg-plan with the same workspace "
            "and --memory SIZE, then train with --restart."
        ) from error


def prepare_fold(workspace: Workspace, name: str, fold_name: str, options: TrainingOptions) -> Fold:
    """Decide everything that one process can decide alone."""
    plan = read_record(Plan, workspace.plan)
    configuration = apply_options(find_configuration(plan, name, workspace.plan), options)
    dataset = read_record(DatasetDescription, workspace.dataset)
    folder = workspace.dataset_folder(dataset.folder)
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: the dataset is missing, and the final validation needs its label maps. Move it back, or plan "
            "again with the same workspace (-w); preprocessed data and trained folds stay."
        )
    _check_labels(plan, workspace)
    split = find_split(workspace, dataset, fold_name)
    cases = [*split.training, *split.validation]
    fingerprint = read_fingerprint(workspace)
    arrays = planned_arrays(plan, name, fingerprint)
    check_preprocessed(workspace, plan, name, cases, arrays)
    for next_name, following in plan.configurations.items():
        if following.previous_configuration == name:  # the validation makes label maps on its grid
            following_arrays = planned_arrays(plan, next_name, fingerprint)
            check_preprocessed(workspace, plan, next_name, split.validation, following_arrays)
    check_fold_files(workspace, dataset, split.training, split.validation)
    is_cascade = configuration.previous_configuration is not None
    previous = load_previous(workspace, plan, name, cases) if is_cascade else None
    device = device_of_process(choose_device(options.device))
    planned = plan.budget.device
    if planned != "cpu" and options.device == "auto" and device.type == "cpu":
        reason = why_no_gpu() if planned == "cuda" else f"--device {planned} trains on that"
        logger.warning("warning: planned for a GPU, trained on the CPU: %s", reason)
    return Fold(
        workspace=workspace,
        dataset=dataset,
        plan=plan,
        configuration_name=name,
        configuration=configuration,
        fold_name=fold_name,
        split=split,
        data_hash="" if fingerprint is None else data_hash(fingerprint, split),
        planned_arrays=arrays,
        previous=previous,
        soft=find_soft_cases(workspace, plan, name, fold_name),
        previous_origins=tuple(label_map_origin(previous[case]) for case in sorted(previous)) if previous else (),
        options=options,
        device=device,
        training_precision=use_precision(options.precision, device),
    )


def _check_labels(plan: Plan, workspace: Workspace) -> None:
    """Check that the labels of a plan are those that its encoding has, because somebody may have edited one of both."""
    different = ({*plan.labels} - {BACKGROUND, IGNORE}) ^ {*foreground_names(plan.encoding)}
    if different:
        raise UsageError(
            f"{workspace.plan}: labels: differ from the labels of `encoding` in {', '.join(sorted(different))}; change "
            "both, or plan again"
        )


def _warn_of_missing_labels(fold: Fold) -> None:
    """Name the labels that no training case has once it is preprocessed."""
    for label in missing_labels(fold.preprocessed, fold.split.training, fold.plan.encoding):
        logger.warning(
            "warning: none of the %d training cases of fold %s has the label '%s' after preprocessing, so this network "
            "cannot learn it",
            len(fold.split.training), fold.fold_name, label,
        )  # fmt: skip
    if fold.never_sought:
        logger.warning(
            "warning: `annotated` of no training case of fold %s names %s, so this network takes them for absent",
            fold.fold_name, ", ".join(fold.never_sought),
        )  # fmt: skip


def _check_ranks(fold: Fold) -> None:
    devices, count, batch_size = fold.options.devices, fold.ranks.count, fold.configuration.batch_size
    planned = fold.plan.budget.devices
    if planned > 1 and count != planned:
        raise UsageError(
            f"the plan is for {planned} devices, by which batch, memory and learning rate were chosen, but {count} "
            f"process(es) run. Use autoseg train, which starts {planned}, or torchrun with as many; or plan again with "
            f"--devices {count}."
        )
    if devices not in (1, count):
        raise UsageError(
            f"{devices} devices are requested, but {count} process(es) run. Use autoseg train --devices {devices}, or "
            "torchrun with as many processes."
        )
    if count > batch_size:
        raise UsageError(
            f"{count} devices cannot share a batch of {batch_size} samples; use at most {batch_size} devices, or plan "
            "a larger batch."
        )


def _train_in_time(fold: Fold, began: float, bar: ProgressBar) -> Checkpoint:
    """Train in the time that is left; the first process shows and tracks it."""
    with _open_pretrained(fold) as prepared:
        if fold.ranks.is_first:
            return _train_visibly(prepared, began, bar)
        with warnings_only():
            return train_until_done(prepared, _training_seconds(prepared, began))


def _train_visibly(fold: Fold, began: float, bar: ProgressBar) -> Checkpoint:
    with fold_log(fold.folder), track(fold.options.tracking, fold.folder, fold.title) as record_epoch:

        def show(history: list[EpochHistory]) -> None:
            record_epoch(history[-1])

        def draw(history: list[EpochHistory]) -> None:
            plot_progress(history, fold.folder / "progress.png", f"{fold.dataset.name}: {fold.title}")

        logger.info("%s", format_this_command())
        logger.info(
            "training %s: %d cases, %d for validation, on %s in %s, processes: %d",
            fold.title,
            len(fold.split.training),
            len(fold.split.validation),
            fold.device,
            fold.training_precision,
            fold.ranks.count,
        )
        limit = _training_seconds(fold, began)
        with bar(fold.title) as progress:
            checkpoint = train_until_done(fold, limit, progress=progress, after_epoch=show, draw=draw)
        logger.info("trained after %.0f s", time.monotonic() - began)
        device = describe_torch_device(str(fold.device))
        path = fold.folder / PROVENANCE_NAME
        write_provenance(path, fold.workspace, device=device, seed=fold.options.seed)
    return checkpoint


@contextmanager
def _open_pretrained(fold: Fold) -> Iterator[Fold]:
    """Give a fold that starts with pretrained weights their folder; an exported model is unpacked meanwhile."""
    if fold.options.pretrained is None or not fold.starts_afresh:
        yield fold
        return
    if fold.options.pretrained.suffix in ENDINGS:
        encoder = read_nnssl_encoder(fold.options.pretrained)
        yield replace(fold, pretrained_encoder=encoder.name_for(fold.configuration.network))
        return
    with open_model(fold.options.pretrained) as model:
        yield replace(fold, pretrained=model.root)


def _training_seconds(fold: Fold, began: float) -> float | None:
    """Seconds of a promised time that are left for training itself; None when steps alone decide.

    The first process measures for all.
    """
    promised = fold.spec.time_per_fold_seconds
    if promised is None:
        return None
    reserved = 0.0
    if fold.ranks.is_first:
        validation = VALIDATION_MARGIN * estimate_validation_seconds(fold)
        reserved = STARTUP_SECONDS + time.monotonic() - began + validation
    (reserved,) = fold.ranks.broadcast_numbers([reserved])
    if reserved >= promised:
        raise TrainingError(
            f"{promised:.0f} s are too few for {fold.configuration_name}: start-up and the final validation alone need "
            f"{reserved:.0f} s. Allow more time."
        )
    return promised - reserved


def _finish_already_trained(fold: Fold, bar: ProgressBar, earlier: Checkpoint) -> None:
    """Validate if that was interrupted, or for a cascade that was planned later; log which options are ignored."""
    if not is_validated(fold) or lacks_next_step_maps(fold):
        _score_validation_cases(fold, bar, earlier.step)
    logger.info("%s is trained and validated; --restart trains it again", fold.title)
    if changed := describe_changed_options(earlier, fold):
        logger.info("it stays as it was trained, with %s", changed)
    for sentence in list_ignored(earlier, fold):
        logger.warning("%s", sentence)


def _score_validation_cases(fold: Fold, bar: ProgressBar, steps: int) -> None:
    """Validate on whole volumes, log the score, and warn if so many steps were too few to learn."""
    if not fold.split.validation:
        return
    check_still_planned(fold)
    with naming_lack_of_memory(fold), fold_log(fold.folder), bar("final validation") as progress:
        evaluation = validate_fold(fold, progress)
        score = evaluation.mean_foreground_dice
        dice = "none" if score is None else f"{score:.4f}"
        logger.info("whole-volume Dice of fold %s: %s", fold.fold_name, dice)
        if unlearned := unlearned_labels(evaluation, steps):
            logger.warning("%s", _describe_short_training(fold, unlearned, steps))


def _describe_short_training(fold: Fold, unlearned: Mapping[str, float], steps: int) -> str:
    found = ", ".join(f"{name} {dice:.3f}" for name, dice in unlearned.items())
    planned = fold.spec.epochs * fold.spec.steps_per_epoch
    slow = f" ({planned} were planned: the machine is busier or slower than when it was measured)"
    return (
        f"{fold.title} was trained too briefly to learn: {steps} steps{slow if steps < planned else ''}, Dice of "
        f"validation cases below {LEARNED_DICE:g} for {found}. Train it again with --restart and more time "
        "(--max-time TIME), or plan again with a longer --time-per-fold."
    )
