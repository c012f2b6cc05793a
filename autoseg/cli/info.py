"""`autoseg info`: what a model expects and predicts, and how good it was found to be."""

import argparse
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from autoseg.cli.options import add_json, add_shared
from autoseg.records.model_info import ModelInfo
from autoseg.text import format_memory, format_names, format_number, format_score, format_sizes, format_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg info`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a workspace, or an exported model (folder or zip)")
    add_json(parser, "the facts")
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the facts of a model."""
    from rich.console import Console

    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import print_json
    from autoseg.stages.inspect import inspect_model

    info = inspect_model(arguments.model)
    if arguments.json:
        print_json(info)
        return DONE
    for table in make_tables(info):
        Console().print(table)
    return DONE


def make_tables(info: ModelInfo) -> list[Table]:
    """Facts of a model, its configurations, and its cross-validated Dice by label."""
    facts = Table(title=escape(info.model), show_header=False)
    facts.add_column(no_wrap=True)
    facts.add_column()
    for name, text in _describe_model(info).items():
        facts.add_row(name, escape(text))
    configurations = Table(title="Configurations")
    for column in ("configuration", "folds", "network", "spacing", "patch (voxels)", "parameters"):
        configurations.add_column(column)
    for name, configuration in info.configurations.items():
        configurations.add_row(
            name,
            " ".join(configuration.folds) or "not trained",
            escape(configuration.network_name or configuration.architecture),
            format_sizes(f"{size:.4g}" for size in configuration.spacing),
            format_sizes(configuration.patch_size),
            f"{configuration.parameters / 1e6:.2f} million",
        )
    labels = Table(title="Labels")
    for column in ("label", "value", "Dice"):
        labels.add_column(column)
    for name, value in info.labels.items():
        labels.add_row(escape(name), format_value(value), format_number(info.label_dice.get(name), 4))
    return [facts, configurations, labels]


def _describe_model(info: ModelInfo) -> dict[str, str]:
    return {
        "dataset": info.dataset_name,
        "channels": ", ".join(info.channel_names),
        **({"planned by trials": info.trials} if info.trials else {}),
        "predicts by default": format_names(info.selected) if info.selected else "not selected",
        "post-processing": ", ".join(info.postprocessing) or "none",
        "mean Dice (cross-validated)": format_score(info.mean_foreground_dice),
        "cases planned from": "not known" if info.num_cases is None else str(info.num_cases),
        "weights": format_memory(info.weights_bytes),
        "licence": info.license or "not stated",
        "made by": f"autoseg {info.autoseg_version or 'of an unknown version'}"
        + (f", exported {info.created}" if info.created else ""),
        "plan": info.plan_hash[:16] or "not known",
        **_describe_needs(info),
    }


def _describe_needs(info: ModelInfo) -> dict[str, str]:
    """Packages of networks that are not autoseg's own; empty: none."""
    if not info.requires:
        return {}
    if not info.missing:
        return {"needs": f"{', '.join(info.requires)} (installed)"}
    missing = " ".join(info.missing)
    return {"needs": f"{', '.join(info.requires)}; not installed here, so it cannot predict: pip install {missing}"}
