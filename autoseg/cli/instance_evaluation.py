"""`autoseg evaluate --instances`: objects instead of voxels.

Tested in tests/stages/test_evaluate_instances.py.
"""

import argparse


def add_instance_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for objects."""
    group = parser.add_argument_group("objects")
    group.add_argument(
        "--instances", action="store_true",
        help="match objects and compute panoptic quality instead; objects are read from CASE_instances beside label "
        "maps, else they are components",
    )  # fmt: skip
    group.add_argument(
        "--connectivity", choices=("full", "face"), default=None,
        help="components are connected by faces, edges and corners (full) or by faces alone (face); default: face for "
        "a border-core model, else full",
    )  # fmt: skip
    group.add_argument(
        "--reference-ids",
        action="store_true",
        help="references are maps with a number for each object, all of one label",
    )


def run_instances(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write instance_evaluation.json; the exit code is 1 when a case could not be scored."""
    import sys

    from rich.console import Console

    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.options import worker_count
    from autoseg.cli.terminal import progress_bar
    from autoseg.errors import UsageError
    from autoseg.interop.models import open_model
    from autoseg.records.files import read_record, write_record
    from autoseg.records.plan import Plan
    from autoseg.report.tables.evaluation_tables import instance_scores_table
    from autoseg.stages.evaluate_instances import InstanceOptions, evaluate_instances

    plan = None
    if arguments.model is not None:
        with open_model(arguments.model) as model:
            plan = read_record(Plan, model.plan)
    is_divided = plan is not None and plan.target == "border_core"
    options = InstanceOptions(
        labels=None if plan is None else plan.labels,
        connectivity=arguments.connectivity or ("face" if is_divided else "full"),
        reference_ids=arguments.reference_ids,
    )
    with progress_bar("evaluating") as progress:
        evaluation, faults = evaluate_instances(
            arguments.predictions,
            arguments.references,
            options,
            workers=worker_count(arguments),
            progress=progress,
        )
    output = arguments.output or arguments.predictions / "instance_evaluation.json"
    Console().print(instance_scores_table(evaluation))
    for case in evaluation.missing_predictions:
        print(f"not scored: {case}: reference without prediction", file=sys.stderr)
    for fault in faults:
        print(f"{fault.severity}: {fault.case} {fault.file}: {fault.what}", file=sys.stderr)
    try:
        write_record(evaluation, output)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error}); choose another file with -o") from error
    print(f"Written: {output}")
    return SOME_FAILED if evaluation.missing_predictions or faults else DONE
