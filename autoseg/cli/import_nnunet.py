"""`autoseg import-nnunet`: import a model that nnU-Net v2 trained."""

import argparse
from pathlib import Path

from autoseg.cli.options import add_shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg import-nnunet`."""
    parser.add_argument(
        "source", type=Path, metavar="FOLDER|ZIP",
        help="a folder with plans.json and fold_0, the results folder of a dataset, or a zip file exported by nnU-Net",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL", help="folder to create")
    parser.add_argument(
        "--trained-as", default=None, metavar="TRAINER__PLANS",
        help="the model to import when there are several, such as nnUNetTrainer__nnUNetPlans",
    )  # fmt: skip
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import the model and print its configurations and folds."""
    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import progress_bar
    from autoseg.interop.nnunet_import import import_nnunet
    from autoseg.records.workspace import Workspace

    with progress_bar("importing") as progress:
        plan = import_nnunet(arguments.source, arguments.output, trained_as=arguments.trained_as, progress=progress)
    workspace = Workspace(arguments.output)
    for name in plan.configurations:
        print(f"{name}: fold(s) {', '.join(workspace.trained_folds(name))}")
    print(f"Model: {arguments.output}")
    return DONE
