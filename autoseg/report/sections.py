"""The page's sections as plain rows and texts: what is said, not how it looks."""

import hashlib
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from autoseg.metrics.comparison import format_score
from autoseg.metrics.summary import case_dice
from autoseg.postprocessing import describe_step
from autoseg.records.dataset import DatasetDescription, LabelEncoding, LabelValues
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.report.figures import COLOURS
from autoseg.report.tables import (
    EVALUATION_COLUMNS,
    Row,
    configuration_rows,
    decision_rows,
    evaluation_rows,
    number,
)
from autoseg.report.validation import CrossValidation

SHOWN_PACKAGES = ("autoseg", "torch", "numpy", "scipy", "SimpleITK", "nibabel", "batchgenerators", "blosc2")
MM3_PER_ML = 1000.0
MOST_CASE_COLUMNS = 12
"""With more labels, the table of cases shows their mean only."""


@dataclass(frozen=True)
class DatasetSection:
    """The dataset at a glance."""

    facts: list[Row]
    label_columns: Row
    labels: list[Row]
    channels: list[Row]
    notes: tuple[str, ...]
    warnings: list[Row]


@dataclass(frozen=True)
class PlanSection:
    """The plan with its reasons."""

    configurations: list[str]
    properties: list[Row]
    decisions: list[Row]


@dataclass(frozen=True)
class ResultSection:
    """One evaluation."""

    title: str
    columns: Row
    labels: list[Row]
    mean: Row
    case_columns: Row
    cases: list[Row]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class SelectionSection:
    """What was selected, and why."""

    facts: list[Row]
    reasons: tuple[str, ...]
    candidates: list[Row]


def describe_tiles(
    description: DatasetDescription | None,
    plan: Plan | None,
    selection: Selection | None,
    validations: Sequence[CrossValidation],
) -> list[Row]:
    """The few figures that a reader wants first."""
    tiles: list[Row] = []
    if selection is not None:
        tiles.append(("mean foreground Dice", number(selection.mean_foreground_dice)))
        tiles.append(("selected", ", ".join(selection.configurations)))
    else:
        tiles += [
            (f"mean foreground Dice, {one.configuration}", number(one.evaluation.mean_foreground_dice))
            for one in validations
        ]
    if description is not None:
        tiles.append(("cases", str(len(description.cases))))
        tiles.append(("warnings", str(len(description.warnings))))
    if plan is not None:
        tiles.append(("planned", ", ".join(plan.configurations)))
    return tiles


def describe_dataset_section(description: DatasetDescription, fingerprint: Fingerprint | None) -> DatasetSection:
    """Cases, channels, geometry, labels with their volumes, warnings."""
    facts: list[Row] = [
        ("cases", str(len(description.cases))),
        ("channels", ", ".join(description.channel_names)),
        ("layout", f"{description.layout}, {description.file_ending} files, orientation {description.orientation}"),
    ]
    channels: list[Row] = []
    if fingerprint is not None:
        facts.append(("shape (z, y, x), voxels", _ranges(case.shape for case in fingerprint.cases)))
        facts.append(("spacing (z, y, x), mm", _ranges(case.spacing for case in fingerprint.cases)))
        channels = [
            (
                name,
                *(
                    f"{value:.4g}"
                    for value in (one.mean, one.std, one.percentile_00_5, one.median, one.percentile_99_5)
                ),
            )
            for name, one in zip(fingerprint.channel_names, fingerprint.intensities, strict=True)
        ]
    unit, rows = _label_rows(description.labels, fingerprint)
    return DatasetSection(
        facts=facts,
        label_columns=("label", "value", "in cases", f"median {unit}", "smallest", "largest", "median parts"),
        labels=rows,
        channels=channels,
        notes=description.notes,
        warnings=[(fault.case, fault.file, fault.what) for fault in description.warnings],
    )


def _label_rows(labels: dict[str, LabelValues], fingerprint: Fingerprint | None) -> tuple[str, list[Row]]:
    """Unit of the sizes, and a row per foreground label; sizes are over the cases that have the label."""
    cases: tuple[CaseFingerprint, ...] = fingerprint.cases if fingerprint is not None else ()
    is_flat = all(min(case.shape) == 1 for case in cases)
    rows: list[Row] = []
    for name, value in labels.items():
        facts = [case.labels[name] for case in cases if name in case.labels and case.labels[name].voxels > 0]
        sizes = [float(one.voxels) if is_flat else one.volume_mm3 / MM3_PER_ML for one in facts]
        if not sizes:
            figures: Row = ("0" if cases else "–", "–", "–", "–", "–")
        else:
            shown = (f"{size:.4g}" for size in (median(sizes), min(sizes), max(sizes)))
            figures = (str(len(sizes)), *shown, f"{median(one.components for one in facts):g}")
        if name not in ("background", "ignore"):
            rows.append((name, str(value), *figures))
    return ("pixels" if is_flat else "volume (ml)"), rows


def _ranges(triples: Iterable[Sequence[float]]) -> str:
    """Smallest, median and largest value along each axis."""
    axes = list(zip(*triples, strict=True))
    return "; ".join(
        f"{min(axis):.4g}"
        if min(axis) == max(axis)
        else f"{min(axis):.4g} to {max(axis):.4g}, median {median(axis):.4g}"
        for axis in axes
    )


def describe_plan_section(plan: Plan) -> PlanSection:
    """Configurations side by side, then decisions."""
    return PlanSection(list(plan.configurations), configuration_rows(plan), decision_rows(plan))


def describe_result(title: str, evaluation: Evaluation) -> ResultSection:
    """Table by label, and all cases, worst first."""
    names = list(evaluation.labels) if len(evaluation.labels) <= MOST_CASE_COLUMNS else []
    ranked = sorted(evaluation.cases, key=_rank)
    return ResultSection(
        title=f"{title}: mean foreground Dice {number(evaluation.mean_foreground_dice)}, {len(evaluation.cases)} cases",
        columns=EVALUATION_COLUMNS,
        labels=evaluation_rows(evaluation),
        mean=("mean of labels", number(evaluation.mean_foreground_dice), *[""] * (len(EVALUATION_COLUMNS) - 2)),
        case_columns=("case", "mean Dice", *names),
        cases=[
            (case.case, number(case_dice(case)), *(number(case.labels[name].dice) for name in names)) for case in ranked
        ],
        missing=evaluation.missing_predictions,
    )


def _rank(case: CaseScores) -> tuple[bool, float, str]:
    """Worst first, cases without any score last."""
    dice = case_dice(case)
    return (True, 0.0, case.case) if dice is None else (False, dice, case.case)


def describe_selection(selection: Selection) -> SelectionSection:
    """The recipe, and how it came about."""
    return SelectionSection(
        facts=[
            ("configuration", ", ".join(selection.configurations)),
            ("folds", ", ".join(selection.folds)),
            ("post-processing", "; ".join(map(describe_step, selection.postprocessing)) or "none"),
            ("mean foreground Dice, cross-validated", format_score(selection.mean_foreground_dice)),
        ],
        reasons=selection.reasons,
        candidates=[
            (", ".join(one.configurations), ", ".join(one.folds), str(one.num_cases), number(one.mean_foreground_dice))
            for one in selection.candidates
        ],
    )


def label_legend(encoding: LabelEncoding) -> list[Row]:
    """Name and colour of each label index in the pictures; a value of regions only is given as value."""
    names = {head.indices[0]: head.name for head in encoding.heads if len(head.indices) == 1}
    return [
        (names.get(index, f"value {encoding.values[index]}"), COLOURS[(index - 1) % len(COLOURS)])
        for index in range(1, len(encoding.values))
    ]


def describe_versions(workspace: Workspace) -> list[Row]:
    """Versions of what made this page, and short hashes of the files that it is about."""
    rows: list[Row] = [("Python", platform.python_version()), ("system", platform.platform())]
    for package in SHOWN_PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    for path in (workspace.dataset, workspace.plan, workspace.selection):
        if path.exists():
            rows.append((f"{path.name}, SHA-256", hashlib.sha256(path.read_bytes()).hexdigest()[:16]))
    return rows
