"""Options of `plan` and `run` that say what to plan; `planning_request` makes a budget of them.

Tested in tests/cli/test_plan.py and tests/cli/test_planning_request.py.
"""

import argparse
from pathlib import Path

from autoseg.cli.options import (
    add_device,
    add_shared,
    add_workers,
    channel_list,
    duration,
    gigabytes,
    key_and_value,
    positive_integer,
    positive_number,
)


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` and `run` share."""
    parser.add_argument("dataset", type=Path, help="dataset folder, or a CSV/JSON list of files")
    parser.add_argument(
        "-w", "--workspace", type=Path, default=None, help="where to write (default: ./<dataset name>.autoseg)"
    )
    _add_dataset_arguments(parser)
    _add_planner_arguments(parser)
    _add_limits(parser)
    _add_overrides(parser)
    add_device(parser)
    add_workers(parser)
    add_shared(parser)


def _add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("dataset")
    group.add_argument(
        "--orientation",
        choices=("canonical", "as-stored"),
        default=None,
        help="turn every image the same way (default), or keep the files' axis order",
    )
    group.add_argument(
        "--channels", type=channel_list, default=None, metavar="CT,PET", help="channel names, in file order"
    )
    group.add_argument("--folds", type=positive_integer, default=5, help="cross-validation folds (default: 5)")
    group.add_argument("--group-by", default=None, metavar="REGEX", help="cases whose ids match alike stay in one fold")
    group.add_argument("--skip-faulty", action="store_true", help="leave faulty cases out instead of stopping")


def _add_planner_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to plan")
    group.add_argument(
        "--planner",
        default=None,
        metavar="NAME",
        help="which installed planner decides (default: auto, or that of --like); an unknown name lists all of them",
    )
    group.add_argument(
        "-c", "--configurations", nargs="+", default=(), metavar="NAME", help="2d 3d_fullres 3d_lowres ..."
    )
    group.add_argument(
        "--target",
        choices=("labels", "border-core"),
        default=None,
        help="what networks learn: labels (default), or core and border of each object, so that touching ones stay "
        "apart (predict --instances)",
    )
    group.add_argument(
        "--like",
        type=Path,
        default=None,
        metavar="MODEL",
        help="network, spacing and normalisation of this planned workspace or exported model, so that its weights fit",
    )
    group.add_argument(
        "--keep-plan",
        action="store_true",
        help="decide nothing: take the workspace's plan.json as it is, edited by hand for example",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--memory", type=gigabytes, default=None, metavar="SIZE", help="memory that training may use, such as 8GB"
    )
    group.add_argument(
        "--time-per-fold",
        type=duration,
        default=None,
        metavar="TIME",
        help="wall-clock time for one fold, such as 10min; sizes network and schedule",
    )
    group.add_argument(
        "--latency",
        type=duration,
        default=None,
        metavar="TIME",
        help="longest prediction of a median case, such as 5s; sizes the network",
    )


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("decisions of your own, kept by the planner")
    group.add_argument(
        "--spacing",
        type=positive_number,
        nargs=3,
        default=None,
        metavar=("Z", "Y", "X"),
        help="target spacing at full resolution, mm",
    )
    group.add_argument(
        "--patch-size",
        type=positive_integer,
        nargs="+",
        default=None,
        metavar="N",
        help="voxels: three numbers for the 3D configurations, two for 2d; axes as the plan shows them",
    )
    group.add_argument("--batch-size", type=positive_integer, default=None, metavar="N", help="patches per step")
    group.add_argument(
        "--planner-option",
        type=key_and_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the chosen planner, such as width=base for unext; may be given again",
    )
