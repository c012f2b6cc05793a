"""`autoseg select`: the cross-validated choice."""

import argparse
from pathlib import Path

from autoseg.cli.options import add_device, add_shared, add_workers, add_workspace
from autoseg.cli.refinement import add_refinement, refinement_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg select`."""
    add_workspace(parser)
    parser.add_argument(
        "--dataset", type=Path, default=None, help="where the dataset is now, if it is not where it was planned"
    )
    add_refinement(parser)
    add_device(parser)
    add_workers(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Select, and print why."""
    from autoseg.cli.machine import core_count
    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import progress_bar
    from autoseg.records.workspace import Workspace
    from autoseg.stages.select import select_model

    workspace = Workspace(arguments.workspace)
    with progress_bar("post-processing") as progress:
        selection = select_model(
            workspace,
            arguments.dataset,
            refine=refinement_options(arguments),
            workers=arguments.workers or core_count(),
            progress=progress,
        )
    for reason in selection.reasons:
        print(reason)
    print(f"Written: {workspace.selection}")
    return DONE
