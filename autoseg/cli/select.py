"""`autoseg select`: the cross-validated choice."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import (
    add_device,
    add_json,
    add_max_memory,
    add_scheduler,
    add_shared,
    add_workers,
    add_workspace,
    max_memory_bytes,
)
from autoseg.cli.values import duration

if TYPE_CHECKING:
    from autoseg.records.selection import Selection
    from autoseg.training.refinement import RefinementOptions

DEFAULT_REFINEMENT_TIME = "60s"


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
        "--no-member-weights", action="store_true",
        help="weigh the members of a pair half and half; other weights need its validation cases to be predicted again",
    )  # fmt: skip
    parser.add_argument(
        "--no-thresholds", action="store_true",
        help="do not try thresholds other than one half for the probabilities of regions",
    )  # fmt: skip
    parser.add_argument(
        "--no-confidence", action="store_true",
        help="do not learn temperatures and expected Dice, for which the held-out cases are predicted again",
    )  # fmt: skip
    parser.add_argument(
        "--no-expected-dice", action="store_true",
        help="do not try labels that are decided by their expected Dice in each case; every validation case of the "
        "choice is predicted again for it",
    )  # fmt: skip
    parser.add_argument(
        "--adapt", choices=("none", "histogram", "statistics"), default="none",
        help="try whether adapting images (see autoseg predict) does harm, which predicts the held-out cases again; if "
        "not, autoseg predict does so with images of another contrast (default: none)",
    )  # fmt: skip
    add_refinement(parser)
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "tf32", "bf16", "fp16"), default="auto",
        help="floating-point type of the networks; use the same for autoseg predict (default: auto)",
    )  # fmt: skip
    add_device(parser)
    add_workers(parser)
    add_max_memory(parser)
    add_scheduler(parser)
    add_json(parser, "selection.json")
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Select; print the candidates and the reasons."""
    from autoseg.cli.main import DONE
    from autoseg.cli.terminal import print_json, printing_apart

    with printing_apart(as_json=arguments.json):
        selection = _select(arguments)
    if arguments.json:
        print_json(selection)
    return DONE


def _select(arguments: argparse.Namespace) -> "Selection":
    from rich.console import Console

    from autoseg.cli.options import choose_workers
    from autoseg.cli.suspect_table import print_suspects
    from autoseg.cli.terminal import progress_bar
    from autoseg.locks import warn_of_writers
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.records.workspace import Workspace
    from autoseg.stages.select import SelectionOptions, select_model
    from autoseg.system import count_cores
    from autoseg.tables.evaluations import candidate_table

    keep_freed_memory()
    workspace = Workspace(arguments.workspace)
    warn_of_writers(workspace)
    options = SelectionOptions(
        ensembles=not arguments.no_ensembles,
        member_weights=not arguments.no_member_weights,
        thresholds=not arguments.no_thresholds,
        confidence=not arguments.no_confidence,
        expected_dice=not arguments.no_expected_dice,
        adaptation=arguments.adapt,
        refinement=refinement_options(arguments),
        device=arguments.device,
        precision=arguments.precision,
        max_memory=max_memory_bytes(arguments),
    )
    workers = choose_workers(arguments) or count_cores()
    selection = select_model(workspace, arguments.dataset, options, workers=workers, bar=progress_bar)
    Console().print(candidate_table(selection))
    for reason in selection.reasons:
        print(reason)
    print_suspects(workspace)
    print(f"Written: {workspace.selection}")
    return selection


def add_refinement(parser: argparse.ArgumentParser) -> None:
    """Add --refine and --refine-time."""
    group = parser.add_argument_group("refinement")
    group.add_argument(
        "--refine", choices=("none", "boundary"), default="none",
        help="boundary: train small networks that correct surfaces; kept if they help in cross-validation "
        "(default: none)",
    )  # fmt: skip
    group.add_argument(
        "--refine-time", type=duration, default=duration(DEFAULT_REFINEMENT_TIME), metavar="TIME",
        help=f"wall-clock time to train each of up to three such networks (default: {DEFAULT_REFINEMENT_TIME})",
    )  # fmt: skip


def refinement_options(arguments: argparse.Namespace) -> "RefinementOptions | None":
    """Settings of refinement from the arguments; None: no refinement."""
    if arguments.refine == "none":
        return None
    from autoseg.training.refinement import RefinementOptions

    return RefinementOptions(seconds=arguments.refine_time)
