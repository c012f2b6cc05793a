"""`autoseg evaluate`: predictions against references."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import (
    add_json,
    add_label_reading,
    add_max_memory,
    add_scheduler,
    add_shared,
    add_workers,
    max_memory_bytes,
    read_label_reading,
)
from autoseg.cli.values import positive_number

if TYPE_CHECKING:
    from autoseg.inference.files.instance_scoring import InstanceOptions
    from autoseg.records.dataset import Fault, LabelReading, LabelValues
    from autoseg.records.evaluation import Evaluation
    from autoseg.records.files import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg evaluate`."""
    parser.add_argument("predictions", type=Path, help="folder of predicted label maps")
    parser.add_argument(
        "references", type=Path, help="label maps with the same names: a folder, or a dataset in any layout"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=None,
        help="file to write (default: evaluation.json in the folder of predictions); a table of all cases, .csv, is "
        "written beside it",
    )  # fmt: skip
    parser.add_argument(
        "-m",
        "--model",
        type=Path,
        default=None,
        help="a workspace or exported model, for the names of labels and regions",
    )
    add_label_reading(parser)
    parser.add_argument(
        "--metrics", choices=("all", "fast"), default="all",
        help="all (default); fast: overlap and volume only, without surfaces and lesions",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=positive_number, default=None, metavar="MM",
        help="distance within which surface Dice considers surfaces equal, in mm; pixels for 2D images (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--compare", type=Path, default=None, metavar="OTHER",
        help="other predictions of the same cases, a folder or their evaluation.json: paired differences, "
        "first minus other, written as <output>_comparison.json",
    )  # fmt: skip
    _add_instance_arguments(parser)
    add_workers(parser)
    add_max_memory(parser)
    add_scheduler(parser)
    add_json(parser, "the content of the file written, with --compare also `comparison`,")
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write the files; the exit code is 1 when some cases could not be scored."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import print_json, printing_apart

    with printing_apart(as_json=arguments.json):
        found, parts, is_complete = (
            _evaluate_instances(arguments) if arguments.instances else _evaluate_labels(arguments)
        )
    if arguments.json:
        print_json(found, **parts)
    return DONE if is_complete else SOME_FAILED


def _evaluate_labels(arguments: argparse.Namespace) -> "tuple[Record, dict[str, Record], bool]":
    """Evaluate label maps, print the tables and write the files.

    Returns:
        The evaluation; the comparison, if asked for; whether every case could be scored.
    """
    from rich.console import Console

    from autoseg.metrics.paired import NamedEvaluation, compare_evaluations
    from autoseg.provenance import describe_provenance
    from autoseg.records.workspace import EVALUATION_NAME
    from autoseg.tables.evaluations import comparison_table, evaluation_details_table, evaluation_table

    _refuse_contradictions(arguments)
    evaluation, is_complete = _evaluate(arguments, arguments.predictions)
    console, unit = Console(), _length_unit(arguments.references, arguments.predictions)
    console.print(evaluation_table(evaluation, unit))
    if arguments.verbose:
        console.print(evaluation_details_table(evaluation, unit))
    output = arguments.output or arguments.predictions / EVALUATION_NAME
    evaluation = evaluation.model_copy(update={"provenance": describe_provenance(None)})
    records: dict[Path, Record] = {output: evaluation}
    parts: dict[str, Record] = {}
    if arguments.compare is not None:
        other, is_other_complete = _read_other(arguments)
        is_complete = is_complete and is_other_complete
        comparison = compare_evaluations(
            NamedEvaluation(str(arguments.predictions), evaluation), NamedEvaluation(str(arguments.compare), other)
        )
        console.print(comparison_table(comparison, unit))
        for remark in comparison.remarks:
            print(remark)
        records[output.with_name(f"{output.stem}_comparison.json")] = parts["comparison"] = comparison
    _write(records, evaluation, output)
    return evaluation, parts, is_complete


def _length_unit(references: Path, predictions: Path) -> str:
    """Unit of distances between surfaces of label maps; mm where only some of them are 2D images."""
    from autoseg.imaging.formats.reading import stored_ending
    from autoseg.imaging.formats.volume import length_unit
    from autoseg.inference.files.label_maps import find_label_maps

    beside = find_label_maps(references) if references.is_dir() else {}
    files = beside or find_label_maps(predictions)  # references may lie in subfolders, or in a list
    units = {length_unit(stored_ending(path)) for path in files.values()}
    return "pixels" if units == {"pixels"} else "mm"


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    from autoseg.errors import UsageError

    if arguments.metrics == "fast" and arguments.tolerance is not None:
        raise UsageError("--tolerance is for the surface Dice, which --metrics fast leaves out: give only one of them")
    if arguments.output is not None and arguments.output.suffix.lower() == ".csv":
        raise UsageError(f"-o {arguments.output}: name the .json file; the table of all cases is written beside it")
    if arguments.compare is not None and not arguments.compare.exists():
        raise UsageError(f"--compare {arguments.compare}: no such folder or file")


def _evaluate(arguments: argparse.Namespace, predictions: Path) -> "tuple[Evaluation, bool]":
    """The evaluation, and whether every case could be scored."""
    from autoseg.cli.options import choose_workers
    from autoseg.cli.terminal import progress_bar
    from autoseg.metrics.case_scores import DEFAULT_TOLERANCE_MM
    from autoseg.stages.evaluate import evaluate_predictions, limit_scoring
    from autoseg.system import count_cores

    labels, reading = _read_labels(arguments)
    workers = limit_scoring(choose_workers(arguments) or count_cores(), predictions, max_memory_bytes(arguments))
    references = arguments.references
    if arguments.scheduler is not None:
        predictions, references = predictions.absolute(), references.absolute()
    with progress_bar("evaluating") as progress:
        evaluation, faults = evaluate_predictions(
            predictions,
            references,
            labels=labels,
            reading=reading,
            tolerance_mm=None if arguments.metrics == "fast" else arguments.tolerance or DEFAULT_TOLERANCE_MM,
            workers=workers,
            progress=progress,
        )
    return evaluation, _print_faults(evaluation.missing_predictions, faults)


def _print_faults(missing: Sequence[str], faults: "Sequence[Fault]") -> bool:
    """Print which cases were not scored, and other faults; whether every case was scored."""
    for case in missing:
        print(f"not scored: {case}: reference without prediction", file=sys.stderr)
    for fault in faults:
        print(f"{fault.severity}: {f'{fault.case} ' if fault.case else ''}{fault.file}: {fault.what}", file=sys.stderr)
    return not missing and all(fault.severity != "error" for fault in faults)


def _read_labels(arguments: argparse.Namespace) -> "tuple[dict[str, LabelValues] | None, LabelReading | None]":
    """The labels of the model, and how label files are read: as the options say, else as for the model's dataset."""
    from autoseg.imaging.datasets.labels.label_reading import AS_LABEL_VALUES, resolve_reading
    from autoseg.interop.models import open_model
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan

    options = read_label_reading(arguments)
    if arguments.model is None:
        reading, labels = resolve_reading(options, None)
        return labels, reading
    with open_model(arguments.model) as model:
        plan = read_record(Plan, model.plan)
    if options == AS_LABEL_VALUES:
        return plan.labels, plan.encoding.reading
    return plan.labels, resolve_reading(options, plan.labels)[0]


def _read_other(arguments: argparse.Namespace) -> "tuple[Evaluation, bool]":
    from autoseg.records.evaluation import Evaluation
    from autoseg.records.files import read_record

    if arguments.compare.is_dir():
        return _evaluate(arguments, arguments.compare)
    return read_record(Evaluation, arguments.compare), True


def _write(records: "dict[Path, Record]", evaluation: "Evaluation", output: Path) -> None:
    """Write all files; the tables are printed before, so that an unwritable folder does not lose them."""
    from autoseg.errors import UsageError
    from autoseg.records.files import write_record
    from autoseg.records.temporaries import sweep_temporaries
    from autoseg.tables.evaluations import write_case_table

    table = output.with_suffix(".csv")
    sweep_temporaries(output.parent)
    try:
        for path, record in records.items():
            write_record(record, path)
        write_case_table(evaluation, table)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error}); choose another file with -o") from error
    print(f"Written: {', '.join(str(path) for path in (*records, table))}")


def _add_instance_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for instances."""
    group = parser.add_argument_group("instances")
    group.add_argument(
        "--instances", action="store_true",
        help="match instances, compute panoptic quality and average precision instead; they are read from "
        "CASE_instances beside label maps and ranked by instances.csv, else they are connected components",
    )  # fmt: skip
    group.add_argument(
        "--connectivity", choices=("full", "face"), default=None,
        help="components are connected by faces, edges and corners (full) or by faces alone (face); default: face for "
        "a border-core model, else full",
    )  # fmt: skip
    group.add_argument(
        "--reference-ids",
        action="store_true",
        help="references are maps with a number for each instance, all of one label",
    )


def _evaluate_instances(arguments: argparse.Namespace) -> "tuple[Record, dict[str, Record], bool]":
    """Evaluate instances, print the table, write instance_evaluation.json; returns as `_evaluate_labels`."""
    from rich.console import Console

    from autoseg.cli.instance_table import average_precision_table, instance_scores_table
    from autoseg.cli.options import choose_workers
    from autoseg.cli.terminal import progress_bar
    from autoseg.errors import UsageError
    from autoseg.provenance import describe_provenance
    from autoseg.records.files import write_record
    from autoseg.stages.evaluate import limit_scoring
    from autoseg.stages.evaluate_instances import evaluate_instances
    from autoseg.system import count_cores

    options = _read_instance_options(arguments)
    predictions, references = arguments.predictions, arguments.references
    workers = limit_scoring(choose_workers(arguments) or count_cores(), predictions, max_memory_bytes(arguments))
    if arguments.scheduler is not None:
        predictions, references = predictions.absolute(), references.absolute()
    with progress_bar("evaluating") as progress:
        evaluation, faults = evaluate_instances(predictions, references, options, workers=workers, progress=progress)
    output = arguments.output or arguments.predictions / "instance_evaluation.json"
    Console().print(instance_scores_table(evaluation))
    Console().print(average_precision_table(evaluation))
    is_complete = _print_faults(evaluation.missing_predictions, faults)
    evaluation = evaluation.model_copy(update={"provenance": describe_provenance(None)})
    try:
        write_record(evaluation, output)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error}); choose another file with -o") from error
    print(f"Written: {output}")
    return evaluation, {}, is_complete


def _read_instance_options(arguments: argparse.Namespace) -> "InstanceOptions":
    """How instances are found: where networks learnt borders, those that touch by faces alone are one."""
    from autoseg.inference.files.instance_scoring import InstanceOptions
    from autoseg.interop.models import open_model
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan

    plan = None
    if arguments.model is not None:
        with open_model(arguments.model) as model:
            plan = read_record(Plan, model.plan)
    labels, reading = _read_labels(arguments)
    is_divided = plan is not None and plan.target == "border_core"
    return InstanceOptions(
        labels=labels,
        reading=reading,
        connectivity=arguments.connectivity or ("face" if is_divided else "full"),
        reference_ids=arguments.reference_ids or (reading is not None and reading.are_ids),
    )
