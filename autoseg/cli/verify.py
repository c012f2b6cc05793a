"""`autoseg verify`: whether all files of a workspace or model are whole and belong together."""

import argparse
from pathlib import Path

from autoseg.cli.options import add_shared, add_workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg verify`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a workspace, or an exported model (folder or zip)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_workers(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify; print one line for each mismatch."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.options import worker_count
    from autoseg.cli.terminal import progress_bar
    from autoseg.stages.verify import verify_model

    verification = verify_model(arguments.model, workers=worker_count(arguments), bar=progress_bar)
    if arguments.json:
        print(verification.model_dump_json(indent=1))
        return SOME_FAILED if verification.mismatches else DONE
    for note in verification.notes:
        print(f"note: {note}")
    for mismatch in verification.mismatches:
        print(f"{mismatch.file}: {mismatch.what}. To correct it: {mismatch.command}")
    compared = ", ".join(f"{number} {kind}" for kind, number in verification.checked.items())
    number = len(verification.mismatches)
    print(
        f"Compared: {compared or 'nothing'}. {'Everything belongs together.' if not number else f'Faults: {number}.'}"
    )
    return SOME_FAILED if number else DONE
