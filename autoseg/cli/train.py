"""`autoseg train`: one configuration, one fold."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import add_device, add_shared, add_workspace
from autoseg.cli.planned_workspace import find_planned_workspace
from autoseg.cli.values import (
    AXES,
    axis_letters,
    count,
    duration,
    fraction,
    positive_integer,
    positive_number,
    thread_option,
    worker_count_from_zero,
    worker_number,
)
from autoseg.records.losses import LOSS_MODULES

if TYPE_CHECKING:
    from autoseg.records.workspace import Workspace
    from autoseg.training.options import TrainingOptions

logger = logging.getLogger("autoseg.train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg train`."""
    add_workspace(parser)
    parser.add_argument(
        "-c",
        "--configuration",
        required=True,
        metavar="NAME",
        help="configuration of the plan, such as 3d_fullres; an unknown one lists all",
    )
    parser.add_argument(
        "-f", "--fold", required=True, help='index of the fold, or "all" (trains on every case, validates on none)'
    )
    _add_length(parser.add_argument_group("length (default: as planned)"))
    _add_recipe(parser.add_argument_group("recipe (default: as planned)"))
    _add_start(parser)
    _add_machine(parser.add_argument_group("machine"))
    _add_watching(parser.add_argument_group("progress"))
    add_shared(parser)


def _add_length(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=positive_integer, metavar="N", help="number of epochs, however long they take")
    group.add_argument(
        "--steps-per-epoch",
        type=positive_integer,
        metavar="N",
        help="optimiser steps of an epoch, before validation on patches and a checkpoint",
    )
    group.add_argument(
        "--max-time",
        dest="max_time_seconds",
        type=duration,
        metavar="TIME",
        help="instead of --epochs: end within this time, final validation included, such as 10min",
    )


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--loss", choices=tuple(LOSS_MODULES), metavar="NAME", help=f"loss: {', '.join(LOSS_MODULES)}")
    group.add_argument(
        "--optimizer", choices=("sgd", "adamw"), help="optimiser; one that was not planned has its usual learning rate"
    )
    group.add_argument(
        "--lr",
        "--learning-rate",
        dest="learning_rate",
        type=positive_number,
        metavar="RATE",
        help="highest learning rate, such as 0.003",
    )
    group.add_argument(
        "--warmup",
        dest="warmup_fraction",
        type=fraction,
        metavar="FRACTION",
        help="fraction of the training over which the learning rate rises from 0, such as .05",
    )
    group.add_argument(
        "--weight-average",
        dest="weight_average_decay",
        type=fraction,
        metavar="DECAY",
        help="decay of an average of the weights over steps, such as .99; kept if better on validation patches",
    )
    group.add_argument(
        "--mirror-axes",
        type=axis_letters,
        metavar="AXES",
        help="all, none, or axes of the patch such as z,y (2d: y,x); prediction averages over the same",
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start")
    continuing = group.add_mutually_exclusive_group()
    continuing.add_argument("--resume", action="store_true", help="resume from the last checkpoint (the default)")
    continuing.add_argument(
        "--restart", action="store_true", help="discard earlier checkpoints of this fold and start again"
    )
    group.add_argument(
        "--pretrained",
        type=Path,
        metavar="MODEL",
        help="start from the weights of this workspace, exported model or fold's folder, or of an encoder of nnssl "
        "(.pth)",
    )
    group.add_argument(
        "--freeze-encoder",
        action="store_true",
        help="with --pretrained: train the decoder alone; give both again to resume",
    )
    group.add_argument(
        "--seed", type=count, default=0, metavar="N", help="seed of initial weights and batches (default: 0)"
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add_device(group)
    group.add_argument(
        "--devices",
        type=worker_number,
        default=None,
        metavar="N",
        help="GPUs, or processes on a CPU (default: as planned, 1 as a rule)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16", "fp16"),
        default="auto",
        help="number format of the network (default: auto, the fastest that is safe on the device)",
    )
    group.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="compile the network (default: auto, where it saves time)",
    )
    group.add_argument(
        "--threads",
        type=thread_option,
        metavar="N|all|auto",
        help="threads on a CPU; auto takes what is fastest beside other programs (default: auto where time ends the "
        "training; else all, because the weights of a seed depend on it)",
    )
    group.add_argument(
        "-j",
        "--workers",
        type=worker_count_from_zero,
        metavar="N",
        help="processes that prepare batches (default: 0 on a CPU, by the number of cores for a GPU)",
    )


def _add_watching(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tracking",
        choices=("tensorboard", "mlflow"),
        help="also record the figures of each epoch there (default: only in the fold's history.jsonl)",
    )
    group.add_argument(
        "--preview-augmentation",
        type=png_file,
        metavar="FILE.png",
        help="draw augmented patches into this file, without training",
    )


def png_file(text: str) -> Path:
    """Read the path of an image file to be written.

    Raises:
        argparse.ArgumentTypeError: If it does not end with .png; so no other file is overwritten by mistake.
    """
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end with .png")
    return Path(text)


def run(arguments: argparse.Namespace) -> int:
    """Train, validate, and print the score."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import progress_bar
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.stages.train import train_fold
    from autoseg.training.distributed import is_first_process, is_launched, launch

    workspace = find_planned_workspace(arguments)
    arguments.devices = _count_devices(workspace, arguments.devices)
    starts_others = arguments.devices > 1 and not is_launched()
    options = _read_options(workspace, arguments, warn=is_first_process() and not starts_others)
    if arguments.preview_augmentation is not None:
        return _preview(workspace, arguments, options)
    if starts_others:
        _check_devices(workspace, arguments.configuration, options)
        return launch(arguments.devices, arguments.words)
    keep_freed_memory()
    checkpoint = train_fold(workspace, arguments.configuration, arguments.fold, options, bar=progress_bar)
    if not is_first_process():
        return DONE if checkpoint.finished else SOME_FAILED
    if not checkpoint.finished:
        command = "the same command without --restart" if arguments.restart else "the same command"
        print(f"Stopped after step {checkpoint.step}; {command} resumes from there.")
        return SOME_FAILED
    _print_validation(workspace, arguments.configuration, arguments.fold)
    print(f"Fold: {workspace.fold(arguments.configuration, arguments.fold)}")
    return DONE


def _count_devices(workspace: Workspace, asked: int | None) -> int:
    """Devices that train together: as planned, or as asked for where one was planned for.

    Raises:
        UsageError: If the plan is for several devices, and others are asked for.
    """
    from autoseg.errors import UsageError
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan

    planned = read_record(Plan, workspace.plan).budget.devices
    if planned > 1 and asked not in (None, planned):
        raise UsageError(
            f"--devices {asked}: {workspace.plan} is for {planned} devices, by which batch, memory and learning rate "
            f"were chosen. Leave --devices out, or plan again with --devices {asked}"
        )
    return asked or planned


def _check_devices(workspace: Workspace, name: str, options: TrainingOptions) -> None:
    """Refuse in one line, before they start, what each of the processes would refuse."""
    from autoseg.errors import UsageError
    from autoseg.networks.device_types import device_type
    from autoseg.networks.devices import choose_device
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan
    from autoseg.training.options import apply_options, find_configuration

    configuration = apply_options(find_configuration(read_record(Plan, workspace.plan), name, workspace.plan), options)
    if options.devices > configuration.batch_size:
        raise UsageError(
            f"--devices {options.devices}: a batch of {name} has {configuration.batch_size} samples, and each device "
            "needs at least one; use fewer devices, or plan a larger batch"
        )
    row = device_type(choose_device(options.device))
    if row.is_gpu and options.devices > row.module.device_count():
        raise UsageError(
            f"--devices {options.devices}: this machine has {row.module.device_count()} GPUs; use fewer devices, or "
            "--device cpu"
        )


def _preview(workspace: Workspace, arguments: argparse.Namespace, options: TrainingOptions) -> int:
    from autoseg.cli.main import DONE
    from autoseg.stages.preview import preview_augmentation

    path = arguments.preview_augmentation
    preview_augmentation(workspace, arguments.configuration, arguments.fold, path, options)
    print(f"Augmented patches: {path}")
    return DONE


def _read_options(workspace: Workspace, arguments: argparse.Namespace, *, warn: bool) -> TrainingOptions:
    from autoseg.errors import UsageError
    from autoseg.training.options import TrainingOptions

    if arguments.freeze_encoder and arguments.pretrained is None:
        raise UsageError("--freeze-encoder needs --pretrained: an untrained encoder must not be frozen")
    given = {field.name: getattr(arguments, field.name) for field in fields(TrainingOptions)}
    if arguments.mirror_axes is not None:
        axes = _read_mirror_axes(workspace, arguments.configuration, arguments.mirror_axes, warn=warn)
        given["mirror_axes"] = axes
    return TrainingOptions(**given)


def _read_mirror_axes(workspace: Workspace, name: str, text: str, *, warn: bool) -> tuple[int, ...]:
    """Letters as axes of the configuration's patch; warn where labels with a side have no partner to swap with."""
    from autoseg.errors import UsageError
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan
    from autoseg.records.sides import find_sided_names, left_right_axes, read_axes
    from autoseg.training.options import find_configuration

    plan = read_record(Plan, workspace.plan)
    configuration = find_configuration(plan, name, workspace.plan)
    dimensions = configuration.network.dimensions
    possible = AXES[-dimensions:]
    letters = {"all": possible, "none": ""}.get(text, text.replace(",", ""))
    unknown = [letter for letter in letters if letter not in possible]
    if unknown:
        raise UsageError(
            f"--mirror-axes {text}: patches of {name} have no axis {unknown[0]}; those of patch_size in the plan are "
            f"{','.join(possible)}"
        )
    axes = read_axes(text.replace(",", ""), dimensions)
    sides = configuration.training.sides
    paired = () if sides is None else [name for pair in sides.pairs for name in pair]
    sided = [name for name in find_sided_names(plan.labels) if name not in paired]
    if warn and sided and set(axes) & set(left_right_axes(plan.transpose, dimensions, plan.orientation)):
        which = "left and right" if plan.orientation != "as_stored" else "what may be left and right"
        logger.warning("--mirror-axes %s swaps %s, but labels have a side: %s", text, which, ", ".join(sided))
    return axes


def _print_validation(workspace: Workspace, configuration_name: str, fold_name: str) -> None:
    from rich.console import Console

    from autoseg.imaging.formats.volume import length_unit
    from autoseg.records.evaluation import Evaluation
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan
    from autoseg.tables.evaluations import evaluation_table

    path = workspace.validation_evaluation((configuration_name,), fold_name)
    if path.exists():
        unit = length_unit(read_record(Plan, workspace.plan).file_ending)
        Console().print(evaluation_table(read_record(Evaluation, path), unit))
