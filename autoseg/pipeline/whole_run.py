"""The whole job in one call: plan, train every configuration on every fold, select, report.

Tested in tests/pipeline/test_order.py and tests/pipeline/test_phantom_run.py.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cluster.dask_workers import DaskCluster, Workers
from autoseg.errors import UsageError
from autoseg.locks import refuse_planning
from autoseg.pipeline.planning import (
    PlannedDataset,
    PlanningOptions,
    check_dataset,
    decide_by_trials,
    decide_plan,
    request_trials,
    write_plan,
)
from autoseg.progress import ProgressBar, no_bar
from autoseg.records.budget import Budget
from autoseg.records.dataset import DatasetDescription
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.candidates import TrialRequest, outline_trials
from autoseg.stages.train_all import check_training_device, describe_trainings, train_folds, train_folds_on_cluster
from autoseg.system import count_cores
from autoseg.trials.sentences import describe_trials

if TYPE_CHECKING:
    from autoseg.training.refinement import RefinementOptions

logger = logging.getLogger("autoseg.pipeline")


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """User options of the whole job, besides those of planning."""

    folds: tuple[str, ...] = ()
    """Names of the folds to train; empty: all."""
    device: str = "auto"
    """Device for training: a name of `choose_device`."""
    refinement: "RefinementOptions | None" = None
    """Options of the boundary refinement that is tried; None: it is not tried."""
    workers: Workers | None = 1
    """Processes for planning, preprocessing and evaluation; None: one for each core, fewer where they are not worth
    their start."""


def run_pipeline(
    dataset: Path,
    workspace: Workspace,
    budget: Budget,
    planning: PlanningOptions,
    options: PipelineOptions,
    *,
    description: DatasetDescription | None = None,
    bar: ProgressBar = no_bar,
) -> tuple[Selection, list[str]]:
    """Do the whole job: plan, train every configuration on every fold, select, report; say first what it takes.

    Finished folds are not trained again. A cascade is trained after the configuration before it; it is skipped, with
    a warning, when label maps of that configuration are missing or outdated, for example because `folds` does not
    name all folds. A fold that cannot be trained does not stop the others.

    Args:
        dataset: Folder or list file.
        workspace: Folder that everything is written to.
        budget: Limits for the plan.
        planning: User options of planning.
        options: User options of training and selection.
        description: What `check_dataset` found; None: the dataset is checked here.
        bar: Progress display.

    Returns:
        The selection among the folds that could be trained, and one sentence for each fold that could not.

    Raises:
        TrainingError: If a signal interrupted the training, or no fold could be trained.
        UsageError: If the plan is for a GPU and torch can use none.
    """
    # Imported here, because these stages load torch and planning alone must stay light.
    from autoseg.report.page.render import render_report
    from autoseg.stages.select import SelectionOptions, select_model

    refuse_planning(workspace)
    if description is None:
        description = check_dataset(dataset, planning, workers=options.workers, bar=bar)
    planned = decide_plan(description, workspace, budget, planning, workers=options.workers, bar=bar)
    trials = request_trials(planned, planning)
    for line in describe_run(planned, workspace, options.folds, trials):
        logger.info("%s", line)
    check_training_device(planned.plan, options.device)
    if trials is not None:
        planned = decide_by_trials(planned, workspace, planning, workers=options.workers, bar=bar)
        for line in describe_run(planned, workspace, options.folds):
            logger.info("%s", line)
    write_plan(planned, workspace, planning, workers=options.workers, bar=bar)
    folds = options.folds or planned.fold_names
    if isinstance(options.workers, DaskCluster):
        failures = train_folds_on_cluster(options.workers, workspace, planned.plan, folds, options.device)
    else:
        failures = train_folds(workspace, planned.plan, folds, options.device, bar)
    selecting = SelectionOptions(refinement=options.refinement, device=options.device)
    workers = options.workers or count_cores()
    selection = select_model(workspace, options=selecting, workers=workers, bar=bar)
    render_report(workspace)
    return selection, failures


def describe_run(
    planned: PlannedDataset, workspace: Workspace, folds: Sequence[str] = (), trials: TrialRequest | None = None
) -> list[str]:
    """Say what a run of these folds (empty: all) will do: trials, trainings, time and disk.

    Raises:
        UsageError: If one of the folds does not exist, or the time for trials is too short.
        PlanningError: If there are no two candidates for trials.
    """
    known = [*dict.fromkeys((*planned.fold_names, "all"))]
    for fold in folds:
        if fold not in known:
            raise UsageError(f"fold {fold!r} does not exist; this dataset has {', '.join(known)}")
    names = folds or planned.fold_names
    if trials is None:
        return describe_trainings(workspace, planned.plan, planned.fingerprint, names)
    seconds = next(iter(planned.plan.configurations.values())).training.time_per_fold_seconds
    return describe_trials(outline_trials(trials), len(names), seconds)
