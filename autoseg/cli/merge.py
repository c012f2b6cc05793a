"""`autoseg merge`: several datasets as one list.

Tested in tests/stages/test_merge.py.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import add_shared, add_workers, worker_count
from autoseg.cli.values import channel_list, key_and_value, named_labels

if TYPE_CHECKING:
    from autoseg.imaging.datasets.labels.label_tables import LabelNames
    from autoseg.stages.merge import MergedDatasets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg merge`."""
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET", help="dataset folders or lists")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="LIST",
        help="list to write: .json, with names of labels and channels, or .csv; label maps that get other values are "
        "written beside it",
    )  # fmt: skip
    parser.add_argument(
        "--rename", type=key_and_value, nargs="+", action="extend", default=[], metavar="OLD=NEW",
        help="names of labels that mean the same, such as spl=spleen",
    )  # fmt: skip
    parser.add_argument(
        "--label-names", type=_labels_of_dataset, nargs="+", action="extend", default=[], metavar="LABELS",
        help="labels of each dataset in turn, such as liver=1,spleen=2, or a file; - for one that names its own",
    )  # fmt: skip
    parser.add_argument(
        "--channels", type=channel_list, default=None, metavar="NAMES", help="channels of every dataset, such as T1,T2"
    )
    parser.add_argument(
        "--allow-missing-channels", action="store_true",
        help="cases, or whole datasets, may lack some of the channels; give it to autoseg-plan too",
    )  # fmt: skip
    add_workers(parser)
    add_shared(parser)


def _labels_of_dataset(text: str) -> "LabelNames | None":
    return None if text.strip() == "-" else named_labels(text)


def run(arguments: argparse.Namespace) -> int:
    """Merge datasets, and say what the list has."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import progress_bar
    from autoseg.stages.merge import MergeOptions, merge_datasets
    from autoseg.text import format_command

    options = MergeOptions(
        label_names=tuple(arguments.label_names),
        renamed=dict(arguments.rename),
        channel_names=arguments.channels,
        may_lack_channels=arguments.allow_missing_channels,
        workers=None if arguments.workers is None else worker_count(arguments),
    )
    with progress_bar("writing label maps") as progress:
        merged = merge_datasets(arguments.datasets, arguments.output, options, progress)
    table = Table(title="Merged datasets")
    for column in ("dataset", "cases", "labels"):
        table.add_column(column)
    for dataset, count, names in merged.counts:
        table.add_row(escape(dataset), str(count), escape(", ".join(names)))
    Console().print(table)
    for note in merged.notes:
        print(f"note: {note}")
    if merged.num_written:
        print(f"Label maps with other values: {arguments.output.with_name(f'{arguments.output.stem}_labels')}")
    print(f"List: {arguments.output} ({sum(count for _, count, _ in merged.counts)} cases)")
    print(f"Next: {format_command('autoseg-plan', arguments.output, *_plan_options(arguments, merged))}")
    return DONE


def _plan_options(arguments: argparse.Namespace, merged: "MergedDatasets") -> list[str]:
    """What a list cannot hold."""
    lacking = ["--allow-missing-channels"] * arguments.allow_missing_channels
    if arguments.output.suffix.lower() == ".json":
        return lacking
    values = {name: (value,) if isinstance(value, int) else value for name, value in merged.labels.items()}
    names = ",".join(f"{name}={'+'.join(map(str, value))}" for name, value in values.items())
    return ["--label-names", names, "--channels", ",".join(merged.channel_names), *lacking]
