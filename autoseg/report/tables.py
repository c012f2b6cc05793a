"""Plans and evaluations as rows of text: for the terminal here, for the page in `render`."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from autoseg.records.evaluation import Evaluation
from autoseg.records.plan import Configuration, JsonValue, Plan

Row = tuple[str, ...]

GIGABYTE = 1e9
"""Bytes; memory limits are given to autoseg in these."""

EVALUATION_COLUMNS = ("label", "Dice", "± sd", "IoU", "cases in mean", "missed", "false alarms", "both empty")


def plan_tables(plan: Plan) -> list[Table]:
    """What was decided for each configuration, then every decision with its reason."""
    decided = Table(title=escape(f"Plan for {plan.dataset_name} (planner {plan.planner})"))
    decided.add_column("", no_wrap=True)
    for name in plan.configurations:
        decided.add_column(escape(name), justify="right")
    _fill(decided, configuration_rows(plan))
    reasons = Table("decision", "value", "reason", title="Why")
    _fill(reasons, decision_rows(plan))
    return [decided, reasons]


def evaluation_table(evaluation: Evaluation) -> Table:
    """One line per label, then the mean over labels; how often structures were missed or invented stands beside."""
    table = Table(title=f"{len(evaluation.cases)} cases", show_footer=True)
    footer = (f"mean of {len(evaluation.labels)} labels", number(evaluation.mean_foreground_dice))
    for position, name in enumerate(EVALUATION_COLUMNS):
        table.add_column(
            name,
            justify="left" if position == 0 else "right",
            footer=footer[position] if position < len(footer) else "",
        )
    _fill(table, evaluation_rows(evaluation))
    return table


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """Cells by label, in the order of EVALUATION_COLUMNS."""
    return [
        (
            name,
            number(summary.dice),
            number(summary.dice_std),
            number(summary.iou),
            str(summary.num_cases),
            str(evaluation.counts[name].missed),
            str(evaluation.counts[name].false_alarm),
            str(evaluation.counts[name].both_empty),
        )
        for name, summary in evaluation.labels.items()
    ]


def configuration_rows(plan: Plan) -> list[Row]:
    """One row per property: its name, then a cell per configuration."""
    columns = [_describe(configuration) for configuration in plan.configurations.values()]
    return [(name, *(column[name] for column in columns)) for name in (columns[0] if columns else ())]


def decision_rows(plan: Plan) -> list[Row]:
    """What was decided, its value, and why."""
    return [(decision.what, plain_text(decision.value), decision.reason) for decision in plan.decisions]


def number(value: float | None) -> str:
    """Three decimals; a dash where there is no value."""
    return "–" if value is None else f"{value:.3f}"


def plain_text(value: JsonValue) -> str:
    """A value from a plan as a person would write it."""
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


def _describe(configuration: Configuration) -> dict[str, str]:
    network, training, estimates = configuration.network, configuration.training, configuration.estimates
    strides = ["x".join(map(str, stride)) for stride in network.strides]
    return {
        "spacing (mm)": _times(f"{size:.4g}" for size in configuration.spacing),
        "median shape (voxels)": _times(f"{size:.0f}" for size in configuration.median_shape),
        "patch (voxels)": _times(configuration.patch_size),
        "batch": str(configuration.batch_size),
        "network": f"{network.architecture}, {len(network.features)} levels",
        "features": plain_text(network.features),
        "strides": ", ".join(strides),
        "normalisation": ", ".join(dict.fromkeys(spec.scheme for spec in configuration.normalization)),
        "parameters": f"{estimates.parameters / 1e6:.2f} million",
        "training memory (estimated)": f"{estimates.training_memory_bytes / GIGABYTE:.2f} GB",
        "optimiser": f"{training.optimizer}, rate {training.learning_rate:g}, {training.schedule}",
        "steps": f"{training.epochs} epochs x {training.steps_per_epoch}",
        "time per fold": _duration(training.time_per_fold_seconds),
    }


def _times(sizes: Iterable[object]) -> str:
    return " x ".join(str(size) for size in sizes)


def _duration(seconds: float | None) -> str:
    return "not limited" if seconds is None else f"{seconds / 60:.3g} min"


def _fill(table: Table, rows: Sequence[Row]) -> None:
    for row in rows:
        table.add_row(*map(escape, row))  # square brackets in names are no markup
