"""`autoseg train`: one configuration, one fold."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from autoseg.cli.options import add_device, add_shared, add_workspace, count, duration, positive_integer

if TYPE_CHECKING:
    from autoseg.records.workspace import Workspace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg train`."""
    add_workspace(parser)
    parser.add_argument("-c", "--configuration", required=True, help="2d, 3d_fullres, 3d_lowres")
    parser.add_argument(
        "-f", "--fold", required=True, help='index of the fold, or "all" (trains on every case, validates on none)'
    )
    parser.add_argument("--epochs", type=positive_integer, default=None, help="instead of the plan's")
    parser.add_argument("--steps-per-epoch", type=positive_integer, default=None, help="instead of the plan's")
    parser.add_argument(
        "--max-time",
        type=duration,
        default=None,
        metavar="TIME",
        help="end within this time, final validation included, such as 10min",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="number format of the network (default: auto, the fastest that is safe on the device)",
    )
    continuing = parser.add_mutually_exclusive_group()
    continuing.add_argument("--resume", action="store_true", help="go on from the last checkpoint (the default)")
    continuing.add_argument("--restart", action="store_true", help="forget earlier checkpoints of this fold")
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="of weights and batches (default: 0)")
    parser.add_argument(
        "-j",
        "--workers",
        type=count,
        default=None,
        metavar="N",
        help="processes that prepare batches; 0 prepares them in the training process",
    )
    add_device(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, validate, and print the score."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import progress_bar
    from autoseg.records.workspace import Workspace
    from autoseg.stages.train import TrainingOptions, train_fold

    options = TrainingOptions(
        device=arguments.device,
        precision=arguments.precision,
        epochs=arguments.epochs,
        steps_per_epoch=arguments.steps_per_epoch,
        max_time_seconds=arguments.max_time,
        restart=arguments.restart,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    workspace = Workspace(arguments.workspace)
    checkpoint = train_fold(workspace, arguments.configuration, arguments.fold, options, bar=progress_bar)
    if not checkpoint.finished:
        print(f"Stopped after step {checkpoint.step}; the same command goes on from there.")
        return SOME_FAILED
    _print_validation(workspace, arguments.configuration, arguments.fold)
    print(f"Fold: {workspace.fold(arguments.configuration, arguments.fold)}")
    return DONE


def _print_validation(workspace: Workspace, configuration: str, fold: str) -> None:
    from rich.console import Console

    from autoseg.records.evaluation import Evaluation
    from autoseg.records.files import read_record
    from autoseg.report.tables import evaluation_table

    path = workspace.fold(configuration, fold) / "validation" / "evaluation.json"
    if path.exists():
        Console().print(evaluation_table(read_record(Evaluation, path)))
