"""From a dataset to a workspace that can be trained: the planning half of the pipeline.

    describe -> fingerprint -> plan, or trials of several plans -> split -> preprocess

Tested in tests/pipeline/test_order.py and tests/pipeline/test_resampling_choice.py.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.cluster.dask_workers import Workers
from autoseg.costs.preprocessing import MIN_RESAMPLING_SECONDS, preprocessing_memory_bytes, resampling_seconds
from autoseg.imaging.arrays.resampling import ImageResampler, resample_on_cpu
from autoseg.imaging.datasets.labels.absent_labels import labels_lost_in_preprocessing, labels_without_training_case
from autoseg.imaging.datasets.labels.label_reading import AS_LABEL_VALUES, ReadingOptions
from autoseg.imaging.datasets.labels.label_tables import LabelNames
from autoseg.imaging.datasets.layouts.patterns import FilePatterns
from autoseg.locks import lock, refuse_planning, refuse_trainings
from autoseg.plugins import DEFAULT_PLANNER
from autoseg.progress import ProgressBar, no_bar
from autoseg.provenance import write_provenance
from autoseg.records.budget import Budget
from autoseg.records.dataset import DatasetDescription, LabelValues, OrientationName
from autoseg.records.files import holds_record, real_path, relative_path, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan, Splits, Target
from autoseg.records.temporaries import sweep_temporaries
from autoseg.records.workspace import Workspace
from autoseg.stages.candidates import TrialRequest
from autoseg.stages.describe import describe_dataset, log_description
from autoseg.stages.fingerprint import extract_fingerprint
from autoseg.stages.plan import make_plan, read_kept_plan, warn_of_edits
from autoseg.stages.plan_students import keep_students
from autoseg.stages.preprocess import preprocess_dataset, refuse_absurd_sizes
from autoseg.stages.split import keep_edited_splits, make_splits, tell_of_kept_splits
from autoseg.system import count_cores
from autoseg.worker_memory import limit_workers

logger = logging.getLogger("autoseg.pipeline")


@dataclass(frozen=True, kw_only=True)
class PlanningOptions:
    """User options of planning, besides the budget."""

    planner: str = DEFAULT_PLANNER
    target: Target = "labels"
    orientation: OrientationName = "canonical"
    channel_names: tuple[str, ...] | None = None
    labels: Mapping[str, LabelValues] | LabelNames | None = None
    """Values in the files by name, for datasets that do not declare their labels; or what a file names."""
    reading: ReadingOptions = AS_LABEL_VALUES
    """How label files are read whose pixels are not label values."""
    patterns: FilePatterns | None = None
    """Names of the dataset's files, as the user gives them; None: the layout is recognised."""
    folds: int = 5
    group_by: str | None = None
    skip_faulty: bool = False
    missing_channels: bool = False
    preprocess: bool = True
    keep_plan: bool = False
    """Whether plan.json of the workspace is used as it is, for example edited by hand."""
    trial_seconds: float | None = None
    """Time for trials of several candidates on fold 0, the best of which is planned; None: rules decide."""
    trial_device: str = "auto"
    """Device that trains them: a name of `choose_device`."""
    max_memory: int | None = None
    """Memory in bytes that worker processes may take together; None: what is free."""
    resampling_device: str | None = None
    """Name of a GPU here that may resample the images; None: the CPU does."""
    write: bool = True
    """Whether files are written; False: decide everything and write nothing."""


@dataclass(frozen=True)
class PlannedDataset:
    """What is decided about a dataset, before anything is written."""

    description: DatasetDescription
    """Its folder is that of the dataset."""
    fingerprint: Fingerprint
    plan: Plan
    splits: Splits

    @property
    def fold_names(self) -> tuple[str, ...]:
        """Names of the folds; `all` when there are too few cases to leave any out."""
        return tuple(str(index) for index in range(len(self.splits.folds))) or ("all",)


def check_dataset(
    dataset: Path, options: PlanningOptions, *, workers: Workers | None = 1, bar: ProgressBar = no_bar
) -> DatasetDescription:
    """Describe a dataset; its notes and warnings are logged.

    Raises:
        DatasetError: If the dataset has faults; all of them are listed.
    """
    with bar("checking") as progress:
        description = describe_dataset(
            dataset, patterns=options.patterns, channel_names=options.channel_names, labels=options.labels,
            reading=options.reading, orientation=options.orientation, skip_faulty=options.skip_faulty, workers=workers,
            missing_channels=options.missing_channels, max_memory=options.max_memory, progress=progress,
        )  # fmt: skip
    log_description(description)
    return description


def plan_dataset(
    dataset: Path,
    workspace: Workspace,
    budget: Budget,
    options: PlanningOptions,
    *,
    description: DatasetDescription | None = None,
    workers: Workers | None = 1,
    bar: ProgressBar = no_bar,
) -> Plan:
    """Describe, fingerprint, plan, split and preprocess a dataset; loads torch only where trials decide.

    Args:
        dataset: Folder or list file.
        workspace: Folder that everything is written to.
        budget: Limits for the plan.
        options: User options of planning.
        description: What `check_dataset` found; None: the dataset is checked here.
        workers: Processes; None: one for each core, fewer where they are not worth their start.
        bar: Progress display.

    Raises:
        DatasetError: If the dataset has faults; all of them are listed.
        PlanningError: If nothing fits the budget, or the plan or the edited folds that are kept were made for other
            data.
    """
    refuse_planning(workspace)
    if description is None:
        description = check_dataset(dataset, options, workers=workers, bar=bar)
    planned = decide_plan(description, workspace, budget, options, workers=workers, bar=bar)
    if options.write:
        planned = decide_by_trials(planned, workspace, options, workers=workers, bar=bar)
        write_plan(planned, workspace, options, workers=workers, bar=bar)
    return planned.plan


def decide_plan(
    description: DatasetDescription,
    workspace: Workspace,
    budget: Budget,
    options: PlanningOptions,
    *,
    workers: Workers | None = 1,
    bar: ProgressBar = no_bar,
) -> PlannedDataset:
    """Fingerprint, plan and split a dataset that was checked; writes nothing.

    Raises:
        PlanningError: If nothing fits the budget, or the plan or the edited folds that are kept were made for other
            data.
    """
    with bar("fingerprint") as progress:
        fingerprint = extract_fingerprint(
            description, Path(description.folder), workers=workers, max_memory=options.max_memory, progress=progress
        )
    if options.keep_plan:
        plan = read_kept_plan(workspace, fingerprint)
    else:
        plan = make_plan(fingerprint, budget, options.planner, options.target)
    refuse_absurd_sizes(plan, fingerprint)
    plan = plan.model_copy(update={"file_ending": description.file_ending})
    made = make_splits(fingerprint, folds=options.folds, group_by=options.group_by, listed=description.cases)
    splits = keep_edited_splits(workspace, made, fingerprint)
    if splits is made and any(files.fold is not None for files in description.cases):
        logger.info("note: %s --folds and --group-by are for datasets without folds.", made.reason)
    if splits is not made:
        tell_of_kept_splits(workspace, splits, fingerprint)
    for warning in labels_without_training_case(fingerprint, splits):
        logger.warning("warning: %s", warning)
    return PlannedDataset(description, fingerprint, plan, splits)


def decide_by_trials(
    planned: PlannedDataset,
    workspace: Workspace,
    options: PlanningOptions,
    *,
    workers: Workers | None = 1,
    bar: ProgressBar = no_bar,
) -> PlannedDataset:
    """Replace the plan of the rules by that of the best candidate on fold 0, where the user gives time for trials.

    Raises:
        UsageError: If the time is too short for two candidates; names the time that suffices.
        PlanningError: If there are not two candidates to choose from.
        TrainingError: If a signal interrupted the trials, or no candidate could be trained.
        LockedError: If another process plans the workspace or trains in it.
    """
    request = request_trials(planned, options)
    if request is None:
        return planned
    from autoseg.stages.trials import TrialTools, try_plans  # loads torch

    needed = preprocessing_memory_bytes(planned.plan, planned.fingerprint)
    processes = limit_workers(workers or count_cores(), needed, options.max_memory, "preprocessing")
    resampler = _choose_resampler(planned, options, processes, needed)
    tools = TrialTools(device=options.trial_device, workers=processes, resampler=resampler, bar=bar)
    plan = try_plans(request, workspace, tools, keep_arrays=options.preprocess)
    return replace(planned, plan=plan)


def request_trials(planned: PlannedDataset, options: PlanningOptions) -> TrialRequest | None:
    """What trials decide about, where the user gives time for them; None: rules decide."""
    if options.trial_seconds is None:
        return None
    return TrialRequest(
        description=planned.description,
        fingerprint=planned.fingerprint,
        splits=planned.splits,
        rules=planned.plan,
        budget=planned.plan.budget,
        planner=options.planner,
        target=options.target,
        seconds=options.trial_seconds,
    )


def write_plan(
    planned: PlannedDataset,
    workspace: Workspace,
    options: PlanningOptions,
    *,
    workers: Workers | None = 1,
    bar: ProgressBar = no_bar,
) -> None:
    """Write what was decided into the workspace, and preprocess the cases if `options` ask for it.

    Raises:
        DatasetError: If cases could not be preprocessed; lists them all.
        LockedError: If another process plans the workspace, or trains a fold for a plan or cases that would change.
    """
    description, plan = planned.description, keep_students(workspace, planned.plan)
    sweep_temporaries(workspace.root, recursive=True)
    recorded = relative_path(real_path(Path(description.folder)), real_path(workspace.root))
    records = {
        workspace.dataset: description.model_copy(update={"folder": recorded}),
        workspace.fingerprint: planned.fingerprint,
        workspace.splits: planned.splits,
        workspace.plan: plan,
    }
    with lock(workspace.planning_lock, "planned"):
        if not all(holds_record(path, record) for path, record in records.items()):
            refuse_trainings(workspace, "Planning again would change what is trained.")
        if not options.keep_plan:
            warn_of_edits(workspace, plan)
        for path, record in records.items():
            write_record(record, path)
        write_provenance(workspace.provenance("plan"), workspace)
        if options.preprocess:
            needed = preprocessing_memory_bytes(plan, planned.fingerprint)
            workers = limit_workers(workers or count_cores(), needed, options.max_memory, "preprocessing")
            resampler = _choose_resampler(planned, options, workers, needed)
            _preprocess(planned, workspace, workers, resampler, bar)


def _choose_resampler(
    planned: PlannedDataset, options: PlanningOptions, workers: Workers, bytes_each: int
) -> ImageResampler:
    """A GPU where it saves much more than its start in every process takes, and has room."""
    if options.resampling_device is None or not isinstance(workers, int):
        return resample_on_cpu
    processes = min(workers, len(planned.description.cases))
    if resampling_seconds(planned.plan, planned.fingerprint) < processes * MIN_RESAMPLING_SECONDS:
        return resample_on_cpu
    from autoseg.device_resampling import choose_resampler_of_workers  # loads torch

    return choose_resampler_of_workers(options.resampling_device, processes, bytes_each, options.max_memory)


def _preprocess(
    planned: PlannedDataset, workspace: Workspace, workers: Workers, resampler: ImageResampler, bar: ProgressBar
) -> None:
    plan = planned.plan
    with bar("preprocessing") as progress:
        preprocess_dataset(
            planned.description, plan, workspace, tuple(plan.configurations), workers, progress, resampler
        )
    for warning in labels_lost_in_preprocessing(workspace, plan, planned.fingerprint):
        logger.warning("warning: %s", warning)
