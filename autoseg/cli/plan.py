"""`autoseg plan`: from a dataset folder to a workspace that can be trained."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from autoseg.cli.options import (
    add_json,
    choose_workers,
)
from autoseg.cli.planning_arguments import add_planning_arguments

if TYPE_CHECKING:
    from autoseg.cli.planning_request import PlanningDevice
    from autoseg.records.plan import Plan
    from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.plan")

MAX_LINE = 100
"""Columns of a sentence on a wide terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg plan`."""
    add_planning_arguments(parser)
    parser.add_argument("--explain", action="store_true", help="print every decision with its reason")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="print what each configuration costs, with the time of a training step measured on this device",
    )
    parser.add_argument("--no-preprocess", action="store_true", help="decide, but leave preprocessing for later")
    parser.add_argument("--dry-run", action="store_true", help="decide and print; write nothing")
    add_json(parser, "the plan")


def run(arguments: argparse.Namespace) -> int:
    """Plan, and print what was decided."""
    from autoseg.cli.case_list import write_list
    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import print_json, printing_apart
    from autoseg.errors import UsageError

    if arguments.write_list is not None:
        if arguments.json:
            raise UsageError("--json prints the plan, and --write-list makes none: leave one of them out")
        return write_list(arguments)
    with printing_apart(as_json=arguments.json):
        plan = _plan(arguments)
    if arguments.json:
        print_json(plan)
    return DONE


def _plan(arguments: argparse.Namespace) -> Plan:
    from autoseg.cli.planning_request import find_workspace, read_request
    from autoseg.cli.speed import add_speed
    from autoseg.cli.terminal import progress_bar
    from autoseg.pipeline import check_dataset, plan_dataset

    workspace = find_workspace(arguments)
    budget, options, device = read_request(arguments)
    workers = choose_workers(arguments)
    description = check_dataset(arguments.dataset, options, workers=workers, bar=progress_bar)
    budget = add_speed(budget, options, device, arguments, bar=progress_bar)
    plan = plan_dataset(
        arguments.dataset,
        workspace,
        budget,
        options,
        description=description,
        workers=workers,
        bar=progress_bar,
    )
    if arguments.trials is not None and not arguments.dry_run and not arguments.quiet:
        print_trials(workspace)
    _print_plan(plan, arguments)
    if not arguments.dry_run:
        # shown at once: a measurement for the profile may exhaust the memory and end the process
        print(f"\nWorkspace: {workspace.root}\nNext: {_first_training(plan, workspace)}", flush=True)
    if arguments.profile:
        _print_profile(plan, device)
    return plan


def _first_training(plan: Plan, workspace: Workspace) -> str:
    """The command that trains the first fold; without folds, as a single case has none, that of all cases."""
    from autoseg.records.files import read_record
    from autoseg.records.plan import Splits
    from autoseg.text import format_command

    name = "3d_fullres" if "3d_fullres" in plan.configurations else next(iter(plan.configurations))
    fold = "0" if read_record(Splits, workspace.splits).folds else "all"
    return format_command("autoseg-train", workspace.root, "-c", name, "-f", fold)


def print_trials(workspace: Workspace) -> None:
    """Print the table of finished trials."""
    from rich.console import Console

    from autoseg.cli.trial_table import trial_table
    from autoseg.records.files import read_record
    from autoseg.records.trials import Trials

    Console(highlight=False).print(trial_table(read_record(Trials, workspace.trials_record)))


def _print_plan(plan: Plan, arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from autoseg.tables.plans import plan_explanation, plan_table

    console = Console(highlight=False)
    if not arguments.quiet:
        console.print(plan_table(plan))
    if arguments.explain:
        console.print(*plan_explanation(plan), sep="\n", width=min(console.width, MAX_LINE))
    elif not arguments.quiet:
        console.print(f"{len(plan.decisions)} decisions; --explain prints the reason of each.")


def _print_profile(plan: Plan, device: PlanningDevice) -> None:
    """Show what each configuration costs, with measured steps where the device can be used here."""
    from rich.console import Console
    from rich.markup import escape

    from autoseg.errors import UsageError
    from autoseg.tables.plans import profile_table

    seconds: dict[str, float | None] = {}
    try:
        seconds, remark = _measure_steps(plan, device)
    except UsageError as error:  # the driver knows a GPU that torch cannot use
        remark = f"No step was measured: {error}."
    Console(highlight=False).print("", profile_table(plan, seconds), escape(remark), sep="\n")


def _measure_steps(plan: Plan, device: PlanningDevice) -> tuple[dict[str, float | None], str]:
    """Seconds of a training step by configuration, empty for a device elsewhere; and a remark for the user.

    Raises:
        UsageError: If torch cannot use the device.
    """
    if not device.is_here and device.kind == "cuda":
        return {}, "No step was measured: there is no such GPU here."
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.training.probe import describe_torch_device, measure_step

    keep_freed_memory()  # as training does
    device_words = describe_torch_device(device.name)
    seconds = {}
    for name, configuration in plan.configurations.items():
        logger.info("measuring a training step of %s", name)
        seconds[name] = measure_step(configuration, plan.encoding, device.name)
    return seconds, f"Steps were measured on {device_words}."
