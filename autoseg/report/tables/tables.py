"""Plans and evaluations as rows of text and as tables for the terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autoseg.costs.architectures import ARCHITECTURES, FORWARD_FRACTION
from autoseg.metrics.descriptions import Metric, metrics_of
from autoseg.records.evaluation import EmptyCounts, Evaluation, LabelSummary, MetricSummary
from autoseg.records.plan import Configuration, Decision, JsonValue, Plan
from autoseg.records.selection import Interval

Row = tuple[str, ...]

GIGABYTE = 1e9
"""Bytes of a gigabyte, the unit in which memory limits are given."""

EVALUATION_COLUMNS = (
    "label",
    "Dice",
    "95\N{NO-BREAK SPACE}% interval",
    *(metric.column for metric in metrics_of("main") if metric.name != "dice"),
    "cases",
    "missed, false, empty",
)
"""Columns of the table that is always shown. Distances include misses; a dash: not measured."""


def plan_table(plan: Plan) -> Table:
    """Table of the properties of each configuration."""
    table = _configurations_table(f"Plan for {plan.dataset_name} (planner {plan.planner})", plan)
    _fill(table, configuration_rows(plan))
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
            title = Text.assemble((what, "bold"), ": ", plain_text(decision.value))
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
        columns.append(_describe_costs(configuration) | step)
    table = _configurations_table("Profile", plan)
    _fill(table, _rows(columns))
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Table with one row per label and the mean over labels, with the numbers of missed and invented structures.

    Columns without any value, such as those of surfaces after a quick evaluation, are left out.
    """
    bounds = interval(evaluation.mean_foreground_dice_interval)
    mean = ("mean", number(evaluation.mean_foreground_dice), bounds)
    table = scores_table(EVALUATION_COLUMNS, evaluation_rows(evaluation), footer=mean)
    table.title = f"{len(evaluation.cases)} cases"
    table.caption = _describe_surfaces(evaluation)
    return table


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of EVALUATION_COLUMNS."""
    return [
        (
            name,
            number(summary.dice),
            interval(metric_summary(summary, "dice").interval),
            *(metric_cell(summary, metric) for metric in metrics_of("main") if metric.name != "dice"),
            str(summary.num_cases),
            _count_cell(evaluation.counts[name]),
        )
        for name, summary in evaluation.labels.items()
    ]


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
    _fill(table, [tuple(row[position] for position in shown) for row in rows])
    return table


def configuration_rows(plan: Plan) -> list[Row]:
    """Rows of the properties of a plan: name, then a cell per configuration."""
    return _rows([_describe(configuration) for configuration in plan.configurations.values()])


def decision_rows(plan: Plan) -> list[Row]:
    """Rows of the decisions of a plan: what was decided, its value, and why."""
    return [(decision.what, plain_text(decision.value), decision.reason) for decision in plan.decisions]


def metric_summary(summary: LabelSummary, name: str) -> MetricSummary:
    """Summary of one metric of a label, empty where it was not computed. Older files have Dice and IoU only."""
    mean = {"dice": summary.dice, "iou": summary.iou}.get(name)
    return summary.metrics.get(name, MetricSummary(mean=mean, num_cases=0 if mean is None else summary.num_cases))


def metric_cell(summary: LabelSummary, metric: Metric) -> str:
    """Mean of a metric over cases, with the worst value for misses where the metric has none of its own."""
    of_metric = metric_summary(summary, metric.name)
    mean = of_metric.mean_with_misses if metric.miss == "worst" else of_metric.mean
    return signed(mean) if metric.better == "near zero" else number(mean, metric.decimals)


def number(value: float | None, decimals: int = 3) -> str:
    """A value with three decimals; a dash without a value."""
    return "–" if value is None else f"{value:.{decimals}f}"


def signed(value: float | None) -> str:
    """A value with its sign and three significant digits; a dash without a value."""
    return "–" if value is None else f"{value:+.3g}"


def interval(bounds: Interval | None) -> str:
    """Lower and upper bound of an interval; a dash where it is unknown."""
    return "–" if bounds is None else f"{bounds[0]:.3f}–{bounds[1]:.3f}"


def plain_text(value: JsonValue) -> str:
    """A value of a plan as plain text."""
    if value == ():
        return "none"
    if isinstance(value, tuple):
        nested = any(isinstance(item, tuple) for item in value)
        return ("; " if nested else ", ").join(plain_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)


def _count_cell(counts: EmptyCounts) -> str:
    return f"{counts.missed} / {counts.false_alarm} / {counts.both_empty}"


def _describe_surfaces(evaluation: Evaluation) -> str | None:
    if evaluation.surface_tolerance_mm is None:
        return None
    return (
        f"surface Dice at {evaluation.surface_tolerance_mm:g} mm; HD95, ASSD: a missed or invented structure counts "
        "as the diagonal of the image; volume: predicted minus reference"
    )


def _describe(configuration: Configuration) -> dict[str, str]:
    network, training = configuration.network, configuration.training
    costs = _describe_costs(configuration)
    return {
        "spacing (mm)": _times(f"{size:.4g}" for size in configuration.spacing),
        "median shape (voxels)": _times(f"{size:.0f}" for size in configuration.median_shape),
        "patch (voxels)": _times(configuration.patch_size),
        "batch": str(configuration.batch_size),
        "network": f"{ARCHITECTURES[network.architecture].name(network)}, {len(network.features)} levels",
        "features": plain_text(network.features),
        "blocks": plain_text(network.encoder_blocks),
        "strides": ", ".join("x".join(map(str, stride)) for stride in network.strides),
        "normalisation": ", ".join(dict.fromkeys(spec.scheme for spec in configuration.normalization)),
        "parameters": costs["parameters"],
        "training memory": costs["training memory"],
        "optimiser": f"{training.optimizer}, rate {training.learning_rate:g}, {training.schedule}",
        "steps": f"{training.epochs} epochs x {training.steps_per_epoch}",
        "time per fold": _limit(training.time_per_fold_seconds),
    }


def _describe_costs(configuration: Configuration) -> dict[str, str]:
    estimates = configuration.estimates
    memory = estimates.training_memory_bytes
    return {
        "parameters": f"{estimates.parameters / 1e6:.2f} million",
        "computation per patch": f"{estimates.macs / 1e9:.3g} GMAC",
        "training memory": "not estimated" if memory is None else f"about {_memory(memory)}",
    }


def _describe_step(configuration: Configuration, seconds: float | None) -> dict[str, str]:
    """Duration of a step, and of the planned steps of a fold at that speed."""
    training = configuration.training
    if seconds is None:
        return {"training step": "memory too small"}
    steps = training.epochs * (training.steps_per_epoch + FORWARD_FRACTION * training.validation_steps)
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


def _times(sizes: Iterable[object]) -> str:
    return " x ".join(str(size) for size in sizes)


def _memory(num_bytes: int) -> str:
    """A size in GB, or in MB below 0.1 GB."""
    return f"{num_bytes / 1e6:.3g} MB" if num_bytes < GIGABYTE / 10 else f"{num_bytes / GIGABYTE:.2f} GB"


def _limit(seconds: float | None) -> str:
    return "not limited" if seconds is None else format_duration(seconds)


def format_duration(seconds: float) -> str:
    """A duration in the largest unit of which it has at least one.

    Examples:
        >>> format_duration(30.0), format_duration(600.0), format_duration(7200.0), format_duration(400000.0)
        ('30 s', '10 min', '2 h', '4.63 days')
    """
    sizes = {"days": 86400.0, "h": 3600.0, "min": 60.0}
    unit, size = next(((unit, size) for unit, size in sizes.items() if seconds >= size), ("s", 1.0))
    return f"{seconds / size:.3g} {unit}"


def _fill(table: Table, rows: Sequence[Row]) -> None:
    for row in rows:
        table.add_row(*map(escape, row))  # square brackets in names are not markup
