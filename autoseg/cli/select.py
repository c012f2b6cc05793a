"""`autoseg select`: the cross-validated choice."""

import argparse
from pathlib import Path

from autoseg.cli.options import add_device, add_shared, add_workers, add_workspace
from autoseg.cli.refinement import add_refinement, refinement_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg select`."""
    add_workspace(parser)
    parser.add_argument(
        "--dataset", type=Path, default=None, help="folder of the dataset, if it was moved after planning"
    )
    parser.add_argument(
        "--no-ensembles", action="store_true",
        help="compare single configurations only; pairs of them need every validation case to be predicted again",
    )  # fmt: skip
    parser.add_argument(
        "--no-thresholds", action="store_true",
        help="do not try thresholds other than one half for the probabilities of regions",
    )  # fmt: skip
    add_refinement(parser)
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
        help="floating-point type of the networks; use the same for autoseg predict (default: auto)",
    )  # fmt: skip
    add_device(parser)
    add_workers(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Select; print the candidates and the reasons."""
    from rich.console import Console

    from autoseg.cli.main import DONE
    from autoseg.cli.options import worker_count
    from autoseg.cli.terminal import progress_bar
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.records.workspace import Workspace
    from autoseg.report.tables.evaluation_tables import candidate_table
    from autoseg.stages.select import select_model

    keep_freed_memory()
    workspace = Workspace(arguments.workspace)
    selection = select_model(
        workspace,
        arguments.dataset,
        ensembles=not arguments.no_ensembles,
        thresholds=not arguments.no_thresholds,
        refine=refinement_options(arguments, arguments.precision),
        device=arguments.device,
        precision=arguments.precision,
        workers=worker_count(arguments),
        bar=progress_bar,
    )
    Console().print(candidate_table(selection))
    for reason in selection.reasons:
        print(reason)
    print(f"Written: {workspace.selection}")
    return DONE
