"""`autoseg run`: the whole job, unattended.

Also tested in tests/pipeline/test_phantom_run.py.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.plan import print_trials
from autoseg.cli.planning_arguments import add_planning_arguments
from autoseg.cli.select import add_refinement, refinement_options
from autoseg.errors import UsageError

if TYPE_CHECKING:
    from autoseg.pipeline import PlanningOptions
    from autoseg.records.dataset import DatasetDescription
    from autoseg.records.selection import Selection
    from autoseg.records.workspace import Workspace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg run`."""
    add_planning_arguments(parser)
    parser.add_argument(
        "-f", "--only-folds", nargs="+", default=(), metavar="FOLD",
        help="train these folds only (default: all); a cascade needs all folds of the configuration before it",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="plan, say what the run would train, its time and disk; write nothing"
    )
    parser.add_argument(
        "-y", "--yes", action="store_true", help="answer yes to every question; a run asks none, so it skips nothing"
    )
    parser.add_argument(
        "--unlabelled", type=Path, default=None, metavar="FOLDER",
        help="images without label maps, in a folder or a CSV/JSON list: a student of the best configuration learns "
        "from them too, and is kept if cross-validation gets better; takes as long again as that configuration",
    )  # fmt: skip
    add_refinement(parser)


def run(arguments: argparse.Namespace) -> int:
    """Plan, say what the run takes, train, select, report; then print the selection."""
    from rich.console import Console

    from autoseg.cli.case_list import write_list
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.options import choose_workers
    from autoseg.cli.planning_request import find_workspace, read_request
    from autoseg.cli.speed import add_speed
    from autoseg.cli.terminal import progress_bar
    from autoseg.imaging.formats.volume import length_unit
    from autoseg.pipeline import PipelineOptions, check_dataset, decide_plan, describe_run, request_trials, run_pipeline
    from autoseg.tables.plans import plan_table

    if arguments.write_list is not None:
        return write_list(arguments)
    workspace = find_workspace(arguments)
    budget, planning, device = read_request(arguments)
    workers = choose_workers(arguments)
    description = check_dataset(arguments.dataset, planning, workers=workers, bar=progress_bar)
    if arguments.unlabelled is not None:
        _check_unlabelled(arguments.unlabelled, description, planning)
    budget = add_speed(budget, planning, device, arguments, bar=progress_bar)
    if arguments.dry_run:
        planned = decide_plan(description, workspace, budget, planning, workers=workers, bar=progress_bar)
        Console(highlight=False).print(plan_table(planned.plan))
        trials = request_trials(planned, planning)
        print(*describe_run(planned, workspace, arguments.only_folds, trials), sep="\n")
        return DONE

    from autoseg.networks.devices import keep_freed_memory  # loads torch, which a faulty dataset need not wait for

    keep_freed_memory()
    options = PipelineOptions(
        folds=tuple(arguments.only_folds),
        device=arguments.device,
        refinement=refinement_options(arguments),
        workers=workers,
    )
    selection, failures = run_pipeline(
        arguments.dataset, workspace, budget, planning, options, description=description, bar=progress_bar
    )
    if arguments.unlabelled is not None:
        selection = _learn(workspace, arguments)
    if arguments.trials is not None:
        print_trials(workspace)
    _print_results(workspace, selection, length_unit(description.file_ending))
    for failure in failures:
        print(f"failed: {failure}")
    return SOME_FAILED if failures else DONE


def _print_results(workspace: "Workspace", selection: "Selection", unit: str) -> None:
    from rich.console import Console

    from autoseg.cli.suspect_table import print_suspects
    from autoseg.records.evaluation import Evaluation
    from autoseg.records.files import read_record
    from autoseg.tables.evaluations import candidate_table, evaluation_table
    from autoseg.text import format_command

    if workspace.evaluation.exists():
        Console().print(evaluation_table(read_record(Evaluation, workspace.evaluation), unit))
    Console().print(candidate_table(selection))
    for reason in selection.reasons:
        print(reason)
    print_suspects(workspace)
    print(f"Report: {workspace.report}")
    print(f"Next: {format_command('autoseg-predict', '-m', workspace.root, '-i', 'IMAGES', '-o', 'OUTPUT')}")


def _check_unlabelled(unlabelled: Path, description: "DatasetDescription", planning: "PlanningOptions") -> None:
    """Refuse what nobody could learn from, before anything is planned and trained."""
    from autoseg.stages.unlabelled_images import announce_unlabelled  # loads torch

    if planning.target == "mask_rcnn":
        raise UsageError(
            "--unlabelled needs probabilities of voxels, but --target mask-rcnn finds objects one by one. Leave out "
            "one of both."
        )
    announce_unlabelled(unlabelled, description)


def _learn(workspace: "Workspace", arguments: argparse.Namespace) -> "Selection":
    """Learn from the unlabelled images and write the report again; the selection, with the student if it is better."""
    from autoseg.cli.terminal import progress_bar
    from autoseg.report.page.render import render_report
    from autoseg.stages.learn import LearningOptions, learn_unlabelled
    from autoseg.stages.select import SelectionOptions
    from autoseg.system import count_cores
    from autoseg.training.options import TrainingOptions

    options = LearningOptions(
        training=TrainingOptions(device=arguments.device),
        selection=SelectionOptions(refinement=refinement_options(arguments), device=arguments.device),
    )
    learnt = learn_unlabelled(workspace, arguments.unlabelled, options, workers=count_cores(), bar=progress_bar)
    render_report(workspace)
    return learnt.selection
