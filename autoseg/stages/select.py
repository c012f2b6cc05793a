"""Select: choose the recipe that prediction follows, from cross-validated folds.

The recipe is a configuration or a pair of them, with folds, thresholds, refinement and post-processing. `select_model`
reads the evaluations that training wrote, predicts the same cases with pairs, compares all candidates on the cases that
they share, and tries thresholds, refinement, a decision by expected Dice and post-processing on the winner.

    evaluations of folds + those of pairs (selection.ensembles, selection.weights) --compare--> winner
    winner --thresholds--> --refinement--> --expected Dice--> --post-processing--> --confidence--> selection.json
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.cluster.dask_workers import DaskCluster, Workers
from autoseg.errors import UsageError
from autoseg.folds import find_outdated_results, find_split, hash_trainings
from autoseg.imaging.datasets.effort import label_map_memory_bytes
from autoseg.inference.models.cascade_maps import is_trained_on_maps_of_today
from autoseg.inference.models.correction import find_correcting
from autoseg.inference.models.loading import TIE_ORDER, cascade_steps, order_configurations
from autoseg.inference.predictor.instance_maps import finds_instances, refuse_voxel_options
from autoseg.locks import lock
from autoseg.metrics.bootstrap import bootstrap_interval
from autoseg.networks.devices import choose_device
from autoseg.progress import ProgressBar, no_bar
from autoseg.provenance import write_provenance
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.contrast import Adaptation
from autoseg.records.dataset import DatasetDescription, foreground_names, label_files
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import IMPORTED, Plan
from autoseg.records.selection import Candidate, Interval, Names, Selection
from autoseg.records.temporaries import sweep_temporaries
from autoseg.records.workspace import Workspace
from autoseg.selection.adaptation import TriedAdaptation, try_adaptation
from autoseg.selection.confidence import ConfidenceOutcome, learn_confidence, write_report
from autoseg.selection.ensembles import ValidatedFold, ValidationRun, validate_pairs
from autoseg.selection.label_decision import TriedDecision, try_expected_dice
from autoseg.selection.postprocessing import CaseMapFiles, TunedPostprocessing, tune_postprocessing
from autoseg.selection.refinement import RefinementOutcome, refine_model
from autoseg.selection.relative_costs import with_relative_costs
from autoseg.selection.students import judge_students
from autoseg.selection.suspects import find_suspects, write_suspects
from autoseg.selection.thresholds import TunedThresholds, tune_thresholds
from autoseg.selection.validated_folds import (
    ALL_CASES_FOLD,
    find_validation_maps,
    name_short_trainings,
    read_validated_folds,
)
from autoseg.selection.verdicts import dice_table, rank_candidates
from autoseg.selection.weights import weigh_members
from autoseg.system import count_cores
from autoseg.text import format_command
from autoseg.training.folds.planned_data import check_planned_files, read_fingerprint
from autoseg.training.refinement import RefinementOptions
from autoseg.worker_memory import limit_workers

logger = logging.getLogger("autoseg.select")

UNSCORED_CHOICE = "3d_fullres"
"""Chosen when nothing was validated: nnU-Net's own default configuration."""


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """What is tried besides single configurations, and how validation cases are predicted again for it."""

    ensembles: bool = True
    """Also try pairs; predicts validation cases again, once with each configuration."""
    member_weights: bool = True
    """Also try other weights than half and half for the best pair; predicts its validation cases again."""
    thresholds: bool = True
    """Also try thresholds other than one half if the model has regions; predicts the winner's cases again."""
    expected_dice: bool = True
    """Also try labels that are decided by their expected Dice in each case; predicts the winner's cases again."""
    refinement: RefinementOptions | None = None
    """Settings of boundary refinement; None: do not try it. Post-processing is chosen on refined label maps."""
    adaptation: Adaptation = "none"
    """Also try whether adapting images does harm, and which way; predicts the winner's cases again."""
    confidence: bool = True
    """Also learn how far the winner's probabilities can be trusted; predicts its cases again."""
    device: str = "auto"
    """Device of these predictions: a name of `choose_device`."""
    precision: str = "auto"
    """Precision of these predictions: auto, fp32, tf32, bf16 or fp16; the same rule as prediction."""
    max_memory: int | None = None
    """Bytes that label maps may take which are worked on at the same time; None: what is free. Fewer threads are used
    then."""


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
        UsageError: If nothing is trained for plan and data as they are now, images or label maps were changed after
            planning, a validation or reference label map or, for pairs, a preprocessed case is missing, a fold was
            validated for other labels than the plan's, or the model was imported.
        ImageFileError: If an image or label map cannot be read, has values that no label declares, or does not lie on
            its reference's grid.
        LockedError: If another process selects in this workspace.
        PredictionError: If weights that are needed again are damaged.
        RecordError: If a JSON file is missing or damaged.
    """
    with lock(workspace.selection_lock, "selected from"):
        return _select(workspace, dataset_folder, options or SelectionOptions(), workers, bar)


def _select(
    workspace: Workspace, dataset_folder: Path | None, options: SelectionOptions, workers: Workers, bar: ProgressBar
) -> Selection:
    plan = read_record(Plan, workspace.plan)
    refuse_voxel_options(
        plan,
        {
            "--refine boundary": options.refinement is not None,
            "--adapt": options.adaptation != "none",
        },
    )
    options = _suit(plan, options)
    sweep_temporaries(workspace.root, recursive=True)
    trained, outdated = _leave_out_outdated(workspace, plan, _trained_configurations(workspace, plan))
    names = foreground_names(plan.encoding)
    singles, reasons = read_validated_folds(workspace, trained, names)
    singles, judged = judge_students(workspace, plan, singles)
    reasons = [*outdated, *reasons, *judged]
    if not singles and plan.planner == IMPORTED:
        raise UsageError(
            f"{workspace.root}: imported without validation cases, so there are no scores to select by; "
            "use it with autoseg-predict"
        )
    if not singles:
        return _select_unscored(workspace, plan, trained, reasons)
    run = _start_run(workspace, plan, dataset_folder, options, workers)
    _check_validation_files(run, singles)
    validated, no_pairs = _with_pairs(run, singles, bar) if options.ensembles else (_alone(singles), [])
    candidates, remarks = _rank(validated, names)
    candidates, folds, weighing = weigh_members(run, candidates, validated, bar, wanted=options.member_weights)
    candidates = with_relative_costs(run, candidates)
    winner, weights = candidates[0].configurations, candidates[0].member_weights
    run = replace(run, member_weights=dict(zip(winner, weights, strict=False)))
    swept = TunedThresholds({}, folds, ())
    if options.thresholds and plan.encoding.activation == "sigmoid":
        with bar("thresholds") as progress:
            swept = tune_thresholds(run, winner, folds, progress)
    refined = _refine(run, winner, swept, options.refinement, bar)
    decided = TriedDecision("argmax", swept.folds, ())
    if options.expected_dice:
        decided = try_expected_dice(run, winner, swept.folds, refined.refinement, bar)
    thresholds = swept.thresholds if decided.decision == "argmax" else {}
    adapted = TriedAdaptation("none", ())
    if options.adaptation != "none":
        adapted = try_adaptation(run, winner, decided, thresholds, options.adaptation, bar)
    maps = refined.maps or find_validation_maps(run, decided.folds)
    tuned = _tune_maps(run, plan, maps, bar)
    evaluation = tuned.evaluation
    learnt = ConfidenceOutcome(None, None, ())
    if options.confidence:
        learnt = learn_confidence(run, winner, swept.folds, evaluation.cases, thresholds, bar)
    suspects = find_suspects(plan, maps, evaluation.cases, learnt.promised, bar)
    selection = Selection(
        configurations=winner,
        member_weights=weights,
        folds=candidates[0].folds,
        region_thresholds=thresholds,
        decision=decided.decision,
        adaptation=adapted.adaptation,
        refinement=refined.refinement,
        postprocessing=tuned.steps,
        confidence=learnt.confidence,
        mean_foreground_dice=evaluation.mean_foreground_dice,
        interval=_interval(evaluation),
        candidates=candidates,
        reasons=(
            *name_short_trainings(workspace, winner, singles),
            *reasons,
            *no_pairs,
            *remarks,
            *weighing,
            *swept.reasons,
            *refined.reasons,
            *decided.reasons,
            *adapted.reasons,
            *tuned.reasons,
            *learnt.reasons,
        ),
        weights=_hash_weights(workspace, plan, winner, candidates[0].folds),
    )
    missing = tuple(case for fold in validated[winner] for case in fold.evaluation.missing_predictions)
    write_record(evaluation.model_copy(update={"missing_predictions": missing}), workspace.evaluation)
    write_report(learnt, workspace)
    write_suspects(suspects, workspace)
    write_record(selection, workspace.selection)
    write_provenance(workspace.provenance("select"), workspace, device=str(run.device))
    return selection


def _suit(plan: Plan, options: SelectionOptions) -> SelectionOptions:
    """The options that a plan has a use for: instances have no probabilities to decide by."""
    if not finds_instances(plan):
        return options
    return replace(
        options, ensembles=False, member_weights=False, thresholds=False, expected_dice=False, confidence=False
    )


def _tune_maps(run: ValidationRun, plan: Plan, maps: Sequence[CaseMapFiles], bar: ProgressBar) -> TunedPostprocessing:
    workers, tries_steps = run.cluster or run.workers, not finds_instances(plan)
    with bar("post-processing") as progress:
        return tune_postprocessing(maps, plan.encoding, workers=workers, progress=progress, tries_steps=tries_steps)


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


def _alone(singles: Mapping[str, Sequence[ValidatedFold]]) -> dict[Names, list[ValidatedFold]]:
    """Every configuration on its own."""
    return {(name,): list(folds) for name, folds in singles.items()}


def _with_pairs(
    run: ValidationRun, singles: Mapping[str, Sequence[ValidatedFold]], bar: ProgressBar
) -> tuple[dict[Names, list[ValidatedFold]], list[str]]:
    """Every configuration and every pair, and one sentence if no pair could be tried."""
    if fault := _why_no_pairs(singles):
        return _alone(singles), fault
    with bar("ensembles") as progress:
        return {**_alone(singles), **validate_pairs(run, singles, progress)}, []


def _refine(
    run: ValidationRun, winner: Names, swept: TunedThresholds, options: RefinementOptions | None, bar: ProgressBar
) -> RefinementOutcome:
    """Try to refine the winner's boundaries if there are settings for it."""
    if options is None:
        return RefinementOutcome(None, (), ())
    held_out = {fold.fold: [case.case for case in fold.evaluation.cases] for fold in swept.folds}
    with bar("refinement") as progress:
        return refine_model(run, winner, held_out, options, thresholds=swept.thresholds, progress=progress)


def _why_no_pairs(singles: Mapping[str, Sequence[ValidatedFold]]) -> list[str]:
    """One sentence if pairs cannot be compared; empty if they can."""
    if len(singles) < 2:
        return ["No ensemble was tried: two validated configurations are needed."]
    cases = [{scores.case for fold in folds for scores in fold.evaluation.cases} for folds in singles.values()]
    return [] if set.intersection(*cases) else ["No ensemble was tried: the configurations share no validation case."]


def _rank(
    validated: Mapping[Names, Sequence[ValidatedFold]], label_names: Sequence[str]
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    return rank_candidates(
        {names: [case for fold in folds for case in fold.evaluation.cases] for names, folds in validated.items()},
        {names: tuple(fold.fold for fold in folds) for names, folds in validated.items()},
        label_names,
    )


def _hash_weights(workspace: Workspace, plan: Plan, names: Names, folds: Sequence[str]) -> dict[str, dict[str, str]]:
    """Hash of the training of each network that was scored, cascade steps included."""
    steps = [step for name in names if name in plan.configurations for step in cascade_steps(plan, name)]
    return hash_trainings(workspace, dict.fromkeys(steps), folds)


def _interval(evaluation: Evaluation) -> Interval | None:
    """Interval of the mean foreground Dice; computed from the cases if the evaluation has none."""
    if evaluation.mean_foreground_dice_interval is not None:
        return evaluation.mean_foreground_dice_interval
    return bootstrap_interval(dice_table(evaluation.cases, list(evaluation.labels)))


def _trained_configurations(workspace: Workspace, plan: Plan) -> dict[str, tuple[str, ...]]:
    """Trained folds by configuration, in tie order, but that which only corrects by clicks."""
    names = {path.name for path in (workspace.root / "models").glob("*") if path.is_dir()} - {find_correcting(plan)}
    ordered = order_configurations(sorted(names), TIE_ORDER)
    trained = {name: folds for name in ordered if (folds := workspace.trained_folds(name))}
    if not trained:
        raise UsageError(f"{workspace.root}: no fold is fully trained; run autoseg-train first")
    return trained


def _leave_out_outdated(
    workspace: Workspace, plan: Plan, trained: Mapping[str, Sequence[str]]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Trained folds that belong to plan and data, by configuration, and one sentence for each of the others."""
    faults = {
        (name, fold): find_outdated_results(workspace, plan, name, fold)
        or _find_other_maps(workspace, plan, name, fold)
        for name, folds in trained.items()
        for fold in folds
    }
    reasons = [
        f"{name}: fold {fold} {fault}, so it was left out; "
        + format_command("autoseg-train", workspace.root, "-c", name, "-f", fold, "--restart")
        for (name, fold), fault in faults.items()
        if fault
    ]
    valid = {name: tuple(fold for fold in folds if not faults[name, fold]) for name, folds in trained.items()}
    if not any(valid.values()):
        raise UsageError(
            "\n".join([f"{workspace.root}: no trained fold belongs to plan and data as they are now:", *reasons])
        )
    for reason in reasons:
        logger.warning("warning: %s", reason)
    return {name: folds for name, folds in valid.items() if folds}, reasons


def _find_other_maps(workspace: Workspace, plan: Plan, name: str, fold: str) -> str:
    """Rest of a sentence about a fold of a cascade that was trained on label maps of other weights; else empty."""
    record = workspace.fold(name, fold) / "checkpoint_final.json"
    previous = plan.configurations[name].previous_configuration if name in plan.configurations else None
    if previous is None or not record.exists() or not workspace.dataset.exists():
        return ""
    split = find_split(workspace, read_record(DatasetDescription, workspace.dataset), fold)
    if is_trained_on_maps_of_today(workspace, plan, name, split, read_record(Checkpoint, record)):
        return ""
    return f"was trained on label maps of an earlier training of {previous}"


def _check_validation_files(run: ValidationRun, singles: Mapping[str, Sequence[ValidatedFold]]) -> None:
    validated = {scores.case for folds in singles.values() for fold in folds for scores in fold.evaluation.cases}
    files = [case for case in run.dataset.cases if case.case in validated]
    check_planned_files(run.dataset_folder, files, read_fingerprint(run.workspace))


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
