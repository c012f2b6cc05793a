"""Stage plan: from fingerprint and budget to the plan, held to what the user decided; the pipeline writes plan.json."""

import logging
import math
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from autoseg.costs.windows import resampled_shape
from autoseg.errors import PlanningError, RecordError
from autoseg.imaging.arrays.border_core import choose_border_width, divide_encoding
from autoseg.imaging.arrays.resampling import is_out_of_proportion
from autoseg.plugins import find_architectures, find_planner
from autoseg.records.budget import AdoptedConfiguration, AdoptedModel, Budget, Overrides
from autoseg.records.case import Spacing
from autoseg.records.dataset import foreground_names
from autoseg.records.encoders import PRETRAINED_ARCHITECTURE
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint, is_photographs
from autoseg.records.plan import Configuration, Decision, Plan, Target
from autoseg.records.sides import AXIS_LETTERS, Pairs, find_side_swap, left_right_axes, read_axes
from autoseg.records.workspace import Workspace
from autoseg.stages.measure import count_planned_networks, measure_networks
from autoseg.stages.plan_detection import detect_objects, refuse_impossible, without_detection
from autoseg.system import find_installed_weights
from autoseg.text import format_sizes

logger = logging.getLogger("autoseg.plan")

FULL_RESOLUTION = ("2d", "2.5d", "3d_fullres", "3d_cascade_fullres")
"""Configurations whose spacing a user may decide."""

FREE_FIELDS = {"input_channels", "output_channels", "deep_supervision"}
"""Fields of a network that may differ from those of a model whose weights it starts from."""


def make_plan(fingerprint: Fingerprint, budget: Budget, planner: str, target: Target = "labels") -> Plan:
    """Decide how to train.

    Args:
        fingerprint: Facts about the dataset.
        budget: Device, memory, time, configurations, and what the user decided.
        planner: Name of an installed planner.
        target: What the networks learn. For border_core the planner is given a fingerprint whose encoding has two
            heads per label; width and reason are recorded in the plan. For mask_rcnn its networks get a feature
            pyramid in place of the decoder.

    Returns:
        The plan. Equal input gives an equal plan.

    Raises:
        UsageError: If no such planner, or not the network of another package that it was asked for, is installed.
        PlanningError: If nothing fits data and budget, the planner does not give a valid plan, or its plan does not
            keep what the user decided; names the option.
    """
    if budget.overrides.spacing is not None:
        _check_asked_spacing(fingerprint, budget.overrides.spacing)
    check_asked_pairs(fingerprint, budget.overrides.side_pairs)
    if target != "labels" and "interactive" in budget.configurations:
        raise PlanningError(
            f"-c interactive corrects label maps by clicks, which --target {target.replace('_', '-')} has no use for; "
            "leave one of them out."
        )
    if target == "mask_rcnn":
        refuse_impossible(fingerprint)
    like, budget = budget.like, without_detection(budget, target)
    budget = budget.model_copy(update={"finds_objects": target == "mask_rcnn"})
    budget = add_installed_weights(fingerprint, budget, planner)
    encoded = encode_target(fingerprint, target)
    budget = measure_networks(encoded, budget, find_planner(planner))
    made = _ask(planner, encoded, budget)
    _check_not_empty(made, f"the planner '{planner}'")
    check_asked_axes(made, budget.overrides.mirror_axes)
    ignored = [
        *find_ignored_options(made, budget),
        *find_ignored_model(made, budget),
        *find_ignored_channels(made, fingerprint),
    ]
    if ignored:
        what = "; ".join(ignored)
        raise PlanningError(f"The planner '{planner}' ignores {what}. Take another planner, or leave the option out.")
    made = count_planned_networks(made)
    match target:
        case "labels":
            return made
        case "border_core":
            return _with_borders(made, fingerprint)
        case "mask_rcnn":
            return detect_objects(made, fingerprint, like)


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


def add_installed_weights(fingerprint: Fingerprint, budget: Budget, planner: str) -> Budget:
    """Say in the budget which published weights are installed, where the planner may use them for these data.

    A planner that needs them anyway says so; one that has other networks, too, uses them for photographs.
    """
    informed = budget.model_copy(update={"installed_weights": find_installed_weights()})
    considered = informed if is_photographs(fingerprint) else budget
    may_use = PRETRAINED_ARCHITECTURE in find_architectures(find_planner(planner), considered)
    return informed if may_use else budget


def _check_asked_spacing(fingerprint: Fingerprint, asked: Spacing) -> None:
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


def read_kept_plan(workspace: Workspace, fingerprint: Fingerprint) -> Plan:
    """The plan of a workspace, for example edited by hand, that planning again keeps.

    Raises:
        PlanningError: If it was made for other channels, labels or another orientation, or has no configurations.
        RecordError: If there is none, or it is damaged.
    """
    plan = read_record(Plan, workspace.plan)
    if not plan.configurations:
        raise PlanningError(
            f"{workspace.plan}: the plan has no configurations, so there is nothing to train. Plan again without "
            "--keep-plan."
        )
    expected = encode_target(fingerprint, plan.target)
    for what in ("channel_names", "encoding", "orientation"):
        planned, found = getattr(plan, what), getattr(expected, what)
        if planned != found:
            raise PlanningError(
                f"{workspace.plan}: {what} is {planned}, but the dataset has {found}. Plan again without --keep-plan."
            )
    for fault in find_ignored_channels(plan, fingerprint):
        raise PlanningError(f"{workspace.plan}: {fault}. Plan again without --keep-plan.")
    return plan


def warn_of_edits(workspace: Workspace, plan: Plan) -> None:
    """Warn that a plan for the same budget and planner, but with other decisions, is replaced.

    Where the budget has another measured speed and nothing else, say which sizes change with it.
    """
    try:
        earlier = read_record(Plan, workspace.plan)
    except RecordError:  # missing, of another version, or damaged: nothing to keep
        return
    if earlier != plan and (earlier.budget, earlier.planner) == (plan.budget, plan.planner):
        logger.warning(
            "warning: %s is replaced: it was edited, or the data or the rules changed (--keep-plan keeps it)",
            workspace.plan,
        )
    unmeasured = earlier.budget.model_copy(update={"throughput": plan.budget.throughput})
    if unmeasured == plan.budget != earlier.budget:
        for name in earlier.configurations.keys() & plan.configurations.keys():
            before, now = (_describe_size(found.configurations[name]) for found in (earlier, plan))
            if before != now:
                logger.info("%s is planned again for the speed that was measured now: %s, before %s", name, now, before)


def _describe_size(configuration: Configuration) -> str:
    features, patch = configuration.network.features[0], format_sizes(configuration.patch_size)
    return f"patch {patch}, batch {configuration.batch_size}, {features} features"


def encode_target(fingerprint: Fingerprint, target: Target) -> Fingerprint:
    """The fingerprint with the encoding of what the networks learn.

    Raises:
        PlanningError: If the labels are regions and cannot be divided.
    """
    if target != "border_core":
        return fingerprint
    return fingerprint.model_copy(update={"encoding": divide_encoding(fingerprint.encoding)})


def _with_borders(plan: Plan, fingerprint: Fingerprint) -> Plan:
    width_mm, reason = choose_border_width(fingerprint)
    decisions = (
        Decision(
            what="target",
            value="border_core",
            reason="Asked for: networks learn core and border of each object, so that touching objects are separated.",
        ),
        Decision(what="border_width_mm", value=width_mm, reason=reason),
    )
    changes = {"target": "border_core", "border_width_mm": width_mm, "decisions": (*decisions, *plan.decisions)}
    return plan.model_copy(update=changes)


def _ask(planner: str, fingerprint: Fingerprint, budget: Budget) -> Plan:
    """A valid plan. Third-party planners are not trusted: any failure is wrapped, and names the planner."""
    try:
        plan = find_planner(planner)(fingerprint, budget)
        if isinstance(plan, Plan):  # whose fields may have been replaced without a check
            return Plan.model_validate_json(plan.model_dump_json(warnings=False))
    except ValidationError as error:
        raise PlanningError(
            f"The planner '{planner}' returned an invalid plan; report this to its maintainers: {error}"
        ) from error
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise PlanningError(
            f"The planner '{planner}' failed with {type(error).__name__}: {error}; report this to its maintainers."
        ) from error
    raise PlanningError(
        f"The planner '{planner}' returned a {type(plan).__name__}, not a plan; report this to its maintainers."
    )


def _check_not_empty(plan: Plan, origin: str) -> None:
    if not plan.configurations:
        raise PlanningError(f"The plan of {origin} has no configurations, so there is nothing to train. Plan again.")


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


def adopt_model(plan: Plan, name: str) -> AdoptedModel:
    """What another plan takes over from a trained model, so that training can start from its weights.

    Args:
        plan: The model's own plan.
        name: How the user named the model.

    Raises:
        PlanningError: If the plan has no configurations.
    """
    _check_not_empty(plan, name)
    return AdoptedModel(
        model=name,
        planner=plan.planner,
        channel_names=plan.channel_names,
        transpose=plan.transpose,
        configurations={
            key: AdoptedConfiguration(
                spacing=configuration.spacing,
                patch_size=configuration.patch_size,
                network=configuration.network,
                resampling=configuration.resampling,
                normalization=configuration.normalization,
                neighbor_slices=configuration.neighbor_slices,
            )
            for key, configuration in plan.configurations.items()
        },
    )
