"""Report: one self-contained HTML page about a workspace, from planned to selected."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from markupsafe import Markup

from autoseg.errors import UsageError
from autoseg.folds import find_outdated_folds, find_retrained_folds
from autoseg.imaging.arrays.display import Window, choose_window
from autoseg.imaging.formats.volume import length_unit
from autoseg.records.confidence import ConfidenceReport
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import Record, read_record, write_text
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan, Splits
from autoseg.records.selection import Selection
from autoseg.records.suspects import Suspects
from autoseg.records.temporaries import sweep_temporaries
from autoseg.records.trials import Trials
from autoseg.records.workspace import Workspace
from autoseg.report.page.calibration import render_calibration
from autoseg.report.page.case_pictures import show_validation_cases
from autoseg.report.page.confidence import render_confidence
from autoseg.report.page.dataset_section import label_legend, render_dataset
from autoseg.report.page.results_section import render_results
from autoseg.report.page.sections import (
    render_headline,
    render_plan,
    render_selection,
    render_training,
    render_versions,
)
from autoseg.report.page.suspects import render_suspects
from autoseg.report.page.templates import render_template
from autoseg.report.page.trials_section import render_trials
from autoseg.report.page.unlabelled import render_unlabelled
from autoseg.report.page.validation import (
    PooledFolds,
    read_histories,
    read_pooled_folds,
    read_selected_ensemble,
)
from autoseg.report.page.windows import describe_window
from autoseg.text import format_names

logger = logging.getLogger("autoseg.report")

RecordType = TypeVar("RecordType", bound=Record)


def render_report(workspace: Workspace) -> Path:
    """Write report.html: dataset, plan with reasons, curves, results, cases, suspects, calibration, selection and more.

    Sections whose files do not exist yet are left out, so a planned workspace shows its dataset and plan. Folds of an
    earlier plan or of earlier data are named, and neither their results nor a selection of them is shown, nor one of
    folds that were trained again since. Images of
    cases need the dataset folder (samples of large images: the preprocessed arrays); without it, a sentence says so.
    One case is in memory at a time.

    Returns:
        Path of the page.

    Raises:
        UsageError: If the folder contains neither dataset.json nor plan.json.
        RecordError: If a JSON file is damaged.
    """
    description = _read_if_exists(DatasetDescription, workspace.dataset)
    plan = _read_if_exists(Plan, workspace.plan)
    selection = _read_if_exists(Selection, workspace.selection)
    if description is None and plan is None:
        raise UsageError(f"{workspace.root}: no dataset.json and no plan.json found; run autoseg-plan first")
    sweep_temporaries(workspace.root)
    outdated = {} if plan is None else find_outdated_folds(workspace, plan)
    retrained = [] if selection is None else find_retrained_folds(workspace, selection)
    for sentence in retrained:
        logger.warning("%s; the page does not show this selection", sentence)
    if selection is not None and (retrained or _is_outdated(selection, outdated)):
        selection = None
    fingerprint = _read_if_exists(Fingerprint, workspace.fingerprint)
    selected = _read_if_exists(Evaluation, workspace.evaluation) if selection is not None else None
    validations = [*read_pooled_folds(workspace, outdated), *read_selected_ensemble(workspace, selection)]
    ending = description.file_ending if description is not None else plan.file_ending if plan is not None else ""
    unit = length_unit(ending)
    page = render_template(
        "page.html",
        name=description.name if description is not None else plan.dataset_name if plan is not None else "",
        headline=render_headline(workspace, description, plan, selection, validations, selected, outdated),
        dataset=None if description is None else render_dataset(workspace, description, fingerprint, plan),
        plan=None if plan is None else render_plan(plan, _read_if_exists(Splits, workspace.splits)),
        trials=_render_trials(workspace, plan),
        training=render_training(read_histories(workspace)),
        results=render_results(selection, selected, validations, unit) if validations or selected else None,
        unlabelled=render_unlabelled(workspace, plan),
        cases=_render_cases(workspace, description, _shown(selection, validations), choose_window(plan)),
        suspects=_render_suspects(workspace, description, selection, validations, choose_window(plan)),
        calibration=_render_calibration(workspace, _members(selection, validations)),
        confidence=_render_confidence(workspace, selection),
        selection=render_selection(selection) if selection is not None else None,
        versions=render_versions(workspace),
    )
    write_text(page, workspace.report)
    return workspace.report


def _render_trials(workspace: Workspace, plan: Plan | None) -> Markup | None:
    """Trials that decided this plan; those of an earlier plan are not shown."""
    trials = _read_if_exists(Trials, workspace.trials_record)
    if trials is None or plan is None or not any(decision.what == "trials" for decision in plan.decisions):
        return None
    return render_trials(trials)


def _read_if_exists(record_type: type[RecordType], path: Path) -> RecordType | None:
    return read_record(record_type, path) if path.exists() else None


def _is_outdated(selection: Selection, outdated: Collection[tuple[str, str]]) -> bool:
    return any((name, fold) in outdated for name in selection.configurations for fold in selection.folds)


def _shown(selection: Selection | None, validations: list[PooledFolds]) -> list[PooledFolds]:
    """The selected model, else its validated configurations, else all validated configurations, the best first."""
    name = "" if selection is None else format_names(selection.configurations)
    whole = [validation for validation in validations if validation.configuration == name]
    return whole or _members(selection, validations)


def _members(selection: Selection | None, validations: list[PooledFolds]) -> list[PooledFolds]:
    """Validated configurations of the selected model, else all validated configurations, the best first."""
    if selection is not None:
        return [validation for validation in validations if validation.configuration in selection.configurations]
    return sorted(validations, key=lambda validation: -(validation.evaluation.mean_foreground_dice or 0.0))


def _render_cases(
    workspace: Workspace, description: DatasetDescription | None, shown: list[PooledFolds], window: Window | None
) -> Markup | None:
    """Worst, median and best cases of the selected configuration, or of the first that was validated."""
    if not shown or description is None:
        return None
    folder = workspace.dataset_folder(description.folder)
    if folder.exists():
        cards, notes = show_validation_cases(shown[0], description, folder, window)
    else:
        cards, notes = [], [f"The dataset is no longer at {description.folder}, so its images cannot be shown."]
    return render_template(
        "cases.html",
        title=f"{shown[0].configuration}, as predicted, before post-processing",
        range_words=describe_window(window) if window is not None else "",
        legend=label_legend(description.encoding),
        notes=notes,
        cards=cards,
    )


def _render_suspects(
    workspace: Workspace,
    description: DatasetDescription | None,
    selection: Selection | None,
    validations: list[PooledFolds],
    window: Window | None,
) -> Markup | None:
    """Cases whose references may be wrong; None without a selection, or with one that did not look for them."""
    found = _read_if_exists(Suspects, workspace.suspects)
    shown = _shown(selection, validations)
    if selection is None or description is None or found is None or not shown:
        return None
    return render_suspects(found, shown[0], description, workspace.dataset_folder(description.folder), window)


def _render_confidence(workspace: Workspace, selection: Selection | None) -> Markup | None:
    report = _read_if_exists(ConfidenceReport, workspace.confidence)
    return None if selection is None or report is None else render_confidence(selection, report)


def _render_calibration(workspace: Workspace, shown: list[PooledFolds]) -> Markup | None:
    models = [(validation.configuration, validation.folds) for validation in shown]
    return render_calibration(workspace, models) if models else None
