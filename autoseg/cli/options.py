"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.values import gigabytes, positive_number, worker_number

if TYPE_CHECKING:
    from autoseg.cluster.dask_workers import Workers
    from autoseg.imaging.datasets.labels.label_reading import ReadingOptions


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add -v and -q."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-v", "--verbose", action="store_true", help="more log lines, and tracebacks of errors")
    group.add_argument("-q", "--quiet", action="store_true", help="errors and results only")


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --json, for programs: standard output is one JSON document."""
    parser.add_argument(
        "--json", action="store_true", help=f"print {what} as one JSON document; all else goes to standard error"
    )


def add_device(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or cuda:N; mps, xpu or xpu:N"
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add -j."""
    parser.add_argument(
        "-j",
        "--workers",
        type=worker_number,
        default=None,
        metavar="N",
        help="processes for reading and computing (default: one per core; few small files are read by one)",
    )


def add_max_memory(parser: argparse.ArgumentParser) -> None:
    """Add --max-memory, of commands that work on several cases at once."""
    parser.add_argument(
        "--max-memory", type=gigabytes, default=None, metavar="SIZE",
        help="memory that cases may take that are worked on at the same time, such as 8GB (default: what is free)",
    )  # fmt: skip


def max_memory_bytes(arguments: argparse.Namespace) -> int | None:
    """What --max-memory allows; None: what is free."""
    return None if arguments.max_memory is None else round(arguments.max_memory * 1e9)


def read_mirror_axes(arguments: argparse.Namespace) -> str | None:
    """Letters of the axes that --mirror-axes asks for; `all` are those that patches have.

    Raises:
        UsageError: If --tta none asks for the opposite.
    """
    from autoseg.errors import UsageError

    text: str | None = arguments.mirror_axes
    if text is None:
        return None
    if arguments.tta == "none" and text != "none":
        raise UsageError(f"--mirror-axes {text} and --tta none contradict each other; leave one of them out")
    return {"all": "all", "none": ""}.get(text, text.replace(",", ""))


def add_label_reading(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --label-colors, --label-threshold and --label-ids."""
    parser.add_argument(
        "--label-colors", default=None, metavar="COLOURS",
        help='labels of colour masks: "red=tumour, 0,255,0=liver, #0000ff=vessel", or a file with one on each line',
    )  # fmt: skip
    parser.add_argument(
        "--label-threshold", type=positive_number, default=None, metavar="VALUE",
        help="soft or noisy masks of one structure: values from here on are the structure, smaller ones background",
    )  # fmt: skip
    parser.add_argument(
        "--label-ids", action="store_true", help="label maps hold a number for each object, all of one label"
    )


def read_label_reading(arguments: argparse.Namespace) -> ReadingOptions:
    """What --label-colors, --label-threshold and --label-ids ask for.

    Raises:
        UsageError: If the colours cannot be understood.
    """
    from autoseg.imaging.datasets.labels.label_colors import parse_label_colors
    from autoseg.imaging.datasets.labels.label_reading import ReadingOptions

    colors = () if arguments.label_colors is None else parse_label_colors(arguments.label_colors)
    return ReadingOptions(colors=colors, threshold=arguments.label_threshold, are_ids=arguments.label_ids)


def add_scheduler(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --scheduler."""
    parser.add_argument(
        "--scheduler", default=None, metavar="ADDRESS", help="work on a Dask cluster, such as tcp://HOST:8786"
    )


def add_workspace(parser: argparse.ArgumentParser) -> None:
    """Add the positional workspace."""
    parser.add_argument("workspace", type=Path, help="folder written by autoseg-plan")


def default_workspace(dataset: Path) -> Path:
    """Give `./<dataset name>.autoseg`."""
    dataset = dataset.resolve()
    if dataset.name == "dataset.json":
        dataset = dataset.parent
    return Path.cwd() / f"{dataset.stem if dataset.is_file() else dataset.name}.autoseg"


def choose_workers(arguments: argparse.Namespace) -> Workers | None:
    """Give the cluster, or -j; None: neither was given.

    Raises:
        UsageError: If both were given.
    """
    if arguments.scheduler is None:
        workers: int | None = arguments.workers
        return workers
    from autoseg.cluster.dask_workers import DaskCluster
    from autoseg.errors import UsageError

    if arguments.workers is not None:
        raise UsageError("--workers are processes here, --scheduler works elsewhere: give only one of them")
    return DaskCluster(arguments.scheduler)


def worker_count(arguments: argparse.Namespace) -> int:
    """Give -j, or one process per core."""
    from autoseg.system import count_cores

    return arguments.workers or count_cores()
