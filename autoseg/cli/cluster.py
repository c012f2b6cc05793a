"""`autoseg cluster`: print a job for SLURM or Kubernetes."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import add_shared
from autoseg.cli.values import count, positive_integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoseg.cluster.kubernetes import KubernetesOptions, Volume
    from autoseg.costs.runs import Training
    from autoseg.records.budget import Budget
    from autoseg.records.workspace import Workspace

SLURM, KUBERNETES = "slurm", "kubernetes"

_TIME_LIMIT = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")
_WORD = re.compile(r"[\w.:,=+@%&|*()\[\]/-]+", re.ASCII)
_MEMORY = re.compile(r"[1-9]\d*[MGT]")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg cluster`."""
    parser.add_argument("engine", choices=(SLURM, KUBERNETES), help="what the job is for")
    parser.add_argument(
        "workspace",
        type=Path,
        help="folder written by autoseg-plan (prediction: or a model), under its path everywhere",
    )
    parser.add_argument(
        "-c", "--configurations", nargs="+", default=(), metavar="NAME", help="configurations to train (default: all)"
    )
    parser.add_argument("-f", "--folds", nargs="+", default=(), metavar="FOLD", help="folds to train (default: all)")
    group = parser.add_argument_group("each task")
    group.add_argument("--cpus-per-task", type=positive_integer, default=None, metavar="N", help="cores")
    group.add_argument("--mem", type=_memory, default=None, metavar="SIZE", help="memory, such as 32G")
    _add_slurm(parser.add_argument_group("SLURM"))
    _add_kubernetes(parser.add_argument_group("Kubernetes"))
    _add_prediction(parser.add_argument_group("prediction, on Kubernetes"))
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
        "--notice", dest="notice_seconds", type=positive_integer, default=None, metavar="SECONDS",
        help="how long before the time limit a training writes its checkpoint (default: 120)",
    )  # fmt: skip


def _add_kubernetes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--image",
        type=_word,
        default=None,
        metavar="IMAGE",
        help="container image with autoseg (default: autoseg:latest)",
    )
    group.add_argument(
        "--volume", dest="volumes", type=_volume, action="append", default=None, metavar="CLAIM:FOLDER[:ro]",
        help="a persistent volume claim and the folder where containers see it; may be given again (default: claims "
        "autoseg-workspace and autoseg-dataset, or -model, -images and -output)",
    )  # fmt: skip
    group.add_argument("--gpus", type=count, default=None, metavar="N", help="GPUs of a task (default: 1)")
    group.add_argument(
        "--user", type=positive_integer, default=None, metavar="UID", help="user that runs it (default: 1000)"
    )
    group.add_argument(
        "--name", type=_name, default=None, metavar="NAME", help="name of the run (default: the workspace's)"
    )


def _add_prediction(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-i", "--images", type=Path, default=None, help="folder of images, instead of training")
    group.add_argument("-o", "--output", type=Path, default=None, help="folder for the label maps")
    group.add_argument(
        "--parts", type=positive_integer, default=None, metavar="N", help="parts that are predicted side by side"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the job."""
    from autoseg.cli.main import DONE
    from autoseg.cluster.trainings import list_trainings
    from autoseg.records.files import read_record
    from autoseg.records.plan import Plan
    from autoseg.records.workspace import Workspace

    _refuse_options_of_others(arguments)
    workspace = arguments.workspace.absolute()
    if arguments.images is not None:
        print(_prediction_job(arguments, workspace), end="")
        return DONE
    groups = list_trainings(Workspace(workspace), arguments.configurations, arguments.folds)
    budget = read_record(Plan, Workspace(workspace).plan).budget
    _follow_devices(arguments, budget)
    if arguments.engine == SLURM:
        from autoseg.cluster.slurm import SlurmOptions, format_script

        given = {name: getattr(arguments, name) for name in ("notice_seconds", *_OF_SLURM)}
        options = SlurmOptions(
            mem=arguments.mem,
            cpus_per_task=arguments.cpus_per_task,
            devices=budget.devices,
            **{name: value for name, value in given.items() if value is not None},
        )
        print(format_script(workspace, groups, options), end="")
    else:
        print(_training_job(arguments, Workspace(workspace), groups, budget.devices), end="")
    return DONE


def _follow_devices(arguments: argparse.Namespace, budget: Budget) -> None:
    """Ask for as many GPUs as are planned for each training; refuse another number."""
    from autoseg.errors import UsageError

    devices = budget.devices
    if devices == 1 or budget.device == "cpu":
        return
    if arguments.engine == KUBERNETES:
        asked, option = arguments.gpus, "--gpus"
        arguments.gpus = devices
    else:
        given = arguments.gres.split(",") if arguments.gres else []
        numbers = [word.rpartition(":")[2] for word in given if word.partition(":")[0] == "gpu"]
        asked = sum(int(number) if number.isdecimal() else 1 for number in numbers) if numbers else None
        option = "--gres"
        if asked is None:
            arguments.gres = ",".join([*given, f"gpu:{devices}"])
    if asked not in (None, devices):
        raise UsageError(
            f"{option} asks for {asked} GPUs, but the plan is for {devices} devices; leave {option} out, or plan again "
            f"with --devices {asked}"
        )


_OF_SLURM = ("gres", "time", "partition", "account", "qos", "notice_seconds")
_OF_KUBERNETES = ("image", "volumes", "gpus", "user", "name", "images", "output", "parts")
"""Options that one engine alone has, by the names of their values."""


def _refuse_options_of_others(arguments: argparse.Namespace) -> None:
    from autoseg.errors import UsageError
    from autoseg.records.workspace import Workspace

    others = _OF_KUBERNETES if arguments.engine == SLURM else _OF_SLURM
    options = {"volumes": "volume", "notice_seconds": "notice"}
    if given := [f"--{options.get(name, name)}" for name in others if getattr(arguments, name) is not None]:
        raise UsageError(f"{', '.join(given)}: not an option of {arguments.engine}; leave it out")
    predicting = [arguments.images, arguments.output, arguments.parts]
    if any(value is not None for value in predicting) and not all(value is not None for value in predicting):
        raise UsageError("prediction needs all of --images, --output and --parts")
    if (
        arguments.images is None
        and arguments.engine == KUBERNETES
        and not Workspace(arguments.workspace).splits.exists()
    ):
        raise UsageError(
            f"{arguments.workspace}: has no splits.json, so there are no folds to train. Give a folder that "
            "autoseg-plan wrote; or, to predict with a model, --images, --output and --parts"
        )
    if arguments.images is not None and (arguments.configurations or arguments.folds):
        raise UsageError("--configurations and --folds say what is trained; leave them out of a prediction")


def _kubernetes_options(arguments: argparse.Namespace, **folders: tuple[Path, bool]) -> KubernetesOptions:
    """Options of all pods; the folders, each with whether it is only read, are mounted where no volume is given."""
    from autoseg.cluster.kubernetes import KubernetesOptions, default_volumes, make_name

    given = {
        "image": arguments.image, "cpus": arguments.cpus_per_task, "memory": arguments.mem, "gpus": arguments.gpus,
        "user": arguments.user,
    }  # fmt: skip
    return KubernetesOptions(
        name=arguments.name or make_name(arguments.workspace),
        volumes=tuple(arguments.volumes or default_volumes(**folders)),
        **{name: value for name, value in given.items() if value is not None},
    )


def _training_job(
    arguments: argparse.Namespace, workspace: Workspace, groups: Sequence[Sequence[Training]], devices: int
) -> str:
    from autoseg.cluster.kubernetes import format_manifests, training_manifests
    from autoseg.records.dataset import DatasetDescription
    from autoseg.records.files import read_record

    dataset = workspace.dataset_folder(read_record(DatasetDescription, workspace.dataset).folder)
    options = _kubernetes_options(arguments, workspace=(workspace.root, False), dataset=(dataset, True))
    options = replace(options, devices=devices)
    return format_manifests(training_manifests(workspace.root, dataset, groups, options))


def _prediction_job(arguments: argparse.Namespace, model: Path) -> str:
    from autoseg.cluster.kubernetes import format_manifests, prediction_manifests

    images, output = arguments.images.absolute(), arguments.output.absolute()
    holding = model.parent if model.suffix == ".zip" else model
    options = _kubernetes_options(arguments, model=(holding, True), images=(images, True), output=(output, False))
    return format_manifests(prediction_manifests(model, images, output, arguments.parts, options))


def _word(text: str) -> str:
    """Read a value that is written into a line of the job as it is.

    Raises:
        argparse.ArgumentTypeError: If it has blanks, quotes or line ends.
    """
    return _matching(text, _WORD, "one word of letters, digits and signs such as : = , -")


def _time_limit(text: str) -> str:
    """Read a time limit in one of SLURM's forms.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    return _matching(text, _TIME_LIMIT, "a time limit such as 90 (minutes), 12:00:00 or 2-00:00:00")


def _memory(text: str) -> str:
    """Read a size that both SLURM and Kubernetes understand.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    return _matching(text, _MEMORY, "a size such as 500M or 32G")


def _name(text: str) -> str:
    """Read a name of a run.

    Raises:
        argparse.ArgumentTypeError: If Kubernetes would refuse it.
    """
    return _matching(text, _NAME, "a name of up to 40 small letters, digits and -")


def _matching(text: str, form: re.Pattern[str], expected: str) -> str:
    if not form.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return text


def _volume(text: str) -> Volume:
    """Read `CLAIM:FOLDER` or `CLAIM:FOLDER:ro`.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    from autoseg.cluster.kubernetes import Volume

    match = re.fullmatch(r"([a-z0-9][a-z0-9.-]*):(/[^:]*)(:ro)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not CLAIM:FOLDER or CLAIM:FOLDER:ro, with an absolute folder")
    return Volume(match[1], Path(match[2]), match[3] is not None)
