"""`autoseg learn`: a student that learns from unlabelled images, beside its teacher.

Tested in tests/stages/test_learn.py.
"""

import argparse
from pathlib import Path

from autoseg.cli.options import add_device, add_shared
from autoseg.cli.planned_workspace import find_planned_workspace
from autoseg.cli.values import duration, fraction, positive_integer
from autoseg.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg learn`."""
    parser.add_argument("workspace", type=Path, metavar="WORKSPACE", help="a workspace with trained folds")
    parser.add_argument(
        "--unlabelled", type=Path, default=None, metavar="FOLDER",
        help="a folder of images without label maps, or a CSV/JSON list; images of labelled cases are left out "
        "(default: those that the workspace learns from already)",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--configuration", default=None, metavar="NAME",
        help="the teacher, whose folds label the images (default: the best configuration by cross-validation)",
    )  # fmt: skip
    parser.add_argument(
        "--min-confidence", type=fraction, default=None, metavar="P",
        help="calibrated probability of its label from which a voxel counts (default: 0.75)",
    )  # fmt: skip
    group = parser.add_argument_group("schedule of the student (default: that of its teacher in the plan)")
    group.add_argument("--epochs", type=positive_integer, metavar="N", help="number of epochs, however long they take")
    group.add_argument("--steps-per-epoch", type=positive_integer, metavar="N", help="optimiser steps of an epoch")
    group.add_argument(
        "--max-time", dest="max_time_seconds", type=duration, metavar="TIME",
        help="instead of --epochs: end each fold within this time, final validation included, such as 10min",
    )  # fmt: skip
    add_device(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Learn, select and report; then print the comparison with the teacher, and the selection."""
    from rich.console import Console

    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import progress_bar
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.records.files import read_record
    from autoseg.records.unlabelled import UnlabelledImages
    from autoseg.report.page.render import render_report
    from autoseg.stages.learn import LearningOptions, learn_unlabelled
    from autoseg.stages.select import SelectionOptions
    from autoseg.system import count_cores
    from autoseg.tables.evaluations import candidate_table
    from autoseg.training.options import TrainingOptions

    workspace = find_planned_workspace(arguments)
    unlabelled = arguments.unlabelled
    if unlabelled is None:
        if not workspace.unlabelled.exists():
            raise UsageError(
                f"{workspace.root}: learns from no unlabelled images yet; name their folder with --unlabelled"
            )
        unlabelled = Path(read_record(UnlabelledImages, workspace.unlabelled).folder)
    keep_freed_memory()
    options = LearningOptions(
        configuration=arguments.configuration,
        min_confidence=arguments.min_confidence,
        training=TrainingOptions(
            device=arguments.device,
            epochs=arguments.epochs,
            steps_per_epoch=arguments.steps_per_epoch,
            max_time_seconds=arguments.max_time_seconds,
        ),
        selection=SelectionOptions(device=arguments.device),
    )
    learnt = learn_unlabelled(workspace, unlabelled, options, workers=count_cores(), bar=progress_bar)
    render_report(workspace)
    Console().print(candidate_table(learnt.selection))
    print(learnt.record.reason)
    print(f"Record: {workspace.student_record(learnt.record.student)}")
    print(f"Report: {workspace.report}")
    return DONE
