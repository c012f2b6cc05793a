"""The headline of the page, and its sections on plan, training, selection and versions."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path

from markupsafe import Markup

from autoseg.postprocessing import describe_step
from autoseg.records.checkpoint import Checkpoint, EpochHistory
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import hash_file, read_record
from autoseg.records.plan import IMPORTED, Plan, Splits, hash_of_folds
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.report.charts.charts import Figure, draw_curves
from autoseg.report.page.templates import render_template
from autoseg.report.page.validation import PooledFolds
from autoseg.tables.plans import configuration_rows, decision_rows
from autoseg.text import (
    Row,
    format_command,
    format_duration,
    format_folds,
    format_interval,
    format_names,
    format_number,
    format_score,
)

SHOWN_PACKAGES = ("autoseg", "torch", "numpy", "scipy", "SimpleITK", "nibabel", "batchgenerators", "blosc2")
FIRST_TRAINED = "3d_fullres"
"""Configuration to train first, as planning suggests too."""
SHOWN_DIGITS = 16
"""Digits of a SHA-256 that are shown."""


def render_headline(
    workspace: Workspace,
    description: DatasetDescription | None,
    plan: Plan | None,
    selection: Selection | None,
    validations: Sequence[PooledFolds],
    selected: Evaluation | None,
    outdated: Mapping[tuple[str, str], str] | None = None,
) -> Markup:
    """State, score with interval and what it is from, counts, and the next command to type.

    Args:
        workspace: Workspace, for the folds that are trained.
        description: Dataset; None where it does not exist.
        plan: Plan; None where it does not exist.
        selection: Selection; None before a selection: then the score is that of the best validated configuration.
        validations: Validated folds by configuration.
        selected: Evaluation of the selected model after tuning; None where it does not exist.
        outdated: Folds, as (configuration, fold), whose results are not shown, with the reason; None: none.
    """
    best = max(validations, key=lambda validation: validation.evaluation.mean_foreground_dice or 0.0, default=None)
    score, interval, origin = None, None, ""
    if selection is not None:
        state = f"Selected: {format_names(selection.configurations)}"
        score, interval = selection.mean_foreground_dice, selection.interval
        if interval is None and selected is not None:
            interval = selected.mean_foreground_dice_interval
        origin = _describe_origin(selection, validations, selected)
    elif best is not None:
        state = f"Trained, not selected yet; best so far: {best.configuration}"
        score, interval = best.evaluation.mean_foreground_dice, best.evaluation.mean_foreground_dice_interval
        origin = f"{_describe_cases(len(best.evaluation.cases), best.folds)}, before any tuning"
    else:
        state = "Planned, not trained yet" if plan is not None else "Described, not planned yet"
    outdated = outdated or {}
    command, does = _next_command(workspace, plan, selection, outdated)
    between = "" if interval is None else f"95 % interval {format_interval(interval)}"
    return render_template(
        "headline.html",
        state=state,
        score="" if score is None else f"{score:.3f}",
        interval=between,
        origin=origin,
        tiles=_headline_tiles(description, plan),
        command=command,
        command_does=does,
        notes=[f"{name}, fold {fold} {fault}; its results are not shown." for (name, fold), fault in outdated.items()],
    )


def _headline_tiles(description: DatasetDescription | None, plan: Plan | None) -> list[Row]:
    """Counts of the dataset, and the configurations."""
    tiles: list[Row] = []
    if description is not None:
        tiles.append(("cases", str(len(description.cases))))
        tiles.append(("labels", str(sum(label not in ("background", "ignore") for label in description.labels))))
        tiles.append(("warnings", str(len(description.warnings))))
    if plan is not None:
        tiles.append(("configurations", ", ".join(plan.configurations)))
    return tiles


def _describe_origin(selection: Selection, validations: Sequence[PooledFolds], selected: Evaluation | None) -> str:
    """Which cases the selected model's score is from, what was tuned on them, and the score before that."""
    counts = [candidate.num_cases for candidate in selection.candidates[:1]]
    count = sum(counts) if selected is None else len(selected.cases)
    cases = _describe_cases(count, selection.folds)
    tuned = _list_tuned(selection)
    if not tuned:
        return f"{cases}; nothing was tuned on them"
    name = format_names(selection.configurations)
    before = next((one.evaluation for one in validations if one.configuration == name), None)
    if before is None or selected is None or _case_names(before) != _case_names(selected):
        return f"{cases}, after {tuned} chosen on the same cases"
    return f"{cases}, after {tuned} chosen on the same cases; {format_number(before.mean_foreground_dice)} before"


def _describe_cases(count: int, folds: Sequence[str]) -> str:
    return f"{count} held-out case{'' if count == 1 else 's'} of {format_folds(folds)}"


def _list_tuned(selection: Selection) -> str:
    """What was chosen by the scores of held-out cases, besides the configuration; empty for nothing."""
    chosen = {
        "thresholds": selection.region_thresholds,
        "expected Dice": selection.decision == "expected-dice",
        "boundary refinement": selection.refinement,
        "post-processing": selection.postprocessing,
    }
    return " and ".join(what for what, settings in chosen.items() if settings)


def _case_names(evaluation: Evaluation) -> set[str]:
    return {case.case for case in evaluation.cases}


def _next_command(
    workspace: Workspace,
    plan: Plan | None,
    selection: Selection | None,
    outdated: Mapping[tuple[str, str], str],
) -> tuple[str, str]:
    """The next command, and what it does."""
    root = Path(workspace.root.name) if workspace.root.name else workspace.root
    if plan is None:
        return "autoseg-plan DATASET", "plan a dataset"
    if selection is not None or plan.planner == IMPORTED:
        command = format_command("autoseg-predict", "-m", root, "-i", "IMAGES", "-o", "OUTPUT")
        return command, "segment new images with this model"
    if outdated:
        name, fold = next(iter(outdated))
        command = format_command("autoseg-train", root, "-c", name, "-f", fold, "--restart")
        return command, f"train {name}, fold {fold} again"
    folds = len(read_record(Splits, workspace.splits).folds) if workspace.splits.exists() else 0
    for name in sorted(plan.configurations, key=lambda name: name != FIRST_TRAINED):
        trained = workspace.trained_folds(name)
        missing = [str(fold) for fold in range(folds) if str(fold) not in trained]
        if missing or not trained:
            fold = missing[0] if missing else "0"
            return (
                format_command("autoseg-train", root, "-c", name, "-f", fold),
                f"train {name}, fold {fold}, the next one that is missing",
            )
    return format_command("autoseg", "select", root), "select among the trained configurations"


def render_plan(plan: Plan, splits: Splits | None) -> Markup:
    """Properties of the configurations side by side, and the decisions with their reasons."""
    overview: list[Row] = [("planner", plan.planner), ("device", plan.budget.device)]
    if splits is not None:
        overview.append(("folds", _describe_folds(splits)))
    return render_template(
        "plan.html",
        overview=overview,
        configurations=plan.configurations,
        properties=configuration_rows(plan),
        decisions=decision_rows(plan),
    )


def render_training(histories: Mapping[str, Mapping[str, Sequence[EpochHistory]]]) -> Markup | None:
    """Charts of losses, pseudo-Dice and learning rate of every fold, by configuration; None before any epoch."""
    curves = [
        (configuration, [f"fold {fold}" for fold in folds], _draw_folds(folds))
        for configuration, folds in histories.items()
    ]
    return render_template("training.html", curves=curves) if curves else None


def _draw_folds(folds: Mapping[str, Sequence[EpochHistory]]) -> list[Figure]:
    training, validation, rate = (
        {f"fold {fold}": [getter(line) for line in lines] for fold, lines in folds.items()}
        for getter in map(attrgetter, ("train_loss", "validation_loss", "learning_rate"))
    )
    dice = {f"fold {fold}": [_mean_pseudo_dice(line) for line in lines] for fold, lines in folds.items()}
    return [
        draw_curves("Training loss", training, bounds=None),
        draw_curves("Validation loss", validation, bounds=None),
        draw_curves("Mean pseudo-Dice", dice, bounds=(0.0, 1.0)),
        draw_curves("Learning rate", rate, bounds=None),
    ]


def _mean_pseudo_dice(line: EpochHistory) -> float | None:
    known = [value for value in line.pseudo_dice.values() if value is not None]
    return sum(known) / len(known) if known else None


def _describe_folds(splits: Splits) -> str:
    is_edited = splits.folds_hash and splits.folds_hash != hash_of_folds(splits.folds)
    return f"{len(splits.folds)} folds, edited by hand." if is_edited else splits.reason


def render_selection(selection: Selection) -> Markup:
    """The recipe, its reasons and the candidates."""
    candidates = [
        (
            format_names(candidate.configurations),
            ", ".join(candidate.folds),
            str(candidate.num_cases),
            format_number(candidate.mean_foreground_dice),
            format_interval(candidate.interval),
        )
        for candidate in selection.candidates
    ]
    return render_template(
        "selection.html",
        recipe=list_recipe_steps(selection),
        score=format_score(selection.mean_foreground_dice),
        reasons=selection.reasons,
        candidates=candidates,
    )


def render_versions(workspace: Workspace) -> Markup:
    """Versions of the software behind this page, hashes of the files it describes, and the training time of each fold.

    Raises:
        RecordError: If the JSON file of a checkpoint is damaged.
    """
    software: list[Row] = [("Python", platform.python_version())]
    for package in SHOWN_PACKAGES:
        try:
            software.append((package, version(package)))
        except PackageNotFoundError:
            software.append((package, "not installed"))
    software.append(("machine", f"{platform.platform()}, {os.cpu_count()} cores"))
    records = (workspace.dataset, workspace.fingerprint, workspace.plan, workspace.splits, workspace.selection)
    files: list[Row] = [(path.name, hash_file(path)[:SHOWN_DIGITS]) for path in records if path.exists()]
    return render_template("versions.html", software=software, files=files, folds=_fold_rows(workspace))


def _fold_rows(workspace: Workspace) -> list[Row]:
    rows: list[Row] = []
    for path in sorted((workspace.root / "models").glob("*/fold_*/checkpoint_final.json")):
        checkpoint = read_record(Checkpoint, path)
        weights = path.with_suffix(".safetensors")
        row = (
            checkpoint.configuration,
            checkpoint.fold,
            f"{checkpoint.step:,}",
            format_duration(checkpoint.elapsed_seconds),
            hash_file(weights)[:SHOWN_DIGITS] if weights.exists() else "missing",
        )
        rows.append(row)
    return rows


def list_recipe_steps(selection: Selection) -> list[str]:
    """Steps of prediction, one sentence each."""
    networks = " and ".join(selection.configurations)
    if selection.member_weights:
        networks = format_names(selection.configurations, selection.member_weights)
    averaged = len(selection.configurations) * len(selection.folds) > 1
    steps = [
        f"predict with {networks}, {format_folds(selection.folds)}"
        + (", and average their probabilities" if averaged else "")
    ]
    steps += [f"{name}: probability at least {threshold:g}" for name, threshold in selection.region_thresholds.items()]
    if selection.decision == "expected-dice":
        steps.append("take as many voxels of each label as maximise its expected Dice in the case")
    if selection.refinement is not None:
        steps.append(f"refine boundaries with {len(selection.refinement.refiners)} small networks, averaged")
    steps += [describe_step(step) for step in selection.postprocessing]
    return steps if selection.postprocessing else [*steps, "no post-processing: no step improved the score"]
