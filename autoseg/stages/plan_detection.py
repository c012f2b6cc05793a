"""From a plan for label maps to one for objects one by one (`--target mask-rcnn`).

Patch, batch, encoder, strides and kernels stay as they were planned; a feature pyramid with the heads of Mask R-CNN
takes the place of the decoder. Planners know of it (`Budget.finds_objects`), and keep time and memory for it.
"""

import math

from autoseg.costs.memory import DEVICES_OF_16_BITS, estimate_costs
from autoseg.costs.usual_detection import PYRAMID_LEVELS, usual_anchors, usual_levels, with_detection
from autoseg.errors import PlanningError
from autoseg.records.budget import AdoptedModel, Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import DETECTING
from autoseg.records.plan import Configuration, Decision, Plan, Target
from autoseg.records.training import TrainingSpec
from autoseg.stages.plan_anchors import AnchorChoice, choose_anchors, measured_sizes

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
"""Adam instead of the U-Net's descent with much momentum, as by Jaeger et al. 2019, whose rate is a tenth of it: losses
that are few numbers at first need steps of a known length (own choice; seen on made-up cells)."""

REASON = "Asked for: the network finds each object with its box and its mask, so that touching ones stay apart."


def refuse_impossible(fingerprint: Fingerprint) -> None:
    """Refuse labels that objects cannot be found of.

    Raises:
        PlanningError: If labels are regions, an ignore label is declared, or some labels alone were looked for in a
            case: places without an object would count as background.
    """
    if fingerprint.encoding.activation != "softmax":
        raise PlanningError(
            "--target mask-rcnn finds objects of labels, but this dataset has regions, which overlap. Declare one "
            "value per label, or plan without --target."
        )
    if fingerprint.encoding.ignore_value is not None:
        raise PlanningError(
            "--target mask-rcnn needs labels for every voxel, but this dataset has an ignore label. Plan without "
            "--target, or annotate the rest."
        )
    every = {name for case in fingerprint.cases for name in case.labels}
    partial = [case for case in fingerprint.cases if every - case.labels.keys()]
    if partial:
        missing = ", ".join(sorted(every - partial[0].labels.keys()))
        raise PlanningError(
            f"--target mask-rcnn needs every label in every case, but {len(partial)} of {len(fingerprint.cases)} cases "
            f"were searched for some labels alone (`annotated`; {partial[0].case} not for {missing}). Plan without "
            "--target, or leave these cases out."
        )


def without_detection(budget: Budget, target: Target) -> Budget:
    """The budget as planners know it: networks of a model that is adopted without what is added here.

    Raises:
        PlanningError: If the model's networks find objects, and those that are planned do not.
    """
    like = budget.like
    if like is None or all(each.network.detection is None for each in like.configurations.values()):
        return budget
    if target != "mask_rcnn":
        raise PlanningError(
            f"--like {like.model}: its networks find objects one by one. Plan with --target mask-rcnn, or "
            "without --like."
        )
    configurations = {
        name: each.model_copy(update={"network": each.network.model_copy(update={"detection": None})})
        for name, each in like.configurations.items()
    }
    return budget.model_copy(update={"like": like.model_copy(update={"configurations": configurations})})


def detect_objects(plan: Plan, fingerprint: Fingerprint, like: AdoptedModel | None = None) -> Plan:
    """Give each configuration a feature pyramid; cascades, which need label maps as input, are left out.

    Args:
        plan: Valid plan for label maps.
        fingerprint: Facts about the data.
        like: Model whose anchors are taken; None: they follow from the data.

    Raises:
        PlanningError: If no configuration can have one, or a point head was asked for.
    """
    if any(configuration.network.head != "full" for configuration in plan.configurations.values()):
        raise PlanningError("--target mask-rcnn has heads of its own. Leave --planner-option head=points out.")
    kept = {name: configuration for name, configuration in plan.configurations.items() if _can_detect(configuration)}
    if not kept:
        planned = sorted({configuration.network.architecture for configuration in plan.configurations.values()})
        raise PlanningError(
            f"--target mask-rcnn needs the encoder of {' or '.join(DETECTING)}, but the planner '{plan.planner}' plans "
            f"{', '.join(planned)}. Name another one with --planner, such as unet."
        )
    _refuse_cascades(plan)
    _refuse_decoder_settings(plan)
    choices = {name: _adopt(name, like) or _choose(plan, name, fingerprint) for name in kept}
    configurations = {name: _with_pyramid(kept[name], choice, plan, fingerprint) for name, choice in choices.items()}
    decisions = (
        Decision(what="target", value="mask_rcnn", reason=REASON),
        *(
            Decision(what=f"{name}.anchors", value=choice.anchors[0], reason=choice.reason)
            for name, choice in choices.items()
        ),
    )
    changes = {"target": "mask_rcnn", "configurations": configurations, "decisions": (*decisions, *plan.decisions)}
    return plan.model_copy(update=changes)


def _adopt(name: str, like: AdoptedModel | None) -> AnchorChoice | None:
    """Levels and anchors of a model that is adopted, if it has any."""
    if like is None or name not in like.configurations:
        return None
    detection = like.configurations[name].network.detection
    if detection is None:
        return None
    return AnchorChoice(detection.levels, detection.anchors, f"As in {like.model}, so that its weights fit.")


def _choose(plan: Plan, name: str, fingerprint: Fingerprint) -> AnchorChoice:
    """Levels and anchors by the measured objects; the published ones where too few were measured."""
    configuration = plan.configurations[name]
    network, sizes = configuration.network, measured_sizes(plan, name, fingerprint)
    found = choose_anchors(sizes, network.strides, configuration.patch_size, PYRAMID_LEVELS)
    if found is not None:
        return found
    levels = usual_levels(network)
    reason = f"As published, scaled to the levels: the fingerprint has the sizes of {len(sizes)} objects."
    return AnchorChoice(levels, usual_anchors(network.strides, levels), reason)


def _refuse_cascades(plan: Plan) -> None:
    """A cascade is left out where nobody asked for it, and refused where somebody did."""
    for name in plan.budget.configurations:
        if plan.configurations[name].previous_configuration is not None:
            raise PlanningError(
                f"-c {name} takes the label map of another configuration as input, which --target mask-rcnn does not "
                "give. Leave this configuration out, or plan without --target."
            )


def _refuse_decoder_settings(plan: Plan) -> None:
    for name, configuration in plan.configurations.items():
        if (skip := configuration.network.skip) != "plain":
            raise PlanningError(
                f"--target mask-rcnn with skip {skip} in {name}: the feature pyramid takes the place of the decoder. "
                "Leave this setting out, or plan without --target."
            )


def _can_detect(configuration: Configuration) -> bool:
    return configuration.network.architecture in DETECTING and configuration.previous_configuration is None


def _with_pyramid(
    configuration: Configuration, choice: AnchorChoice, plan: Plan, fingerprint: Fingerprint
) -> Configuration:
    changed = with_detection(configuration.network, choice.levels, choice.anchors)
    training = _with_optimizer(configuration.training)
    estimates = estimate_costs(
        changed,
        configuration.patch_size,
        math.ceil(configuration.batch_size / plan.budget.devices),
        num_labels=len(fingerprint.labels),
        mixed_precision=plan.budget.device in DEVICES_OF_16_BITS,
        optimizer=training.optimizer,
    )
    return configuration.model_copy(update={"network": changed, "training": training, "estimates": estimates})


def _with_optimizer(training: TrainingSpec) -> TrainingSpec:
    """Another optimiser, and no mirroring from left to right where labels have sides: codes of objects cannot swap."""
    sides, axes = training.sides, training.mirror_axes
    changes = {
        "optimizer": "adamw",
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "sides": None,
        "mirror_axes": axes if sides is None else tuple(axis for axis in axes if axis != sides.axis),
    }
    return training.model_copy(update=changes)
