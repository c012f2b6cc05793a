"""From a workspace to what predicts one image: the networks of a recipe, and what it does with their logits.

Tested in tests/stages/test_predictor.py and tests/stages/test_recipe.py.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from autoseg.device_resampling import choose_resampler
from autoseg.errors import PredictionError
from autoseg.inference.models.correction import load_correcting
from autoseg.inference.models.loading import (
    LoadedConfiguration,
    load_coarse_configuration,
    load_with_previous,
    refuse_other_plans,
    with_first_folds,
    with_precision,
)
from autoseg.inference.models.mirroring import choose_mirroring
from autoseg.inference.models.nested_levels import keep_nested_levels
from autoseg.inference.models.recipes import choose_recipe
from autoseg.inference.predictor.adaptation import choose_adapting
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.instance_maps import refuse_voxel_options
from autoseg.inference.predictor.options import PredictionOptions
from autoseg.inference.predictor.region_of_interest import CoarsePass
from autoseg.inference.predictor.training_range import read_training_range
from autoseg.inference.refinement.loading import load_refiners
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.postprocessing import check_labels_are_known
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.predict")


def load_case_predictor(workspace: Workspace, options: PredictionOptions, device: torch.device) -> CasePredictor:
    """Load the networks of a recipe.

    Raises:
        PredictionError: If there is no such model, or it cannot be loaded.
        RecordError: If its post-processing names labels that it does not have.
    """
    if not workspace.plan.is_file():
        lack = "has no plan.json" if workspace.root.exists() else "does not exist"
        raise PredictionError(f"{workspace.root}: not a model, it {lack}; give a folder that autoseg-plan made")
    plan, checkpoint = read_record(Plan, workspace.plan), options.checkpoint
    asked = {"--decision expected-dice": options.decision == "expected-dice", "--roi": options.region_of_interest}
    refuse_voxel_options(plan, asked)
    recipe = choose_recipe(workspace, plan, options.configuration, options.folds, checkpoint)
    check_labels_are_known(recipe.postprocessing, plan.encoding)
    members = tuple(
        load_with_previous(workspace, plan, name, recipe.folds, checkpoint, device) for name in recipe.configurations
    )
    members = _with_weights(members, recipe.member_weights)
    if options.nested_levels is not None:
        keep_nested_levels(members, options.nested_levels)
    if options.mirroring:
        members = choose_mirroring(members, plan, options.mirror_axes)
    coarse_pass = _load_coarse_pass(workspace, plan, members, options, device)
    refinement = recipe.refinement if options.refine else None
    training_range = read_training_range(workspace.fingerprint)
    decision = options.decision or recipe.decision
    if recipe.region_thresholds and decision == "expected-dice":
        logger.info("thresholds of regions in %s are not used: --decision expected-dice", workspace.selection)
    if not options.accept_other_plan:
        coarser = None if coarse_pass is None else coarse_pass.coarser
        refuse_other_plans(workspace, members if coarser is None else (*members, coarser))
    correcting = load_correcting(workspace, plan, options.folds, checkpoint, device)

    def finish(member: LoadedConfiguration) -> LoadedConfiguration:
        first = with_first_folds(member, options.max_folds)
        return with_precision(first, options.precision, device, plan.encoding, options.threads)

    return CasePredictor(
        plan=plan,
        members=tuple(map(finish, members)),
        correcting=None if correcting is None else finish(correcting),
        windows=WindowSettings(overlap=options.overlap, mirroring=options.mirroring),
        thresholds=recipe.region_thresholds if decision == "argmax" else {},
        decision=decision,
        coarse_pass=coarse_pass,
        refiners=None if refinement is None else load_refiners(workspace, refinement, device),
        postprocessing=recipe.postprocessing,
        confidence=recipe.confidence,
        training_range=training_range,
        adapting=choose_adapting(workspace, members, training_range, options.adapt, recipe.adaptation),
        max_memory=options.max_memory,
        resampler=choose_resampler(device, options.precision),
    )


def _with_weights(members: Sequence[LoadedConfiguration], weights: Sequence[float]) -> tuple[LoadedConfiguration, ...]:
    """Members of an ensemble with their parts of the mean of probabilities; no weights: equal parts."""
    if not weights:
        return tuple(members)
    return tuple(replace(member, weight=weight) for member, weight in zip(members, weights, strict=True))


def _load_coarse_pass(
    workspace: Workspace,
    plan: Plan,
    members: Sequence[LoadedConfiguration],
    options: PredictionOptions,
    device: torch.device,
) -> CoarsePass | None:
    """What finds the region of interest; None where the whole image is predicted."""
    if not options.region_of_interest:
        return None
    coarser = load_coarse_configuration(workspace, plan, members, options.checkpoint, device)
    if coarser is not None:
        coarser = with_precision(coarser, options.precision, device, plan.encoding, options.threads)
    return CoarsePass(plan.encoding.activation == "softmax", coarser)
