"""List networks: what every planner would plan, with what it costs; nothing is built or written.

planners x their variants x (2D, 3D) --> NetworkTable

Tested in tests/stages/test_list_networks.py.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autoseg.costs.architectures import ARCHITECTURES
from autoseg.costs.memory import DEVICES_OF_16_BITS, estimate_training_memory_bytes
from autoseg.errors import PlanningError, UsageError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.networks.providers import names_of_other_packages
from autoseg.plugins import DEFAULT_PLANNER, find_planner, find_variants, planner_names
from autoseg.progress import Progress, no_progress
from autoseg.records.budget import Budget, DeviceName, Overrides
from autoseg.records.dataset import LabelValues
from autoseg.records.files import read_record
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.records.network_table import NetworkRow
from autoseg.records.plan import Configuration, Plan, Target
from autoseg.records.workspace import Workspace
from autoseg.stages.plan import make_plan

BATCH_SIZE = 2
"""Patches of a step, the same for all, so that costs can be compared."""

AMPLE_GIGABYTES = 1e6
"""Memory that limits nothing: the patch is given."""

CASES = 4

INTENSITIES = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, minimum=-3.0, maximum=3.0, percentile_00_5=-2.5, percentile_99_5=2.5
)


@dataclass(frozen=True)
class ListedNetwork:
    """A row of the table, and the configuration that can be measured for it."""

    row: NetworkRow
    configuration: Configuration


@dataclass(frozen=True)
class Listing:
    """What is listed."""

    device: DeviceName
    """Decides how many bits the memory of a step is estimated for."""
    planners: Sequence[str] = ()
    """Names; empty: all that are installed, except the one that chooses among the others."""
    target: Target | None = None
    """What the networks learn; None: what those of the workspace do, without one labels."""


def describe_images(patch_size: Sequence[int], channels: int, classes: int) -> Fingerprint:
    """A dataset of images as large as the patch, that does not exist.

    Args:
        patch_size: (z, y, x) or (y, x), voxels.
        channels: Input channels.
        classes: Heads, background included.
    """
    shape = (1, *patch_size)[-3:]
    names = ("background", *(f"label {value}" for value in range(1, classes)))
    labels: dict[str, LabelValues] = {name: value for value, name in enumerate(names)}
    return Fingerprint(
        dataset_name="networks",
        channel_names=tuple(f"channel {index}" for index in range(channels)),
        labels=labels,
        encoding=make_encoding(labels),
        orientation="as_stored",
        cases=tuple(
            _describe_case(f"case_{index}", (shape[0], shape[1], shape[2]), channels) for index in range(CASES)
        ),
        intensities=(INTENSITIES,) * channels,
        median_cropped_fraction=1.0,
    )


def _describe_case(name: str, shape: tuple[int, int, int], channels: int) -> CaseFingerprint:
    return CaseFingerprint(
        case=name,
        shape=shape,
        cropped_shape=shape,
        spacing=(1.0, 1.0, 1.0),
        channel_ranges=((INTENSITIES.minimum, INTENSITIES.maximum),) * channels,
        labels={},
        content_hash=name,
    )


def list_networks(
    patch_size: Sequence[int],
    channels: int,
    classes: int,
    listing: Listing,
    progress: Progress = no_progress,
) -> tuple[list[ListedNetwork], dict[str, str]]:
    """Ask the planners for the networks that they would plan for a patch.

    Args:
        patch_size: (z, y, x), whose last two are the patch of 2D networks; or (y, x) for those alone.
        channels: Input channels.
        classes: Heads, background included.
        listing: Planners, target and device.
        progress: Called after each choice; a network of another package takes seconds, because it is counted.

    Returns:
        Networks, fewest multiply-accumulates first, 2D before 3D; and choices that cannot be planned, with the reason.

    Raises:
        UsageError: If a planner does not exist.
    """
    images = {patch: describe_images(patch, channels, classes) for patch in _list_patches(patch_size)}
    return _list(images, listing, progress)


def list_networks_for(
    workspace: Workspace, listing: Listing, progress: Progress = no_progress
) -> tuple[list[ListedNetwork], dict[str, str]]:
    """Ask the planners for the networks that they would plan for a workspace's images and patches.

    Args:
        workspace: A planned one; of its configurations the first one in 2D and the first one in 3D say the patches.
        listing: Planners, target and device.
        progress: Called after each choice.

    Returns:
        What `list_networks` returns.

    Raises:
        UsageError: If the folder is not a workspace, or a planner does not exist.
    """
    if not workspace.plan.is_file() or not workspace.fingerprint.is_file():
        raise UsageError(
            f"{workspace.root}: not a workspace, it has no {workspace.plan.name} or no {workspace.fingerprint.name}. "
            "Name one that autoseg-plan wrote, or give --patch-size, --channels and --classes."
        )
    plan, fingerprint = read_record(Plan, workspace.plan), read_record(Fingerprint, workspace.fingerprint)
    by_axes: dict[int, tuple[int, ...]] = {}
    for configuration in plan.configurations.values():
        by_axes.setdefault(len(configuration.patch_size), tuple(configuration.patch_size))
    images = {by_axes[axes]: fingerprint for axes in sorted(by_axes)}
    return _list(images, replace(listing, target=listing.target or plan.target), progress)


def _list(
    images: Mapping[tuple[int, ...], Fingerprint], listing: Listing, progress: Progress
) -> tuple[list[ListedNetwork], dict[str, str]]:
    """The networks for each patch and its images."""
    names = listing.planners or [name for name in planner_names() if name != DEFAULT_PLANNER]
    others = names_of_other_packages()
    choices = [(name, options) for name in names for options in find_variants(find_planner(name), others)]
    listed: list[ListedNetwork] = []
    refused: dict[str, str] = {}
    for done, (name, options) in enumerate(choices, start=1):
        for patch, fingerprint in images.items():
            try:
                listed.append(_plan_network(name, options, fingerprint, patch, listing))
            except (PlanningError, UsageError) as error:
                refused[" ".join((name, *map("=".join, options.items()), f"{len(patch)}D"))] = str(error)
        progress(done, len(choices))
    return sorted(listed, key=_order), refused


def _list_patches(patch_size: Sequence[int]) -> Iterator[tuple[int, ...]]:
    yield tuple(patch_size[-2:])
    if len(patch_size) == len(("z", "y", "x")):
        yield tuple(patch_size)


def _order(listed: ListedNetwork) -> tuple[int, int, str, str]:
    row = listed.row
    return row.dimensions, row.macs, row.planner, str(row.options)


def _plan_network(
    name: str, options: Mapping[str, str], fingerprint: Fingerprint, patch: tuple[int, ...], listing: Listing
) -> ListedNetwork:
    configuration_name = "2d" if len(patch) == len(("y", "x")) else "3d_fullres"
    overrides = Overrides(patch_size=patch, batch_size=BATCH_SIZE, options=dict(options))
    budget = Budget(memory_gigabytes=AMPLE_GIGABYTES, configurations=(configuration_name,), overrides=overrides)
    plan = make_plan(fingerprint, budget, name, listing.target or "labels")
    configuration = plan.configurations[configuration_name]
    network = configuration.network
    memory = estimate_training_memory_bytes(
        network, configuration.patch_size, BATCH_SIZE,
        mixed_precision=listing.device in DEVICES_OF_16_BITS, optimizer=configuration.training.optimizer,
    )  # fmt: skip
    row = NetworkRow(
        planner=name,
        options=dict(options),
        configuration=configuration_name,
        network=ARCHITECTURES[network.architecture].name(network),
        target=plan.target,
        dimensions=network.dimensions,
        patch_size=configuration.patch_size,
        batch_size=BATCH_SIZE,
        parameters=configuration.estimates.parameters,
        macs=configuration.estimates.macs,
        training_memory_bytes=math.ceil(memory),
    )
    return ListedNetwork(row, configuration)
