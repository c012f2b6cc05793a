"""Report: one HTML page about a workspace, complete in itself, at any stage from planned to selected."""

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from autoseg.errors import UsageError
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import Record, read_record, write_text
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.report.figures import draw_cases, draw_folds, encode_png
from autoseg.report.sections import (
    ResultSection,
    describe_dataset_section,
    describe_plan_section,
    describe_result,
    describe_selection,
    describe_tiles,
    describe_versions,
    label_legend,
)
from autoseg.report.tables import Row
from autoseg.report.validation import CrossValidation, picture_validation, read_cross_validations, read_histories

RecordType = TypeVar("RecordType", bound=Record)


@dataclass(frozen=True)
class _CasesSection:
    title: str
    legend: list[Row]
    notes: list[str]
    picture: str
    """Data URL; empty when no case can be shown."""


def render_report(workspace: Workspace) -> Path:
    """Write report.html: dataset, plan with reasons, curves, results, cases, selection, versions.

    Sections whose files are not there yet are left out, so a planned workspace shows its dataset and plan. Pictures
    of cases need the dataset folder; without it a sentence says so.

    Returns:
        The page's path.

    Raises:
        UsageError: If the folder holds neither dataset.json nor plan.json.
        RecordError: If a JSON file is damaged.
    """
    description = _read_if_there(DatasetDescription, workspace.dataset)
    plan = _read_if_there(Plan, workspace.plan)
    selection = _read_if_there(Selection, workspace.selection)
    if description is None and plan is None:
        raise UsageError(f"{workspace.root}: neither dataset.json nor plan.json is there; run autoseg-plan first")
    fingerprint = _read_if_there(Fingerprint, workspace.fingerprint)
    validations = read_cross_validations(workspace)
    named = plan.dataset_name if plan is not None else ""
    environment = Environment(
        loader=PackageLoader("autoseg", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("page.html").render(
        name=description.name if description is not None else named,
        tiles=describe_tiles(description, plan, selection, validations),
        dataset=describe_dataset_section(description, fingerprint) if description is not None else None,
        plan=describe_plan_section(plan) if plan is not None else None,
        curves=_draw_curves(workspace),
        results=_describe_results(workspace, selection, validations),
        cases=_show_cases(workspace, description, selection, validations),
        selection=describe_selection(selection) if selection is not None else None,
        versions=describe_versions(workspace),
    )
    write_text(page, workspace.report)
    return workspace.report


def _read_if_there(record_type: type[RecordType], path: Path) -> RecordType | None:
    return read_record(record_type, path) if path.exists() else None


def _draw_curves(workspace: Workspace) -> list[Row]:
    """Configuration, and its curves as data URLs for light and for dark screens."""
    return [
        (configuration, *(_data_url(draw_folds(folds, dark=dark)) for dark in (False, True)))
        for configuration, folds in read_histories(workspace).items()
    ]


def _describe_results(
    workspace: Workspace, selection: Selection | None, validations: list[CrossValidation]
) -> list[ResultSection]:
    """The selected model after post-processing, then every configuration as it was validated."""
    results = []
    selected = _read_if_there(Evaluation, workspace.evaluation) if selection is not None else None
    if selection is not None and selected is not None:
        name = ", ".join(selection.configurations)
        results.append(describe_result(f"Selected: {name} with its post-processing", selected))
    for one in validations:
        folds = f"{one.configuration}, fold{'s' if len(one.folds) > 1 else ''} {', '.join(one.folds)}"
        results.append(describe_result(f"{folds}, no post-processing", one.evaluation))
    return results


def _show_cases(
    workspace: Workspace,
    description: DatasetDescription | None,
    selection: Selection | None,
    validations: list[CrossValidation],
) -> _CasesSection | None:
    """Worst, median and best cases of the selected configuration, or of the first that was validated."""
    wanted = [one for one in validations if selection is None or one.configuration in selection.configurations]
    if not wanted or description is None:
        return None
    folder = workspace.dataset_folder(description.folder)
    if folder.exists():
        pictures, notes = picture_validation(wanted[0], description, folder)
    else:
        pictures, notes = [], [f"The dataset is not at {description.folder} any more, so there are no pictures."]
    return _CasesSection(
        title=f"{wanted[0].configuration}, as predicted, before post-processing",
        legend=label_legend(description.encoding),
        notes=notes,
        picture=_data_url(draw_cases(pictures)) if pictures else "",
    )


def _data_url(figure: Figure) -> str:
    return "data:image/png;base64," + b64encode(encode_png(figure)).decode("ascii")
