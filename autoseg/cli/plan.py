"""`autoseg plan`: from a dataset folder to a workspace that can be trained."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import (
    add_device,
    add_json,
    add_label_reading,
    add_scheduler,
    add_shared,
    add_workers,
    choose_workers,
)
from autoseg.cli.values import (
    axis_letters,
    channel_list,
    duration,
    gigabytes,
    key_and_value,
    named_labels,
    positive_number,
    side_pair,
    size,
    worker_number,
)

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
    add_scheduler(parser)
    parser.add_argument(
        "--max-memory", type=gigabytes, default=None, metavar="SIZE",
        help="memory that these processes may take together, such as 16GB; fewer are started for large cases "
        "(default: what is free)",
    )  # fmt: skip
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
    group.add_argument(
        "--label-names", type=named_labels, default=None, metavar="liver=1,tumour=2",
        help="labels and their values in the files, for datasets without dataset.json, or a file with them "
        "(labels.json, a table of ITK-SNAP, 3D Slicer, FreeSurfer or BIDS); regions as whole=1+2,core=2, "
        "from the largest to the smallest; `ignore` names voxels that do not count",
    )  # fmt: skip
    add_label_reading(group)
    group.add_argument(
        "--image-pattern", default=None, metavar="PATTERN",
        help="names of the images in the folder, such as 'images/{case}_{channel}.nii.gz'; with --label-pattern",
    )  # fmt: skip
    group.add_argument(
        "--label-pattern", default=None, metavar="PATTERN",
        help="names of the label maps in the folder, such as 'labels/{case}.nii.gz'",
    )  # fmt: skip
    group.add_argument(
        "--write-list", type=Path, default=None, metavar="FILE.csv",
        help="write the recognised cases as a list that can be checked, edited and planned, and stop",
    )  # fmt: skip
    group.add_argument("--folds", type=size, default=5, help="cross-validation folds (default: 5)")
    group.add_argument("--group-by", default=None, metavar="REGEX", help="cases whose ids match alike stay in one fold")
    group.add_argument("--skip-faulty", action="store_true", help="leave faulty cases out instead of stopping")
    group.add_argument(
        "--allow-missing-channels", action="store_true",
        help="cases may lack some of the channels (a file that is not there, an empty cell in a list), and networks "
        "learn to predict from any of them",
    )  # fmt: skip


def _add_planner_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to plan")
    group.add_argument(
        "--planner",
        default=None,
        metavar="NAME",
        help="which installed planner decides (default: auto, or that of --like); an unknown name lists all of them",
    )
    group.add_argument(
        "-c",
        "--configurations",
        nargs="+",
        default=(),
        metavar="NAME",
        help="2d 2.5d 3d_fullres 3d_lowres interactive ...",
    )
    group.add_argument(
        "--target",
        choices=("labels", "border-core", "mask-rcnn"),
        default=None,
        help="what networks learn: labels (default); core and border of each object, so that touching ones stay apart "
        "(predict --instances); or each object with its box and its mask (Mask R-CNN)",
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
        "--devices",
        type=worker_number,
        default=None,
        metavar="N",
        help="GPUs that train a network together, or processes on a CPU (default: 1); --memory is that of each",
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
    group.add_argument(
        "--trials",
        type=duration,
        default=None,
        metavar="TIME",
        help="train several networks for so long together on fold 0, such as 10min, and plan the best one (default: "
        "rules decide)",
    )
    group.add_argument(
        "--measure-again",
        action="store_true",
        help="measure the speed of this machine again instead of using what was measured for an earlier plan",
    )


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("decisions of your own, kept by the planner")
    group.add_argument(
        "--spacing",
        type=positive_number,
        nargs=3,
        default=None,
        metavar=("Z", "Y", "X"),
        help="target spacing at full resolution, mm (2D images without spacing: pixels)",
    )
    group.add_argument(
        "--patch-size",
        type=size,
        nargs="+",
        default=None,
        metavar="N",
        help="voxels: three numbers for the 3D configurations, two for 2d; axes as the plan shows them",
    )
    group.add_argument("--batch-size", type=size, default=None, metavar="N", help="patches per step")
    group.add_argument(
        "--mirror-axes",
        type=axis_letters,
        default=None,
        metavar="AXES",
        help="all, none, or axes of the patch such as z,y, mirrored in training and at prediction (2d: y,x)",
    )
    group.add_argument(
        "--side-pairs",
        type=side_pair,
        nargs="+",
        default=None,
        metavar="LEFT=RIGHT",
        help="labels that change places where an image is mirrored from left to right, such as "
        "'left kidney=right kidney', or none (default: by their names)",
    )
    _add_training_overrides(group)
    group.add_argument(
        "--neighbor-slices",
        type=int,
        choices=range(1, 9),
        default=None,
        metavar="N",
        help="slices on each side that the network of `-c 2.5d` gets too, 1 to 8 (default: 1)",
    )
    group.add_argument(
        "--planner-option",
        type=key_and_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the chosen planner, such as width=base for unext; may be given again",
    )


def _add_training_overrides(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--progressive",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="begin training with small patches that grow up to the planned one",
    )
    group.add_argument(
        "--case-sampling",
        choices=("uniform", "balanced"),
        default=None,
        help="cases of the patches with foreground: all equally likely, or first a label, then a case that has it "
        "(default: balanced where time is limited and a label is in less than half of the cases)",
    )
    group.add_argument(
        "--contrasts",
        choices=("usual", "random"),
        default=None,
        help="training images as they are, with nnU-Net's changes of intensity (default), or with random contrasts "
        "too, for scanners and sequences that they do not show",
    )
    group.add_argument(
        "--regularizer",
        choices=("none", "entropy", "crf"),
        default=None,
        help="what training asks of voxels with the ignore label: nothing (default), a clear decision, or the same one "
        "for voxels that look alike",
    )
