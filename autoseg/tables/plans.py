"""Tables of plans: properties, decisions with their reasons, costs; rows that the report shows too."""

import math
from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autoseg.costs.architectures import ARCHITECTURES, FORWARD_FRACTION
from autoseg.costs.memory import estimate_gpu_bytes
from autoseg.costs.runs import relative_cost
from autoseg.imaging.formats.volume import length_unit
from autoseg.records.plan import Configuration, Decision, Plan
from autoseg.tables.rows import add_rows
from autoseg.text import (
    Row,
    format_duration,
    format_memory,
    format_sizes,
    format_value,
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
