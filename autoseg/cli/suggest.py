"""`autoseg suggest`: which unlabelled images to label next.

Tested in tests/stages/test_suggest.py.
"""

import argparse
from pathlib import Path

from autoseg.cli.options import add_device, add_shared, max_memory_bytes, read_mirror_axes
from autoseg.cli.values import axis_letters, gigabytes, positive_integer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg suggest`."""
    parser.add_argument("model", type=Path, metavar="WORKSPACE", help="a trained workspace, or an exported model")
    parser.add_argument(
        "--unlabelled", type=Path, required=True, metavar="FOLDER",
        help="a folder of images without label maps, or a CSV/JSON list; images of the dataset itself are left out",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--number", type=positive_integer, default=10, help="number of images to suggest (default: 10)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=None,
        help="folder for the table, the page and the predicted label maps (default: WORKSPACE/suggestions)",
    )  # fmt: skip
    parser.add_argument(
        "--tta", choices=("full", "none"), default="full",
        help="average over images mirrored as in training; one network alone then also disagrees with itself "
        "(default: full)",
    )  # fmt: skip
    parser.add_argument(
        "--mirror-axes", type=axis_letters, default=None, metavar="AXES",
        help="average over images mirrored along all, none or these axes, such as y,x, whatever training mirrored",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "tf32", "bf16", "fp16"), default="auto",
        help="floating-point type of the networks (default: auto)",
    )  # fmt: skip
    add_device(parser)
    parser.add_argument(
        "--max-memory", type=gigabytes, default=None, metavar="SIZE",
        help="memory that the process may use, such as 3GB (default: what is free)",
    )  # fmt: skip
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Suggest cases; the exit code is 1 when some could not be predicted."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.terminal import progress_bar
    from autoseg.errors import UsageError
    from autoseg.locks import warn_of_writers
    from autoseg.networks.devices import keep_freed_memory
    from autoseg.records.workspace import Workspace
    from autoseg.report.page.suggestions import render_suggestions
    from autoseg.stages.predict import PredictionOptions, Predictor
    from autoseg.stages.suggest import SUGGESTIONS, suggest_cases

    output = arguments.output
    if output is None and not arguments.model.is_dir():
        raise UsageError(f"{arguments.model}: not a folder, so say with -o where the suggestions are to be written")
    output = output or arguments.model / SUGGESTIONS
    keep_freed_memory()
    workspace = Workspace(arguments.model)
    warn_of_writers(workspace)
    options = PredictionOptions(
        device=arguments.device,
        precision=arguments.precision,
        mirroring=arguments.tta == "full",
        mirror_axes=read_mirror_axes(arguments),
        max_memory=max_memory_bytes(arguments),
    )
    predictor = Predictor(arguments.model, options)
    with progress_bar("measuring") as progress:
        found = suggest_cases(
            predictor, arguments.unlabelled, output, arguments.number, known=workspace, progress=progress
        )
    shown = [(file.item.images, file.target) for file in found.files]
    page = render_suggestions(found.suggestions, shown, predictor.plan, output / f"{SUGGESTIONS}.html")
    table = Table(title=f"To label next, of {found.suggestions.num_cases} unlabelled cases")
    for column in ("", "case", "why"):
        table.add_column(column)
    for own in found.suggestions.suggestions:
        table.add_row(str(own.rank), escape(own.case), escape(own.reason))
    Console().print(table)
    for failure in found.failures:
        print(f"failed: {failure}")
    print(f"Table: {output / SUGGESTIONS}.csv")
    print(f"Page: {page}")
    return SOME_FAILED if found.failures else DONE
