"""The parser; a command's own module is imported only when that command is asked for, and torch later still."""

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from autoseg import DISTRIBUTION
from autoseg.cli.signals import SIGNALLED, SignalWatch, ending_on_signals, ignore_ending_signals
from autoseg.errors import AutosegError, UsageError, WorkerError

COMMANDS = {
    "plan": "describe, fingerprint, plan, split and preprocess a dataset",
    "train": "train one configuration on one fold",
    "predict": "predict label maps for images",
    "run": "all of it, unattended: plan, train every fold, select, report",
    "evaluate": "compare predictions with references",
    "select": "choose configuration and post-processing by cross-validation",
    "postprocess": "apply a post-processing recipe to label maps",
    "export": "export a trained model: one file without pickles, ONNX networks, or nnU-Net's format",
    "cluster": "print a job for SLURM or Kubernetes that trains or predicts on many machines",
    "serve": "answer requests for label maps over HTTP, with a page for the browser",
    "merge": "write one list of several datasets, with the labels that were looked for in each case",
    "learn": "learn from unlabelled images, and keep what was learnt if cross-validation gets better",
    "suggest": "say which unlabelled images to label next",
    "report": "write one HTML page about a workspace",
    "networks": "list the networks that can be planned, with parameters, memory and time",
    "info": "show what a model expects and predicts, and how good it was found to be",
    "import-nnunet": "import a model that nnU-Net v2 trained",
    "verify": "check that all files of a workspace or model are whole and belong together",
    "doctor": "show versions, devices and memory of this machine",
}

DONE = 0
SOME_FAILED = 1
UNUSABLE = 2
UNEXPECTED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `autoseg COMMAND ...` and give the exit code.

    Args:
        arguments: Command and options; None: those of this process, which ends afterwards with the exit code.

    Returns:
        0 done, 1 some cases failed, 2 wrong usage or input, 3 an error that autoseg does not expect, 128 + n ended by
        signal n: 130 SIGINT (Ctrl-C), 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1.
    """
    if arguments is None:
        return _run_program(sys.argv[1:])
    words = list(arguments)
    parser = _build_parser(asked=next((word for word in words if word in COMMANDS), None))
    parsed = parser.parse_args(words, argparse.Namespace(words=words))
    if parsed.version:
        _print_version()
        return DONE
    if parsed.command is None:
        parser.print_help()
        return UNUSABLE
    with ending_on_signals(parsed.command) as watch:
        code = _run(parsed, watch)
    return watch.exit_code(code)


def plan() -> int:
    """Run `autoseg-plan`."""
    return _run_program(["plan", *sys.argv[1:]])


def train() -> int:
    """Run `autoseg-train`."""
    return _run_program(["train", *sys.argv[1:]])


def predict() -> int:
    """Run `autoseg-predict`."""
    return _run_program(["predict", *sys.argv[1:]])


def _run_program(words: Sequence[str]) -> int:
    """Run a command whose process ends afterwards; a signal no longer changes the exit code then."""
    code = main(words)
    ignore_ending_signals()
    return code


def _build_parser(asked: str | None) -> argparse.ArgumentParser:
    """Build the parser; only the command asked for gets its options, the others are listed by name."""
    parser = argparse.ArgumentParser(prog="autoseg", description="Medical image segmentation that configures itself.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == asked:
            _module_of(name).add_arguments(command)
    return parser


def _module_of(command: str) -> ModuleType:
    return importlib.import_module(f"autoseg.cli.{command.replace('-', '_')}")


def _print_version() -> None:
    # The package's metadata is read only when asked for, because that takes time.
    from importlib.metadata import version

    print(f"autoseg {version(DISTRIBUTION)}")


def _run(parsed: argparse.Namespace, watch: SignalWatch) -> int:
    try:
        from autoseg.cli.terminal import set_up_logging

        set_up_logging(verbose=parsed.verbose, quiet=parsed.quiet)
        return int(_module_of(parsed.command).run(parsed))
    except WorkerError as error:
        print(f"autoseg {parsed.command}: {error}", file=sys.stderr)
        return SOME_FAILED
    except (AutosegError, OSError) as error:  # OSError: a disk that is full or read-only, named by its message
        logging.getLogger("autoseg").debug("traceback of the error below", exc_info=True)
        if not _is_reported_by_another(error, parsed.command):
            print(f"autoseg {parsed.command}: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print(watch.describe(), file=sys.stderr)
        return SIGNALLED + signal.SIGINT
    except Exception as error:
        logging.getLogger("autoseg").debug("traceback of the error below", exc_info=True)
        print(f"autoseg {parsed.command}: {_describe_unexpected(error)}", file=sys.stderr)
        return UNEXPECTED


def _describe_unexpected(error: Exception) -> str:
    """One sentence about an error of a library, or of autoseg itself; libraries may write many lines."""
    lines = str(error).strip().splitlines()
    what = f": {lines[0]}" if lines else ""
    return (
        f"stopped by an error that it does not expect, {type(error).__name__}{what}. Run the same command with -v for "
        "the traceback, and report it with the traceback if the input is in order."
    )


def _is_reported_by_another(error: Exception, command: str) -> bool:
    """Whether the first of several processes reports the same: wrong usage concerns all of them, other errors some."""
    if command != "train" or not isinstance(error, UsageError):
        return False
    from autoseg.training.distributed import is_first_process  # other commands do not wait for torch

    return not is_first_process()
