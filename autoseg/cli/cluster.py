"""`autoseg cluster`: print a job for SLURM or Kubernetes."""

import argparse
import re
from pathlib import Path

from autoseg.cli.options import add_shared, positive_integer

SLURM, KUBERNETES = "slurm", "kubernetes"

_TIME_LIMIT = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")
_WORD = re.compile(r"[\w.:,=+@%&|*()\[\]/-]+", re.ASCII)
_MEMORY = re.compile(r"[1-9]\d*[KMGT]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg cluster`."""
    parser.add_argument("engine", choices=(SLURM, KUBERNETES), help="what the job is for")
    parser.add_argument("workspace", type=Path, help="folder written by autoseg-plan, under its path on every machine")
    parser.add_argument(
        "-c", "--configurations", nargs="+", default=(), metavar="NAME", help="configurations to train (default: all)"
    )
    parser.add_argument("-f", "--folds", nargs="+", default=(), metavar="FOLD", help="folds to train (default: all)")
    group = parser.add_argument_group("each task")
    group.add_argument("--cpus-per-task", type=positive_integer, default=None, metavar="N", help="cores")
    group.add_argument("--mem", type=_memory, default=None, metavar="SIZE", help="memory, such as 32G")
    _add_slurm(parser.add_argument_group("SLURM"))
    add_shared(parser)


def _add_slurm(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gres", type=_word, default=None, metavar="LIST", help="devices, such as gpu:1")
    group.add_argument(
        "--time", type=_time_limit, default=None, metavar="LIMIT",
        help="time limit, such as 12:00:00 or 2-00:00:00; a training that needs longer is queued again, and resumes",
    )  # fmt: skip
    group.add_argument("--partition", type=_word, default=None, metavar="NAME", help="partition")
    group.add_argument("--account", type=_word, default=None, metavar="NAME", help="account")
    group.add_argument("--qos", type=_word, default=None, metavar="NAME", help="quality of service")
    group.add_argument(
        "--notice", type=positive_integer, default=120, metavar="SECONDS",
        help="how long before the time limit a training writes its checkpoint (default: 120)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Print the job."""
    from autoseg.cli.main import DONE
    from autoseg.cluster.slurm import SlurmOptions, format_script
    from autoseg.cluster.trainings import list_trainings
    from autoseg.records.workspace import Workspace

    workspace = arguments.workspace.absolute()
    groups = list_trainings(Workspace(workspace), arguments.configurations, arguments.folds)
    options = SlurmOptions(
        gres=arguments.gres,
        time=arguments.time,
        partition=arguments.partition,
        account=arguments.account,
        qos=arguments.qos,
        mem=arguments.mem,
        cpus_per_task=arguments.cpus_per_task,
        notice_seconds=arguments.notice,
    )
    print(format_script(workspace, groups, options), end="")
    return DONE


def _word(text: str) -> str:
    """Read a value that is written into a line of the job as it is.

    Raises:
        argparse.ArgumentTypeError: If it has blanks, quotes or line ends.
    """
    if not _WORD.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one word of letters, digits and signs such as : = , -")
    return text


def _time_limit(text: str) -> str:
    """Read a time limit in one of SLURM's forms.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    if not _TIME_LIMIT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time limit such as 90 (minutes), 12:00:00 or 2-00:00:00")
    return text


def _memory(text: str) -> str:
    """Read a size that both SLURM and Kubernetes understand.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    if not _MEMORY.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 32G")
    return text
