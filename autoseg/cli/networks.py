"""`autoseg networks`: every network that can be planned, with what it costs."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from autoseg.cli.options import add_device, add_json, add_shared
from autoseg.cli.values import duration

if TYPE_CHECKING:
    from rich.table import Table

    from autoseg.progress import Progress
    from autoseg.records.budget import DeviceName
    from autoseg.records.network_table import NetworkRow, NetworkTable
    from autoseg.stages.list_networks import ListedNetwork

DEFAULTS: Final[tuple[Any, ...]] = ((64, 64, 64), 1, 2)
"""Patch, channels and classes where neither a workspace nor the user says them."""

COLUMNS = (
    "planner", "options", "configuration", "network", "dimensions", "patch_size", "batch_size", "parameters", "macs",
    "training_memory_bytes", "step_seconds", "prediction_seconds",
)  # fmt: skip
"""Columns of the CSV file: fields of `NetworkRow`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg networks`."""
    parser.add_argument(
        "workspace", type=Path, nargs="?", default=None,
        help="folder written by autoseg-plan, for its images, patches, channels and labels",
    )  # fmt: skip
    parser.add_argument(
        "--patch-size", type=int, nargs="+", default=None, metavar="N",
        help="without a workspace: voxels, z y x, whose last two are for 2D networks; or y x for these alone (default: "
        "64 64 64)",
    )  # fmt: skip
    parser.add_argument(
        "--channels", type=int, default=None, metavar="N", help="without a workspace: input channels (default: 1)"
    )
    parser.add_argument(
        "--classes", type=int, default=None, metavar="N",
        help="without a workspace: output classes, background included (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--planner", nargs="+", default=(), metavar="NAME", help="planners whose networks are listed (default: all)"
    )
    parser.add_argument(
        "--target", choices=("labels", "border-core", "mask-rcnn"), default=None,
        help="what the networks learn, as for `autoseg plan`; mask-rcnn lists those that find objects one by one "
        "(default: that of the workspace, else labels)",
    )  # fmt: skip
    parser.add_argument(
        "--measure", action="store_true", help="measure a training step and a prediction of each on --device"
    )
    parser.add_argument(
        "--max-time", type=duration, default=600.0, metavar="TIME",
        help="begin no measurement after this time; cheap networks come first (default: 10min)",
    )  # fmt: skip
    parser.add_argument("--csv", type=Path, default=None, metavar="FILE", help="write the table as CSV too")
    add_device(parser)
    add_json(parser, "the table")
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """List networks, and measure them when asked."""
    from rich.console import Console

    from autoseg.cli.main import DONE
    from autoseg.cli.planning_request import find_device
    from autoseg.cli.terminal import print_json, printing_apart, progress_bar
    from autoseg.errors import UsageError
    from autoseg.records.network_table import NetworkTable

    device = find_device(arguments.device)
    with printing_apart(as_json=arguments.json), progress_bar("listing") as progress:
        listed, refused = _list(arguments, device.kind, progress)
    if not listed:
        raise UsageError("no planner has a network for this patch:\n" + "\n".join(sorted(set(refused.values()))))
    rows, measured = tuple(network.row for network in listed), ""
    if arguments.measure:
        from autoseg.stages.time_networks import time_networks
        from autoseg.training.probe import describe_torch_device

        measured = describe_torch_device(device.name)
        with printing_apart(as_json=arguments.json), progress_bar("measuring") as progress:
            rows = time_networks(listed, device.name, arguments.max_time, progress)
    table = NetworkTable(device=measured, rows=rows, refused=refused)
    if arguments.csv is not None:
        _write_csv(table, arguments.csv)
    if arguments.json:
        print_json(table)
        return DONE
    console = Console()
    console.print(make_table(table))
    console.print(_describe_rest(table), highlight=False, markup=False)
    return DONE


def _list(
    arguments: argparse.Namespace, device: DeviceName, progress: Progress
) -> tuple[list[ListedNetwork], dict[str, str]]:
    """Networks, and choices that cannot be planned with the reason, for a workspace or for what the options say."""
    from autoseg.cli.planning_request import TARGETS
    from autoseg.errors import UsageError
    from autoseg.records.workspace import Workspace
    from autoseg.stages.list_networks import Listing, list_networks, list_networks_for

    target = None if arguments.target is None else TARGETS[arguments.target]
    listing = Listing(device, arguments.planner, target)
    given = (arguments.patch_size, arguments.channels, arguments.classes)
    if arguments.workspace is not None:
        if any(value is not None for value in given):
            raise UsageError(
                "--patch-size, --channels and --classes are those of the workspace: leave them out, or the workspace."
            )
        return list_networks_for(Workspace(arguments.workspace), listing, progress)
    patch_size, channels, classes = (
        default if value is None else value for value, default in zip(given, DEFAULTS, strict=True)
    )
    if len(patch_size) not in (2, 3) or min(patch_size) < 1:
        raise UsageError("--patch-size: expected two or three numbers, each at least 1, such as 64 64 64")
    if channels < 1 or classes < 2:
        raise UsageError("--channels needs at least 1, --classes at least 2 (background and a label)")
    return list_networks(patch_size, channels, classes, listing, progress)


def make_table(found: NetworkTable) -> Table:
    """The table of the terminal."""
    from rich.markup import escape
    from rich.table import Table

    target = found.rows[0].target
    words = "Networks" if target == "labels" else f"Networks for --target {target.replace('_', '-')}"
    table = Table(title=words + (f", measured on {escape(found.device)}" if found.device else ""))
    table.add_column("planner", overflow="fold")
    for column in ("patch", "parameters", "MACs", "memory"):
        table.add_column(column, justify="right")
    if found.device:
        table.add_column("step", justify="right")
        table.add_column("window", justify="right")
    for row in found.rows:
        table.add_row(*map(escape, _describe_row(row, is_measured=bool(found.device))))
    return table


def _describe_row(row: NetworkRow, *, is_measured: bool) -> list[str]:
    from autoseg.text import format_memory, format_sizes

    memory = "–" if row.training_memory_bytes is None else format_memory(row.training_memory_bytes)
    cells = [
        " ".join((row.planner, *map("=".join, row.options.items()))),
        format_sizes(row.patch_size),
        f"{row.parameters / 1e6:.2f} M",
        f"{row.macs / 1e9:.2f} G",
        memory,
    ]
    times = (row.step_seconds, row.prediction_seconds) if is_measured else ()
    return cells + ["–" if seconds is None else f"{seconds:.3g} s" for seconds in times]


def _describe_rest(found: NetworkTable) -> str:
    lines = [
        "Parameters in millions, multiply-accumulates (MACs) of one patch in billions. Memory and step: of a training "
        f"with a batch of {found.rows[0].batch_size}. Window: prediction of one patch."
    ]
    for planner in dict.fromkeys(name.partition(" ")[0] for name in found.refused):
        names = [name for name in found.refused if name.partition(" ")[0] == planner]
        more = f" and {len(names) - 1} more of {planner}" if len(names) > 1 else ""
        lines.append(f"Not possible: {names[0]}{more}: {found.refused[names[0]].splitlines()[0]}")
    return "\n".join(lines)


def _write_csv(found: NetworkTable, path: Path) -> None:
    from autoseg.records.files import replacing
    from autoseg.text import format_sizes

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in found.rows:
            fields = row.model_dump(mode="json", exclude={"target"})  # `network` says it in words
            options = " ".join(map("=".join, row.options.items()))
            writer.writerow(fields | {"options": options, "patch_size": format_sizes(row.patch_size)})
