"""Tables of the terminal: plans, evaluations, comparisons, candidates; rows that the report shows too; the CSV file."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autoseg.costs.architectures import ARCHITECTURES, FORWARD_FRACTION
from autoseg.costs.memory import estimate_gpu_bytes
from autoseg.costs.runs import relative_cost
from autoseg.imaging.formats.volume import length_unit
from autoseg.metrics.descriptions import Metric, metrics_of
from autoseg.records.evaluation import (
    EmptyCounts,
    Evaluation,
    EvaluationComparison,
    LabelScores,
    LabelSummary,
    MetricComparison,
    MetricSummary,
)
from autoseg.records.files import replacing
from autoseg.records.partial_labels import is_looked_for
from autoseg.records.plan import Configuration, Decision, Plan
from autoseg.records.selection import Selection
from autoseg.text import (
    Row,
    format_cell,
    format_duration,
    format_interval,
    format_memory,
    format_names,
    format_number,
    format_score,
    format_signed,
    format_sizes,
    format_value,
)

COMPARISON_COLUMNS = (
    "label",
    "metric",
    "difference",
    "95\N{NO-BREAK SPACE}% interval",
    "cases",
    "differ",
    "Wilcoxon p",
)


def evaluation_columns(unit: str = "mm") -> tuple[str, ...]:
    """Columns of the table that is always shown. Distances include misses; a dash: not measured."""
    scores = (metric.column(unit) for metric in metrics_of("main") if metric.name != "dice")
    return ("label", "Dice", "95\N{NO-BREAK SPACE}% interval", *scores, "cases", "missed, false alarms, empty")


def detail_columns(unit: str = "mm") -> tuple[str, ...]:
    """Columns of the table of details."""
    return (
        "label",
        "Dice\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}sd",
        *(metric.column(unit) for metric in metrics_of("details")),
    )


def evaluation_table(evaluation: Evaluation, unit: str = "mm") -> Table:
    """Table with one row per label and the mean over labels, with the numbers of missed structures and false alarms.

    Columns without any value, such as those of surfaces after a quick evaluation, are left out. `unit` is that of
    distances.
    """
    bounds = format_interval(evaluation.mean_foreground_dice_interval, separator="–")
    mean = ("mean", format_number(evaluation.mean_foreground_dice), bounds)
    table = scores_table(evaluation_columns(unit), evaluation_rows(evaluation), footer=mean)
    table.title = f"{len(evaluation.cases)} cases"
    table.caption = _describe_surfaces(evaluation, unit)
    return table


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of `evaluation_columns`."""
    return [
        (
            name,
            format_number(summary.dice),
            format_interval(metric_summary(summary, "dice").interval, separator="–"),
            *(metric_cell(summary, metric) for metric in metrics_of("main") if metric.name != "dice"),
            str(summary.num_cases),
            _count_cell(evaluation.counts[name]),
        )
        for name, summary in evaluation.labels.items()
    ]


def metric_summary(summary: LabelSummary, name: str) -> MetricSummary:
    """Summary of one metric of a label, empty where it was not computed. Older files have Dice and IoU only."""
    mean = {"dice": summary.dice, "iou": summary.iou}.get(name)
    return summary.metrics.get(name, MetricSummary(mean=mean, num_cases=0 if mean is None else summary.num_cases))


def metric_cell(summary: LabelSummary, metric: Metric) -> str:
    """Mean of a metric over cases, with the worst value for misses where the metric has none of its own."""
    of_metric = metric_summary(summary, metric.name)
    mean = of_metric.mean_with_misses if metric.miss == "worst" else of_metric.mean
    return format_signed(mean) if metric.better == "near zero" else format_number(mean, metric.decimals)


def _count_cell(counts: EmptyCounts) -> str:
    return f"{counts.missed} / {counts.false_alarm} / {counts.both_empty}"


def _describe_surfaces(evaluation: Evaluation, unit: str) -> str | None:
    if evaluation.surface_tolerance_mm is None:
        return None
    tolerance = _quantity(evaluation.surface_tolerance_mm, unit)
    return (
        f"surface Dice at {tolerance}; HD95, ASSD: a missed structure or a false alarm "
        "counts as the diagonal of the image; volume: predicted minus reference"
    )


def _quantity(length: float, unit: str) -> str:
    """A length with its unit, such as `1 pixel`, `2 pixels` or `1 mm`."""
    return f"{length:g} {unit.removesuffix('s') if length == 1 else unit}"


def evaluation_details_table(evaluation: Evaluation, unit: str = "mm") -> Table:
    """Table of the metrics that `evaluation_table` leaves out."""
    table = scores_table(detail_columns(unit), evaluation_detail_rows(evaluation))
    table.caption = "precision, recall, MSD (Hausdorff) with misses; RVD: (predicted - reference) / reference"
    return table


def evaluation_detail_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of `detail_columns`."""
    return [
        (
            name,
            f"{format_number(summary.dice)} ± {format_number(summary.dice_std)}",
            *(metric_cell(summary, metric) for metric in metrics_of("details")),
        )
        for name, summary in evaluation.labels.items()
    ]


def comparison_table(comparison: EvaluationComparison, unit: str = "mm") -> Table:
    """Table of the differences by label and metric, then of the mean foreground Dice."""
    rows = [
        _comparison_row(label, metric.column(unit), compared[metric.name])
        for label, compared in comparison.labels.items()
        for metric in metrics_of("comparison")
        if metric.name in compared
    ]
    if comparison.mean_foreground_dice is not None:
        rows.append(_comparison_row("mean of labels", "Dice", comparison.mean_foreground_dice))
    table = scores_table(COMPARISON_COLUMNS, rows)
    table.title = escape(f"{comparison.first} minus {comparison.second}, {len(comparison.cases)} cases")
    table.caption = (
        "a missed structure or a false alarm has the worst value; p: over the cases that differ, not corrected"
    )
    return table


def _comparison_row(label: str, metric: str, compared: MetricComparison) -> Row:
    bounds = "–" if compared.interval is None else f"{compared.interval[0]:+.4f} to {compared.interval[1]:+.4f}"
    p_value = "–" if compared.p_value is None else f"{compared.p_value:.2g}"
    return (
        label,
        metric,
        f"{compared.mean_difference:+.4f}",
        bounds,
        str(compared.num_cases),
        str(compared.num_different),
        p_value,
    )


def candidate_table(selection: Selection) -> Table:
    """Table with one row per candidate, the selected one first; scores before post-processing, cost of prediction."""
    table = Table(title="Candidates, before post-processing; the first is selected")
    table.add_column("configuration")
    for column in ("mean Dice", "95 % interval", "cases", "folds", "cost"):
        table.add_column(column, justify="right")
    for candidate in selection.candidates:
        table.add_row(
            format_names(candidate.configurations, candidate.member_weights),
            format_score(candidate.mean_foreground_dice),
            format_interval(candidate.interval, 4),
            str(candidate.num_cases),
            " ".join(candidate.folds),
            "" if candidate.relative_cost is None else f"{candidate.relative_cost:.3g} x",
        )
    return table


def scores_table(columns: Row, rows: Sequence[Row], footer: Row = ()) -> Table:
    """Table with one row per label that fits a terminal of 80 columns; columns without any value are left out."""
    shown = [number for number in range(len(columns)) if not rows or any(row[number] != "–" for row in rows)]
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_footer=bool(footer))
    for position in shown:
        table.add_column(
            columns[position].replace(" ", "\n"),
            justify="left" if position == 0 else "right",
            footer=footer[position] if position < len(footer) else "",
            no_wrap=position > 0,  # only names of labels are broken where the terminal is narrow
            overflow="fold",
        )
    add_rows(table, [tuple(row[position] for position in shown) for row in rows])
    return table


def write_case_table(evaluation: Evaluation, path: Path) -> None:
    """Write a row per case and label: `case`, `label`, then every field of LabelScores; missing values are empty cells.

    Labels that were not looked for in a case have no row there.

    UTF-8, lines end in CR LF, cells with commas or quotes are quoted (RFC 4180), names are no formulas
    (`text.format_cell`). Written atomically.
    """
    fields = list(LabelScores.model_fields)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "label", *fields))
        for case in evaluation.cases:
            for label, scores in case.labels.items():
                if not is_looked_for(label, case.annotated):
                    continue
                writer.writerow(
                    (format_cell(case.case), format_cell(label), *(getattr(scores, field) for field in fields))
                )


def plan_table(plan: Plan) -> Table:
    """Table of the properties of each configuration."""
    table = _configurations_table(f"Plan for {plan.dataset_name} (planner {plan.planner})", plan)
    add_rows(table, configuration_rows(plan))
    return table


def plan_explanation(plan: Plan) -> list[RenderableType]:
    """Every decision with its reason, as paragraphs: those for all configurations, then those of each configuration."""
    parts: list[RenderableType] = []
    for name in ("", *plan.configurations):
        decisions = [decision for decision in plan.decisions if _belongs_to(decision, plan) == name]
        if decisions:
            parts += [Text(), Text(name or "All configurations", style="bold underline")]
        for decision in decisions:
            what = decision.what.removeprefix(f"{name}.")
            title = Text.assemble((what, "bold"), ": ", format_value(decision.value))
            parts += [_indented(title, 2), _indented(Text(decision.reason), 6)]
    return parts


def profile_table(plan: Plan, step_seconds: Mapping[str, float | None]) -> Table:
    """Table of the costs of each configuration.

    Args:
        plan: Plan with its estimates.
        step_seconds: Measured duration of a training step by configuration, seconds; None: the memory was too small.
            Configurations that are left out were not measured.
    """
    columns = []
    for name, configuration in plan.configurations.items():
        step = _describe_step(configuration, step_seconds[name]) if name in step_seconds else {}
        columns.append(_describe_costs(configuration) | _describe_gpu_memory(plan, configuration) | step)
    table = _configurations_table("Profile", plan)
    add_rows(table, _rows(columns))
    return table


def configuration_rows(plan: Plan) -> list[Row]:
    """Rows of the properties of a plan: name, then a cell per configuration."""
    unit = length_unit(plan.file_ending)
    return _rows(
        [_describe(configuration, unit, plan.budget.devices) for configuration in plan.configurations.values()]
    )


def decision_rows(plan: Plan) -> list[Row]:
    """Rows of the decisions of a plan: what was decided, its value, and why."""
    return [(decision.what, format_value(decision.value), decision.reason) for decision in plan.decisions]


def _describe(configuration: Configuration, unit: str, devices: int) -> dict[str, str]:
    network, training = configuration.network, configuration.training
    costs, patch = _describe_costs(configuration), format_sizes(configuration.patch_size)
    if training.growing_patches:
        patch = f"{format_sizes(training.growing_patches[0].patch_size)} to {patch}"
    return {
        f"spacing ({unit})": format_sizes(f"{size:.4g}" for size in configuration.spacing),
        "median shape (voxels)": format_sizes(f"{size:.0f}" for size in configuration.median_shape),
        "patch (voxels)": patch,
        "batch": _describe_batch(configuration.batch_size, devices),
        "network": f"{ARCHITECTURES[network.architecture].name(network)}, {len(network.features)} levels",
        "features": format_value(network.features),
        "blocks": format_value(network.encoder_blocks),
        "strides": ", ".join("x".join(map(str, stride)) for stride in network.strides),
        "normalisation": ", ".join(dict.fromkeys(spec.scheme for spec in configuration.normalization)),
        "parameters": costs["parameters"],
        "training memory": costs["training memory"],
        "optimiser": f"{training.optimizer}, rate {training.learning_rate:g}, {training.schedule}",
        "steps": f"{training.epochs} epochs x {training.steps_per_epoch}",
        "time per fold": _limit(training.time_per_fold_seconds),
    }


def _describe_batch(batch_size: int, devices: int) -> str:
    each = "" if devices == 1 else f", {math.ceil(batch_size / devices)} on each of {devices} devices"
    return f"{batch_size}{each}"


def _describe_costs(configuration: Configuration) -> dict[str, str]:
    estimates = configuration.estimates
    memory = estimates.training_memory_bytes
    return {
        "parameters": f"{estimates.parameters / 1e6:.2f} million",
        "computation per patch": f"{estimates.macs / 1e9:.3g} GMAC",
        "training memory": "not estimated" if memory is None else f"about {format_memory(memory)}",
    }


def _describe_gpu_memory(plan: Plan, configuration: Configuration) -> dict[str, str]:
    """What a training takes of a GPU, where one is planned for."""
    memory = configuration.estimates.training_memory_bytes
    if plan.budget.device == "cpu" or memory is None:
        return {}
    return {"memory of the GPU": f"about {format_memory(estimate_gpu_bytes(memory))}, context and workspace included"}


def _describe_step(configuration: Configuration, seconds: float | None) -> dict[str, str]:
    """Duration of a step, and of the planned steps of a fold at that speed."""
    training = configuration.training
    if seconds is None:
        return {"training step": "memory too small"}
    own_steps = relative_cost(training) * training.steps_per_epoch
    steps = training.epochs * (own_steps + FORWARD_FRACTION * training.validation_steps)
    return {
        "training step": f"{seconds:.3g} s",
        "steps per second": f"{1 / seconds:.3g}",
        "planned steps take": format_duration(steps * seconds),
        "time per fold": _limit(training.time_per_fold_seconds),
    }


def _belongs_to(decision: Decision, plan: Plan) -> str:
    """Name of the configuration that a decision concerns; empty for all configurations."""
    name, dot, _ = decision.what.partition(".")
    return name if dot and name in plan.configurations else ""


def _indented(text: Text, columns: int) -> Padding:
    return Padding(text, (0, 0, 0, columns), expand=False)


def _configurations_table(title: str, plan: Plan) -> Table:
    table = Table(title=escape(title))
    table.add_column("", no_wrap=True)
    for name in plan.configurations:
        table.add_column(escape(name), justify="right", overflow="fold")
    return table


def _rows(columns: Sequence[dict[str, str]]) -> list[Row]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, *(column.get(name, "–") for column in columns)) for name in names]


def _limit(seconds: float | None) -> str:
    return "not limited" if seconds is None else format_duration(seconds)


def add_rows(table: Table, rows: Sequence[Row]) -> None:
    """Append rows whose cells are plain text."""
    for row in rows:
        table.add_row(*map(escape, row))  # square brackets in names are not markup
