"""`autoseg plan`: from a dataset folder to a workspace that can be trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import (
    add_device,
    add_shared,
    add_workers,
    channel_list,
    default_workspace,
    duration,
    gigabytes,
    positive_integer,
)

if TYPE_CHECKING:
    from autoseg.pipeline import PlanningOptions
    from autoseg.records.budget import Budget
    from autoseg.records.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg plan`."""
    add_planning_arguments(parser)
    parser.add_argument("--no-preprocess", action="store_true", help="decide, but leave preprocessing for later")
    parser.add_argument("--dry-run", action="store_true", help="decide and print; write nothing")


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` and `run` share."""
    parser.add_argument("dataset", type=Path, help="dataset folder, or a CSV/JSON list of files")
    parser.add_argument(
        "-w", "--workspace", type=Path, default=None, help="where to write (default: ./<dataset name>.autoseg)"
    )
    parser.add_argument("--planner", default="unet", help="which planner decides (default: unet)")
    parser.add_argument(
        "--memory", type=gigabytes, default=None, metavar="SIZE", help="training memory of the device, such as 8GB"
    )
    parser.add_argument(
        "--time-per-fold",
        type=duration,
        default=None,
        metavar="TIME",
        help="wall-clock time for one fold, such as 10min; sizes network and schedule",
    )
    parser.add_argument(
        "-c", "--configurations", nargs="+", default=(), metavar="NAME", help="2d 3d_fullres 3d_lowres ..."
    )
    parser.add_argument(
        "--orientation",
        choices=("canonical", "as-stored"),
        default="canonical",
        help="turn every image the same way (default), or keep the files' axis order",
    )
    parser.add_argument(
        "--channels", type=channel_list, default=None, metavar="CT,PET", help="channel names, in file order"
    )
    parser.add_argument("--folds", type=positive_integer, default=5, help="cross-validation folds (default: 5)")
    parser.add_argument(
        "--group-by", default=None, metavar="REGEX", help="cases whose ids match alike stay in one fold"
    )
    parser.add_argument("--skip-faulty", action="store_true", help="leave faulty cases out instead of stopping")
    add_device(parser)
    add_workers(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, and print what was decided."""
    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import progress_bar
    from autoseg.pipeline import plan_dataset
    from autoseg.records.workspace import Workspace

    workspace = Workspace(arguments.workspace or default_workspace(arguments.dataset))
    budget = make_budget(arguments)
    plan = plan_dataset(
        arguments.dataset,
        workspace,
        budget,
        make_options(arguments),
        workers=worker_count(arguments),
        bar=progress_bar,
    )
    if not arguments.quiet:
        _print_plan(plan)
    if not arguments.dry_run:
        print(f"\nWorkspace: {workspace.root}")
        name = "3d_fullres" if "3d_fullres" in plan.configurations else next(iter(plan.configurations))
        print(f"Next: autoseg-train {workspace.root} -c {name} -f 0")
    return DONE


def make_budget(arguments: argparse.Namespace) -> Budget:
    """Turn the options into a Budget, measuring the device's speed when the plan depends on it.

    A workspace that was planned with the same options keeps its measurement: the plan comes out the same, and what
    was trained stays valid.
    """
    import logging
    import tempfile

    from autoseg.cli.machine import gpu_memory_gigabytes, measure_throughput, planning_budget
    from autoseg.errors import UsageError

    logger = logging.getLogger("autoseg.plan")
    if not arguments.dataset.exists():
        raise UsageError(f"{arguments.dataset}: there is no such dataset folder or list file")
    budget, sentence = planning_budget(
        arguments.device, arguments.memory, arguments.time_per_fold, tuple(arguments.configurations)
    )
    logger.info("%s", sentence)
    if budget.device == "cuda" and budget.time_per_fold_seconds is None:
        return budget
    earlier = _earlier_budget(arguments)
    if earlier is not None and earlier.model_copy(update={"throughput": ()}) == budget:
        logger.info("keeping the speed measured for the earlier plan (delete plan.json to measure again)")
        return earlier
    if budget.device == "cuda" and gpu_memory_gigabytes() is None:
        logger.info("there is no GPU here to measure: its speed is assumed")
        return budget
    logger.info("measuring the speed of one training step")
    device = budget.device if arguments.device == "auto" else arguments.device
    with tempfile.TemporaryDirectory() as folder:
        throughput = measure_throughput(device, Path(folder))
    return budget.model_copy(update={"throughput": throughput})


def _earlier_budget(arguments: argparse.Namespace) -> Budget | None:
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan
    from autoseg.records.workspace import Workspace

    path = Workspace(arguments.workspace or default_workspace(arguments.dataset)).plan
    return read_record(Plan, path).budget if path.exists() else None


def make_options(arguments: argparse.Namespace) -> PlanningOptions:
    """Collect the options that concern planning; `run` has no --no-preprocess and no --dry-run."""
    from autoseg.pipeline import PlanningOptions

    return PlanningOptions(
        planner=arguments.planner,
        orientation="as_stored" if arguments.orientation == "as-stored" else "canonical",
        channel_names=arguments.channels,
        folds=arguments.folds,
        group_by=arguments.group_by,
        skip_faulty=arguments.skip_faulty,
        preprocess=not getattr(arguments, "no_preprocess", False),
        write=not getattr(arguments, "dry_run", False),
    )


def worker_count(arguments: argparse.Namespace) -> int:
    """Give -j, or one process per core."""
    from autoseg.cli.machine import core_count

    return arguments.workers or core_count()


def _print_plan(plan: Plan) -> None:
    from rich.console import Console

    from autoseg.report.tables import plan_tables

    console = Console()
    for table in plan_tables(plan):
        console.print(table)
