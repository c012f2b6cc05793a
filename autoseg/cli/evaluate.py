"""`autoseg evaluate`: predictions against references."""

import argparse
from pathlib import Path

from autoseg.cli.instance_evaluation import add_instance_arguments, run_instances
from autoseg.cli.options import add_shared, add_workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg evaluate`."""
    parser.add_argument("predictions", type=Path, help="folder of predicted label maps")
    parser.add_argument("references", type=Path, help="folder of reference label maps, same names")
    parser.add_argument(
        "-o", "--output", type=Path, default=None, help="where to write (default: evaluation.json beside predictions)"
    )
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        default=None,
        help="a workspace or exported model, for the names of labels and regions",
    )
    add_instance_arguments(parser)
    add_workers(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write evaluation.json; the exit code is 1 when some cases could not be scored."""
    if arguments.instances:
        return run_instances(arguments)
    import sys

    from rich.console import Console

    from autoseg.cli.machine import core_count
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import progress_bar
    from autoseg.errors import UsageError
    from autoseg.interop.models import open_model
    from autoseg.records.files import read_record, write_record
    from autoseg.records.plan import Plan
    from autoseg.report.tables import evaluation_table
    from autoseg.stages.evaluate import evaluate_predictions

    labels = None
    if arguments.model is not None:
        with open_model(arguments.model) as model:
            labels = read_record(Plan, model.plan).labels
    with progress_bar("evaluating") as progress:
        evaluation, faults = evaluate_predictions(
            arguments.predictions,
            arguments.references,
            labels=labels,
            workers=arguments.workers or core_count(),
            progress=progress,
        )
    output = arguments.output or arguments.predictions / "evaluation.json"
    Console().print(evaluation_table(evaluation))
    for case in evaluation.missing_predictions:
        print(f"not scored: {case}: reference without prediction", file=sys.stderr)
    for fault in faults:
        print(f"{fault.severity}: {fault.case} {fault.file}: {fault.what}", file=sys.stderr)
    try:  # last: a place that cannot be written to must not cost the figures
        write_record(evaluation, output)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error}); choose another file with -o") from error
    print(f"Written: {output}")
    failed = evaluation.missing_predictions or any(fault.severity == "error" for fault in faults)
    return SOME_FAILED if failed else DONE
