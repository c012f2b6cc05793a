"""Stage plan: from fingerprint and budget to the plan, held to what the user decided; the pipeline writes plan.json."""

import logging

from pydantic import ValidationError

from autoseg.errors import PlanningError, RecordError
from autoseg.imaging.arrays.border_core import choose_border_width, divide_encoding
from autoseg.plugins import find_architectures, find_planner
from autoseg.records.budget import AdoptedConfiguration, AdoptedModel, Budget
from autoseg.records.encoders import PRETRAINED_ARCHITECTURE
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint, is_photographs
from autoseg.records.plan import Configuration, Decision, Plan, Target
from autoseg.records.workspace import Workspace
from autoseg.stages.measure import count_planned_networks, measure_networks
from autoseg.stages.plan_demands import (
    check_asked_axes,
    check_asked_pairs,
    check_asked_spacing,
    find_ignored_channels,
    find_ignored_model,
    find_ignored_options,
)
from autoseg.stages.plan_detection import detect_objects, refuse_impossible, without_detection
from autoseg.system import find_installed_weights
from autoseg.text import format_sizes

logger = logging.getLogger("autoseg.plan")


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
        check_asked_spacing(fingerprint, budget.overrides.spacing)
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


def add_installed_weights(fingerprint: Fingerprint, budget: Budget, planner: str) -> Budget:
    """Say in the budget which published weights are installed, where the planner may use them for these data.

    A planner that needs them anyway says so; one that has other networks, too, uses them for photographs.
    """
    informed = budget.model_copy(update={"installed_weights": find_installed_weights()})
    considered = informed if is_photographs(fingerprint) else budget
    may_use = PRETRAINED_ARCHITECTURE in find_architectures(find_planner(planner), considered)
    return informed if may_use else budget


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
