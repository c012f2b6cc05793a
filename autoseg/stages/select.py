"""Select: choose the recipe that prediction follows, from cross-validated folds.

The recipe is a configuration or a pair of them, with folds, thresholds, refinement and post-processing. `select_model`
reads the evaluations that training wrote, predicts the same cases with pairs, compares all candidates on the cases that
they share, and tries thresholds, refinement, a decision by expected Dice and post-processing on the winner.

    trained folds --selection.usable_folds--> --selection.validated_folds--> evaluations
    evaluations --selection.comparison--> winner --selection.recipe--> selection.json
"""

from dataclasses import replace
from pathlib import Path

from autoseg.cluster.dask_workers import DaskCluster, Workers
from autoseg.errors import UsageError
from autoseg.folds import check_planned, hash_trainings
from autoseg.imaging.datasets.effort import label_map_memory_bytes
from autoseg.inference.models.recipes import cascade_steps
from autoseg.inference.predictor.instance_maps import finds_instances, refuse_voxel_options
from autoseg.locks import lock
from autoseg.metrics.bootstrap import bootstrap_interval
from autoseg.networks.devices import choose_device
from autoseg.progress import ProgressBar, no_bar
from autoseg.provenance import write_provenance
from autoseg.records.dataset import DatasetDescription, foreground_names, label_files
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import IMPORTED, Plan
from autoseg.records.selection import Candidate, Interval, Names, Selection
from autoseg.records.temporaries import sweep_temporaries
from autoseg.records.workspace import Workspace
from autoseg.selection.comparison import ComparedCandidates, Singles, compare_candidates
from autoseg.selection.confidence import write_report
from autoseg.selection.options import SelectionOptions
from autoseg.selection.recipe import Recipe, find_recipe
from autoseg.selection.students import judge_students
from autoseg.selection.suspects import write_suspects
from autoseg.selection.usable_folds import find_usable_folds
from autoseg.selection.validated_folds import ALL_CASES_FOLD, name_short_trainings, read_validated_folds
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from autoseg.selection.verdicts import dice_table
from autoseg.system import count_cores
from autoseg.training.folds.planned_data import check_planned_files, read_fingerprint
from autoseg.worker_memory import limit_workers

__all__ = ["SelectionOptions", "select_model"]

UNSCORED_CHOICE = "3d_fullres"
"""Chosen when nothing was validated: nnU-Net's own default configuration."""


def select_model(
    workspace: Workspace,
    dataset_folder: Path | None = None,
    options: SelectionOptions | None = None,
    *,
    workers: Workers = 1,
    bar: ProgressBar = no_bar,
) -> Selection:
    """Choose configuration or ensemble, folds and post-processing by cross-validation.

    A candidate's score is its mean foreground Dice over the validation cases of all its trained folds that every
    other candidate validated too; a pair must be ahead of the best single configuration by
    `selection.verdicts.ENSEMBLE_MARGIN`, and a student of its teacher by `selection.students.MIN_STUDENT_GAIN`. Missing
    folds, and folds of an earlier plan or earlier data, are reported as reasons, not as errors. Without any validated
    fold (for example with only fold `all`) there is no score, no post-processing and no evaluation.json.

    Writes selection.json, evaluation.json, confidence.json, suspects.json and suspects.csv, label maps of pairs and of
    other thresholds in models. Label maps are not made again as long as the weights stay the same.

    Args:
        workspace: Workspace with a plan and at least one trained fold; for pairs also with preprocessed cases.
        dataset_folder: Folder of the reference label maps; None: the one that dataset.json names.
        options: What is tried besides single configurations, and how validation cases are predicted again for it; None:
            all defaults.
        workers: Cases processed at the same time, in threads, where no network is involved. Or a cluster that predicts
            cases again and searches for post-processing; the rest is done here.
        bar: Progress bars, by title.

    Returns:
        The selection, with its score after post-processing over all cases of the chosen folds.

    Raises:
        UsageError: If there is no plan, nothing is trained for plan and data as they are now, images or label maps were
            changed after planning, a validation or reference label map or, for pairs, a preprocessed case is missing, a
            fold was validated for other labels than the plan's, or the model was imported.
        ImageFileError: If an image or label map cannot be read, has values that no label declares, or does not lie on
            its reference's grid.
        LockedError: If another process selects in this workspace.
        PredictionError: If weights that are needed again are damaged.
        RecordError: If a JSON file is missing or damaged.
    """
    check_planned(workspace)  # before the lock makes the folder
    with lock(workspace.selection_lock, "selected from"):
        return _select(workspace, dataset_folder, options or SelectionOptions(), workers, bar)


def _select(
    workspace: Workspace, dataset_folder: Path | None, options: SelectionOptions, workers: Workers, bar: ProgressBar
) -> Selection:
    plan = read_record(Plan, workspace.plan)
    options = _suit(plan, options)
    sweep_temporaries(workspace.root, recursive=True)
    trained, outdated = find_usable_folds(workspace, plan)
    singles, reasons = _validated_folds(workspace, plan, trained)
    reasons = [*outdated, *reasons]
    if not singles:
        return _select_unscored(workspace, plan, trained, reasons)
    run = _start_run(workspace, plan, dataset_folder, options, workers)
    _check_validation_files(run, singles)
    compared = compare_candidates(run, singles, bar, pairs=options.ensembles, member_weights=options.member_weights)
    winner = compared.winner.configurations
    run = replace(run, member_weights=dict(zip(winner, compared.winner.member_weights, strict=False)))
    recipe = find_recipe(run, winner, compared.folds, options, bar)
    selection = _make_selection(run, compared, recipe, [*name_short_trainings(workspace, winner, singles), *reasons])
    _write_results(run, compared, recipe, selection)
    return selection


def _suit(plan: Plan, options: SelectionOptions) -> SelectionOptions:
    """The options that a plan has a use for: instances have no probabilities to decide by.

    Raises:
        UsageError: If an option was asked for that a plan of instances cannot follow.
    """
    refuse_voxel_options(
        plan, {"--refine boundary": options.refinement is not None, "--adapt": options.adaptation != "none"}
    )
    if not finds_instances(plan):
        return options
    return replace(
        options, ensembles=False, member_weights=False, thresholds=False, expected_dice=False, confidence=False
    )


def _validated_folds(
    workspace: Workspace, plan: Plan, trained: dict[str, tuple[str, ...]]
) -> tuple[dict[str, list[ValidatedFold]], list[str]]:
    """Validated folds by configuration that takes part, and one sentence for each that does not."""
    singles, reasons = read_validated_folds(workspace, trained, foreground_names(plan.encoding))
    singles, judged = judge_students(workspace, plan, singles)
    if not singles and plan.planner == IMPORTED:
        raise UsageError(
            f"{workspace.root}: imported without validation cases, so there are no scores to select by; "
            "use it with autoseg-predict"
        )
    return singles, [*reasons, *judged]


def _start_run(
    workspace: Workspace, plan: Plan, dataset_folder: Path | None, options: SelectionOptions, workers: Workers
) -> ValidationRun:
    dataset = read_record(DatasetDescription, workspace.dataset)
    folder = dataset_folder or workspace.dataset_folder(dataset.folder)
    if not folder.exists():
        raise UsageError(f"{folder}: the dataset is missing; give its folder with --dataset")
    needed = label_map_memory_bytes(folder / name for files in dataset.cases for name in label_files(files))
    threads = count_cores() if isinstance(workers, DaskCluster) else workers
    return ValidationRun(
        workspace=workspace, dataset=dataset, dataset_folder=folder, plan=plan,
        device=choose_device(options.device), precision=options.precision, device_name=options.device,
        workers=limit_workers(threads, needed, options.max_memory, "selection", "threads"),
        cluster=workers if isinstance(workers, DaskCluster) else None,
    )  # fmt: skip


def _check_validation_files(run: ValidationRun, singles: Singles) -> None:
    validated = {case for folds in singles.values() for fold in folds for case in fold.cases}
    files = [case for case in run.dataset.cases if case.case in validated]
    check_planned_files(run.dataset_folder, files, read_fingerprint(run.workspace))


def _make_selection(run: ValidationRun, compared: ComparedCandidates, recipe: Recipe, reasons: list[str]) -> Selection:
    winner, evaluation = compared.winner, recipe.tuned.evaluation
    return Selection(
        configurations=winner.configurations,
        member_weights=winner.member_weights,
        folds=winner.folds,
        region_thresholds=recipe.region_thresholds,
        decision=recipe.decision,
        adaptation=recipe.adaptation,
        refinement=recipe.refinement,
        postprocessing=recipe.tuned.steps,
        confidence=recipe.confidence.confidence,
        mean_foreground_dice=evaluation.mean_foreground_dice,
        interval=_interval(evaluation),
        candidates=compared.candidates,
        reasons=(*reasons, *compared.reasons, *recipe.reasons),
        weights=_hash_weights(run.workspace, run.plan, winner.configurations, winner.folds),
    )


def _interval(evaluation: Evaluation) -> Interval | None:
    """Interval of the mean foreground Dice; computed from the cases if the evaluation has none."""
    if evaluation.mean_foreground_dice_interval is not None:
        return evaluation.mean_foreground_dice_interval
    return bootstrap_interval(dice_table(evaluation.cases, list(evaluation.labels)))


def _hash_weights(workspace: Workspace, plan: Plan, names: Names, folds: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Hash of the training of each network that was scored, cascade steps included."""
    steps = [step for name in names if name in plan.configurations for step in cascade_steps(plan, name)]
    return hash_trainings(workspace, dict.fromkeys(steps), folds)


def _write_results(run: ValidationRun, compared: ComparedCandidates, recipe: Recipe, selection: Selection) -> None:
    workspace, missing = run.workspace, compared.missing_predictions
    evaluation = recipe.tuned.evaluation.model_copy(update={"missing_predictions": missing})
    write_record(evaluation, workspace.evaluation)
    write_report(recipe.confidence, workspace)
    write_suspects(recipe.suspects, workspace)
    write_record(selection, workspace.selection)
    write_provenance(workspace.provenance("select"), workspace, device=str(run.device))


def _select_unscored(
    workspace: Workspace, plan: Plan, trained: dict[str, tuple[str, ...]], reasons: list[str]
) -> Selection:
    candidates = tuple(
        Candidate(
            configurations=(name,),
            folds=tuple(fold for fold in folds if fold != ALL_CASES_FOLD) or folds,
            num_cases=0,
            mean_foreground_dice=None,
        )
        for name, folds in trained.items()
    )
    best = next((item for item in candidates if UNSCORED_CHOICE in item.configurations), candidates[0])
    reasons.append(f"{best.configurations[0]} is chosen without a score: nothing was validated.")
    selection = Selection(
        configurations=best.configurations,
        folds=best.folds,
        mean_foreground_dice=None,
        candidates=candidates,
        reasons=tuple(reasons),
        weights=_hash_weights(workspace, plan, best.configurations, best.folds),
    )
    for earlier in (workspace.evaluation, workspace.confidence, workspace.suspects, workspace.suspects_table):
        earlier.unlink(missing_ok=True)  # they would contradict this selection
    write_record(selection, workspace.selection)
    write_provenance(workspace.provenance("select"), workspace)
    return selection
