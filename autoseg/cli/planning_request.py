"""What the options of `plan` and `run` ask for: a Budget for the planner and PlanningOptions for the pipeline.

The device that is planned for is found without torch, so that planning stays light; `speed` measures it where the plan
depends on it.
"""

import argparse
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, get_args

from autoseg.cli.options import default_workspace, read_label_reading
from autoseg.errors import UsageError
from autoseg.imaging.datasets.layouts.patterns import FilePatterns, check_pattern
from autoseg.interop.models import open_model
from autoseg.pipeline import PlanningOptions
from autoseg.plugins import DEFAULT_PLANNER, find_planner
from autoseg.records.budget import AxisLetters, Budget, DeviceName, Overrides
from autoseg.records.files import read_record
from autoseg.records.plan import IMPORTED, Plan, Target
from autoseg.records.workspace import Workspace
from autoseg.stages.plan import adopt_model
from autoseg.system import gpu_memory_gigabytes
from autoseg.text import format_duration
from autoseg.trials.halving import MIN_FINALISTS, MIN_SLOT_SECONDS

logger = logging.getLogger("autoseg.plan")

KINDS: Final[tuple[DeviceName, ...]] = get_args(DeviceName)

_DIMENSIONS = (2, 3)

_DECIDING = (
    "planner", "configurations", "like", "memory", "time_per_fold", "latency", "spacing", "patch_size", "batch_size",
    "progressive", "planner_option", "orientation", "target", "devices", "mirror_axes", "side_pairs", "case_sampling",
    "trials", "neighbor_slices", "contrasts", "regularizer",
)  # fmt: skip
"""Options whose answer stands in a plan."""


@dataclass(frozen=True)
class PlanningDevice:
    """Device that a plan is made for."""

    asked: str
    """Name that the user gave: auto, cpu, cuda, cuda:N, mps, xpu, xpu:N."""
    kind: DeviceName
    gpu_gigabytes: float | None
    """Memory of the GPU here; None: a CPU is planned for, or the GPU is elsewhere."""

    @property
    def is_here(self) -> bool:
        """Whether this machine has it, so that it can be measured; other GPUs than NVIDIA's only torch could find."""
        return self.kind == "cpu" or self.gpu_gigabytes is not None

    @property
    def gpu_index(self) -> int:
        """Number of the GPU; 0 where the user named none."""
        return int(self.asked.partition(":")[2] or 0)

    @property
    def name(self) -> str:
        """Name that torch knows."""
        return self.kind if self.asked == "auto" else self.asked

    @property
    def resampling_name(self) -> str | None:
        """Name of the device if it is a GPU of this machine, which may resample images."""
        return self.name if self.kind == "cuda" and self.is_here else None


def read_request(arguments: argparse.Namespace) -> tuple[Budget, PlanningOptions, PlanningDevice]:
    """Turn the options into a budget and options for the pipeline; nothing is measured yet, see `speed.add_speed`.

    Returns:
        What the plan has to respect, what concerns the pipeline, and the device that is planned for.

    Raises:
        UsageError: If options contradict each other, or a dataset, model, planner or device that they name is not
            there.
    """
    if not arguments.dataset.exists():
        raise UsageError(f"{arguments.dataset}: there is no such dataset folder or list file")
    if arguments.keep_plan:
        return _keep_plan(arguments)
    device = find_device(arguments.device, arguments.devices or 1)
    _check_trials(arguments, device)
    model = None if arguments.like is None else _read_model(arguments)
    budget = Budget(
        device=device.kind,
        devices=arguments.devices or 1,
        memory_gigabytes=arguments.memory,
        available_gigabytes=device.gpu_gigabytes,
        time_per_fold_seconds=arguments.time_per_fold,
        latency_seconds=arguments.latency,
        configurations=tuple(arguments.configurations),
        overrides=_read_overrides(arguments),
        like=None if model is None else adopt_model(model, str(arguments.like)),
    )
    logger.info("%s", describe_device(device, arguments.memory))
    options = replace(_read_options(arguments, model), resampling_device=device.resampling_name)
    find_planner(options.planner)  # an unknown name is refused before the dataset is checked
    return budget, options, device


def _check_trials(arguments: argparse.Namespace, device: PlanningDevice) -> None:
    """Refuse trials beside options that leave nothing to try, or that they do not work with."""
    if arguments.trials is None:
        return
    shortest = MIN_FINALISTS * MIN_SLOT_SECONDS
    if arguments.trials < shortest:
        raise UsageError(
            f"--trials {format_duration(arguments.trials)}: too short to compare two networks. Give --trials "
            f"{format_duration(shortest)} or more."
        )
    if arguments.like is not None:
        raise UsageError("--trials and --like contradict each other: the network is that of the model. Leave one out")
    if arguments.scheduler is not None:
        raise UsageError(
            "--trials trains on this machine, and --scheduler works elsewhere. Plan first with --trials, then run with "
            "--scheduler and --keep-plan"
        )
    if (arguments.devices or 1) > 1:
        raise UsageError("--trials trains on one device, and the plan is for several: leave --trials or --devices out")
    if not device.is_here and device.kind == "cuda":
        raise UsageError(f"--trials needs the device of the plan: there is no such GPU here ({arguments.device})")


def find_workspace(arguments: argparse.Namespace) -> Workspace:
    """Give -w, or the folder named after the dataset.

    Raises:
        UsageError: If there is a file of that name.
    """
    workspace = Workspace(arguments.workspace or default_workspace(arguments.dataset))
    if workspace.root.exists() and not workspace.root.is_dir():
        raise UsageError(f"{workspace.root}: is a file; name a folder for the workspace with -w")
    return workspace


def _keep_plan(arguments: argparse.Namespace) -> tuple[Budget, PlanningOptions, PlanningDevice]:
    """Ask for what plan.json says already."""
    decided = [name for name in _DECIDING if getattr(arguments, name) not in (None, (), [])]
    if decided:
        option = decided[0].replace("_", "-")
        raise UsageError(f"--{option} and --keep-plan contradict each other: plan.json says it; leave one of them out")
    path = find_workspace(arguments).plan
    if not path.exists():
        raise UsageError(f"--keep-plan: {path} is not there; plan without --keep-plan first")
    plan = read_record(Plan, path)
    device = find_device(plan.budget.device if arguments.device == "auto" else arguments.device)
    options = replace(_read_options(arguments, plan), keep_plan=True, resampling_device=device.resampling_name)
    return plan.budget, options, device


def _read_model(arguments: argparse.Namespace) -> Plan:

    with open_model(arguments.like) as model:
        if not model.plan.exists():
            raise UsageError(
                f"--like {arguments.like}: there is no plan.json; name a planned workspace or an exported model"
            )
        return read_record(Plan, model.plan)


def _read_overrides(arguments: argparse.Namespace) -> Overrides:

    patch_size = None if arguments.patch_size is None else tuple(arguments.patch_size)
    if patch_size is not None and len(patch_size) not in _DIMENSIONS:
        raise UsageError(
            f"--patch-size {' '.join(map(str, patch_size))}: {len(patch_size)} number(s); give three for the 3D "
            "configurations (z y x) or two for 2d (y x)"
        )
    options = dict(arguments.planner_option)
    if len(options) < len(arguments.planner_option):
        keys = [key for key, _ in arguments.planner_option]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(f"--planner-option {repeated}: given {keys.count(repeated)} times; give each key once")
    return Overrides(
        spacing=None if arguments.spacing is None else tuple(arguments.spacing),
        patch_size=patch_size,
        batch_size=arguments.batch_size,
        mirror_axes=_read_mirror_axes(arguments.mirror_axes),
        side_pairs=_read_side_pairs(arguments.side_pairs),
        progressive=arguments.progressive,
        case_sampling=arguments.case_sampling,
        contrasts=arguments.contrasts,
        regularizer=arguments.regularizer,
        neighbor_slices=arguments.neighbor_slices,
        options=options,
    )


def _read_mirror_axes(text: str | None) -> AxisLetters | None:
    """Letters in the order of the axes, or a word; None: not asked for."""
    if text is None:
        return None
    letters = text if text in {"all", "none"} else "".join(sorted(text.replace(",", ""), reverse=True))
    return next(known for known in get_args(AxisLetters) if known == letters)


TARGETS: Final[Mapping[str | None, Target]] = MappingProxyType(
    {None: "labels", "labels": "labels", "border-core": "border_core", "mask-rcnn": "mask_rcnn"}
)
"""Words of --target, and what the plan calls them."""


def _choose_target(asked: str | None, model: Plan | None) -> Target:
    """What was asked for; else objects one by one where the networks of --like find them."""
    if asked is None and model is not None and model.target == "mask_rcnn":
        return model.target
    return TARGETS[asked]


def _read_side_pairs(pairs: Sequence[tuple[str, str] | None] | None) -> tuple[tuple[str, str], ...] | None:
    """The pairs that were asked for, none of them for the word `none`; None: not asked for.

    Raises:
        UsageError: If `none` is given beside pairs.
    """
    if pairs is None:
        return None
    named = tuple(pair for pair in pairs if pair is not None)
    if named and len(named) < len(pairs):
        raise UsageError("--side-pairs none: given beside pairs; leave one of both out")
    return named


def _read_options(arguments: argparse.Namespace, model: Plan | None) -> PlanningOptions:
    """Collect what concerns the pipeline; `run` has no --no-preprocess."""
    asked = arguments.orientation and arguments.orientation.replace("-", "_")
    if model is not None and asked not in {None, model.orientation}:
        raise UsageError(
            f"--orientation {arguments.orientation}: the model of --like was trained with images "
            f"{model.orientation.replace('_', '-')}; leave --orientation out"
        )
    return PlanningOptions(
        planner=arguments.planner or (DEFAULT_PLANNER if model is None or model.planner == IMPORTED else model.planner),
        target=_choose_target(arguments.target, model),
        orientation=asked or ("canonical" if model is None else model.orientation),
        channel_names=arguments.channels,
        labels=arguments.label_names,
        reading=read_label_reading(arguments),
        patterns=read_patterns(arguments),
        folds=arguments.folds,
        group_by=arguments.group_by,
        skip_faulty=arguments.skip_faulty,
        missing_channels=arguments.allow_missing_channels,
        trial_seconds=arguments.trials,
        trial_device=arguments.device,
        max_memory=None if arguments.max_memory is None else round(arguments.max_memory * 1e9),
        preprocess=not getattr(arguments, "no_preprocess", False),
        write=not getattr(arguments, "dry_run", False),
    )


def read_patterns(arguments: argparse.Namespace) -> FilePatterns | None:
    """Patterns of images and label maps that the user gives; None: none are given.

    Raises:
        UsageError: If only one of the two is given, or one cannot be meant.
    """
    image, label = arguments.image_pattern, arguments.label_pattern
    if image is None and label is None:
        return None
    if image is None or label is None:
        given, lacking = (
            ("--label-pattern", "--image-pattern") if image is None else ("--image-pattern", "--label-pattern")
        )
        raise UsageError(f"{given} needs {lacking} beside it: where are the {lacking[2:7]} files?")
    check_pattern(image, "--image-pattern")
    check_pattern(label, "--label-pattern")
    return FilePatterns(image=image, label=label)


def find_device(asked: str, devices: int = 1) -> PlanningDevice:
    """Find out what to plan for.

    Args:
        asked: auto (a GPU of NVIDIA when there is one, else the CPU), cpu, cuda, cuda:N, mps, xpu or xpu:N; the GPU
            may be elsewhere.
        devices: Devices of this type that train together; the smallest of those that are here counts.

    Raises:
        UsageError: If the device's name is unknown, or several are wanted of what trains in one process.
    """
    match = re.fullmatch(r"(auto|cpu|mps)|(cuda|xpu)(?::([0-9]{1,3}))?", asked)
    if match is None:
        raise UsageError(f"--device {asked}: unknown; use auto, cpu, cuda or cuda:N; mps, xpu or xpu:N")
    name: str = match[1] or match[2]
    if devices > 1 and (name == "mps" or match[3] is not None):
        raise UsageError(f"--devices {devices}: {asked} is one device; use --device cuda, or leave --devices out")
    numbers = range(devices) if match[3] is None else [int(match[3])]
    memories = [gpu_memory_gigabytes(number) if name in ("auto", "cuda") else None for number in numbers]
    known = [memory for memory in memories if memory is not None]
    if name == "auto" and 0 < len(known) < len(memories):
        raise UsageError(
            f"--devices {devices}: this machine has {len(known)} GPUs; use fewer devices, or --device cuda to plan for "
            "GPUs elsewhere"
        )
    found = min(known) if len(known) == len(memories) else None
    if name == "auto":
        name = "cpu" if found is None else "cuda"
    return PlanningDevice(asked=asked, kind=next(kind for kind in KINDS if kind == name), gpu_gigabytes=found)


def describe_device(device: PlanningDevice, memory_gigabytes: float | None) -> str:
    """Say in one sentence what is planned for, and with how much memory.

    Args:
        device: What was found.
        memory_gigabytes: What the user allowed; None: left to the planner.
    """
    memory = "" if memory_gigabytes is None else f", with {memory_gigabytes:g} GB as asked"
    if device.kind == "cpu":
        hint = "" if device.asked == "cpu" else " (--device cuda plans for a GPU elsewhere)"
        found = "Planning for the CPU" if device.asked == "cpu" else "No GPU was found: planning for the CPU"
        return f"{found} of this machine{memory}{hint}."
    hint = "" if memory else " (--memory says how much of it a training may use)"
    if device.kind not in ("cpu", "cuda"):
        return f"Planning for a GPU of the type {device.kind}, whose memory is not asked for{memory}{hint}."
    if device.gpu_gigabytes is None:
        return f"There is no such GPU here: planning for a GPU elsewhere{memory}{hint}."
    return f"A GPU with {device.gpu_gigabytes:.0f} GB was found: planning for it{memory}{hint}."
