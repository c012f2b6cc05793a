"""What users decide about a plan: refused where the data cannot have it, and looked for in the plan that was made.

Tested in tests/stages/test_plan.py.
"""

import math
from collections.abc import Iterator, Sequence

from autoseg.costs.windows import resampled_shape
from autoseg.errors import PlanningError
from autoseg.imaging.arrays.resampling import is_out_of_proportion
from autoseg.records.budget import Budget, Overrides
from autoseg.records.case import Spacing
from autoseg.records.dataset import foreground_names
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.records.sides import AXIS_LETTERS, Pairs, find_side_swap, left_right_axes, read_axes

FULL_RESOLUTION = ("2d", "2.5d", "3d_fullres", "3d_cascade_fullres")
"""Configurations whose spacing a user may decide."""

FREE_FIELDS = {"input_channels", "output_channels", "deep_supervision"}
"""Fields of a network that may differ from those of a model whose weights it starts from."""


def check_asked_spacing(fingerprint: Fingerprint, asked: Spacing) -> None:
    """Refuse a spacing that no image can be resampled to, before a planner computes with it."""
    for case in fingerprint.cases:
        voxels = math.prod(case.cropped_shape)
        resampled = math.prod(resampled_shape(case.cropped_shape, case.spacing, asked))
        if is_out_of_proportion(voxels, resampled):
            raise PlanningError(
                f"--spacing {' '.join(f'{size:g}' for size in asked)}: the {voxels} voxels of case {case.case} would "
                f"become {resampled}. Give a spacing in mm, in the order z y x; that of this case is "
                f"{' '.join(f'{size:g}' for size in case.spacing)}."
            )


def check_asked_pairs(fingerprint: Fingerprint, pairs: Pairs | None) -> None:
    """Refuse pairs of labels that cannot change places, before a planner relies on them.

    Raises:
        PlanningError: If one is not a label of the dataset or is named twice, they are parts of regions that do not
            change places, or the images do not say which axis runs from left to right.
    """
    if not pairs:
        return
    named, known = [name for pair in pairs for name in pair], foreground_names(fingerprint.encoding)
    if unknown := [name for name in named if name not in known]:
        raise PlanningError(
            f"--side-pairs: the dataset has no label '{unknown[0]}'. Give two of its labels: {', '.join(known)}."
        )
    if repeated := [name for name in named if named.count(name) > 1]:
        raise PlanningError(f"--side-pairs: '{repeated[0]}' is named more than once. Name each label once.")
    if fingerprint.orientation == "as_stored":
        raise PlanningError(
            "--side-pairs: in images as stored no axis is known to run from left to right. Leave out --side-pairs, or "
            "--orientation as-stored."
        )
    if find_side_swap(0, pairs, fingerprint.encoding) is None:
        listed = ", ".join("=".join(pair) for pair in pairs)
        raise PlanningError(
            f"--side-pairs {listed}: other regions hold one label of a pair and not the other, so they cannot change "
            "places. Leave these pairs out (--side-pairs none)."
        )


def check_asked_axes(plan: Plan, letters: str | None) -> None:
    """Refuse letters of axes that no patch of the plan has.

    Raises:
        PlanningError: Names the letter.
    """
    if letters is None or letters in {"all", "none"}:
        return
    possible = AXIS_LETTERS[-max(configuration.network.dimensions for configuration in plan.configurations.values()) :]
    if unknown := [letter for letter in letters if letter not in possible]:
        names = ", ".join(plan.configurations)
        raise PlanningError(f"--mirror-axes: patches of {names} have no axis {unknown[0]}. Leave it out.")


def find_ignored_options(plan: Plan, budget: Budget) -> Iterator[str]:
    """Option, found and expected, for each thing that the user decided and the plan does not have.

    What only a planner can judge (memory, latency, its own options) is not looked at.
    """
    overrides = budget.overrides
    missing = [name for name in budget.configurations if name not in plan.configurations]
    if missing:
        yield f"-c {' '.join(missing)}: not planned, but {', '.join(plan.configurations) or 'nothing'}"
    for name, configuration in plan.configurations.items():
        if overrides.spacing is not None and name in FULL_RESOLUTION:
            transposed = tuple(overrides.spacing[axis] for axis in plan.transpose)
            asked = transposed[-configuration.network.dimensions :]  # 2D: in plane
            if configuration.spacing != asked:
                yield f"--spacing: {name} has {configuration.spacing}, expected {asked}"
        yield from _find_ignored_sizes(name, configuration, overrides)
        for option in ("case_sampling", "contrasts", "regularizer"):
            found, asked = getattr(configuration.training, option), getattr(overrides, option)
            if asked not in (None, found):
                yield f"--{option.replace('_', '-')}: {name} has {found}, expected {asked}"
        yield from _find_ignored_mirroring(name, configuration, plan, budget)
        if overrides.progressive is not None and not _keeps_growth(configuration, asked=overrides.progressive):
            option = "--progressive" if overrides.progressive else "--no-progressive"
            found = ", ".join(str(patch.patch_size) for patch in configuration.training.growing_patches) or "nothing"
            yield f"{option}: {name} has {found} before its patch {configuration.patch_size}"
        promised, limit = configuration.training.time_per_fold_seconds, budget.time_per_fold_seconds
        if limit is not None and promised != limit:
            yield f"--time-per-fold: {name} promises {promised} s, expected {limit} s"


def _find_ignored_sizes(name: str, configuration: Configuration, overrides: Overrides) -> Iterator[str]:
    patch_size, batch_size, neighbors = overrides.patch_size, overrides.batch_size, overrides.neighbor_slices
    if patch_size is not None and not _keeps_patch(configuration, patch_size):
        yield f"--patch-size: {name} has {configuration.patch_size}, expected {patch_size}"
    if batch_size is not None and configuration.batch_size != batch_size:
        yield f"--batch-size: {name} has {configuration.batch_size}, expected {batch_size}"
    if neighbors is not None and configuration.neighbor_slices not in (0, neighbors):
        yield f"--neighbor-slices: {name} has {configuration.neighbor_slices}, expected {neighbors}"


def _find_ignored_mirroring(name: str, configuration: Configuration, plan: Plan, budget: Budget) -> Iterator[str]:
    asked, pairs, dimensions = (
        budget.overrides.mirror_axes, budget.overrides.side_pairs, configuration.network.dimensions,
    )  # fmt: skip
    if asked is not None and configuration.training.mirror_axes != read_axes(asked, dimensions):
        yield f"--mirror-axes: {name} has {configuration.training.mirror_axes}, expected {read_axes(asked, dimensions)}"
    found = () if configuration.training.sides is None else configuration.training.sides.pairs
    has_axis = bool(left_right_axes(plan.transpose, dimensions, plan.orientation))
    if pairs is not None and found != (pairs if has_axis else ()):
        yield f"--side-pairs: {name} has {found or 'none'}, expected {pairs or 'none'}"


def _keeps_patch(configuration: Configuration, asked: Sequence[int]) -> bool:
    """Equal, or enlarged to the next size that the network can divide; a pair says nothing about 3D."""
    network = configuration.network
    if len(asked) != network.dimensions:
        return True
    total = (math.prod(strides) for strides in zip(*network.strides, strict=True))
    return all(
        edge <= found < edge + stride
        for edge, found, stride in zip(asked, configuration.patch_size, total, strict=True)
    )


def _keeps_growth(configuration: Configuration, *, asked: bool) -> bool:
    """Smaller patches before the planned one, or none; none is right where the planned patch is the smallest."""
    strides = (math.prod(steps) for steps in zip(*configuration.network.strides, strict=True))
    units = sum(edge // stride for edge, stride in zip(configuration.patch_size, strides, strict=True))
    is_smallest = units <= len(configuration.patch_size) + 1
    return bool(configuration.training.growing_patches) == (asked and not is_smallest)


def find_ignored_channels(plan: Plan, fingerprint: Fingerprint) -> Iterator[str]:
    """The option for missing channels, where networks could not tell which channels an image has."""
    names = [name for name, settings in plan.configurations.items() if not settings.channel_presence]
    if fingerprint.missing_channels and names:
        yield f"--allow-missing-channels: the network of {', '.join(names)} is not told which channels an image has"


def find_ignored_model(plan: Plan, budget: Budget) -> Iterator[str]:
    """What the plan has otherwise than the model that it should start from."""
    like = budget.like
    if like is None:
        return
    common = [name for name in plan.configurations if name in like.configurations]
    foreign = [name for name in plan.configurations if name not in like.configurations]
    if foreign:
        yield f"--like {like.model}: the model has no {', '.join(foreign)}, but {', '.join(like.configurations)}"
    for name in common:
        configuration, adopted = plan.configurations[name], like.configurations[name]
        differing = [
            f"network.{field}"
            for field, value in adopted.network
            if field not in FREE_FIELDS and getattr(configuration.network, field) != value
        ]
        if configuration.network.dimensions == 3 and plan.transpose != like.transpose:  # 2D: any plane will do
            differing.append("transpose")
        if budget.overrides.spacing is None and configuration.spacing != adopted.spacing:
            differing.append("spacing")
        if configuration.neighbor_slices != adopted.neighbor_slices:
            differing.append("neighbor_slices")
        if plan.channel_names == like.channel_names and configuration.normalization != adopted.normalization:
            differing.append("normalization")
        if differing:
            yield f"--like {like.model}: {name} has other values in {', '.join(differing)}"
