"""The `pretrained-2d` planner: a U-Net whose encoder learnt from a million photographs, for small sets of 2D images.

A hundred pictures do not teach a network what edges, textures and shapes of photographs look like; an encoder that was
trained on ImageNet brings that along, so a few minutes are enough. The encoder is EfficientNet-Lite0, small enough for
a processor; the decoder is that of the plain U-Net, and its width follows the time. The method is in
`planners.composition`; 3D data is planned slice by slice.

References:
    Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019.
    Iglovikov and Shvets, "TernausNet: U-Net with VGG11 encoder pre-trained on ImageNet for image segmentation", 2018,
    for the idea. Differs: encoder, strides and number of levels from the planner, deep supervision.
"""

from collections.abc import Mapping
from typing import Final

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.encoders import (
    EFFICIENTNET_LEVELS,
    EncoderName,
    encoder_blocks,
    encoder_features,
    explain_missing_weights,
)
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, NetworkSpec
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.heads import HEAD_OPTIONS, with_head
from planners.preset import Preset, check_options, whole_number
from planners.rules import Decided
from planners.rules.memory import MemoryReference
from planners.rules.topology import Topology

NAME = "pretrained-2d"

WEIGHTS: Final[EncoderName] = "efficientnet-lite0"

MEMORY_REFERENCES = {2: MemoryReference(elements=85e6, batch_size=12)}
"""Reference of the plain U-Net, which needs more bytes for each feature-map element (10 to 12 instead of 8 to 10).
From the analytic estimate of memory, not measured on a GPU."""

DATASET_FRACTION = 0.05
"""A batch covers at most this part of the dataset's voxels."""

WIDTHS = (32, 16, 8)
"""Feature maps of the decoder at full resolution."""

WIDTH_REASON = "As wide as the plain U-Net's."

WIDEST = 64
"""Feature maps at full resolution that may be asked for."""

WANTED_STEPS = 600
"""A wider decoder is taken only if it gets so many training steps."""

MIN_STEPS = 150
"""Batch and patch shrink until the narrowest decoder gets so many: a quarter of what a fresh network needs. 160 polyps,
126 steps of 4 pictures: a Dice of 0.75; a fresh U-Net stays below 0.5 for more than a thousand."""

FEATURE_CAP = 256
"""Most feature maps of a decoder level."""

MAX_LEVELS = len(EFFICIENTNET_LEVELS)
"""Published depth: features of 1/32 of the resolution."""


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a 2D configuration with a pretrained encoder.

    Args:
        fingerprint: Facts about the dataset; the order of its cases does not matter.
        budget: Device, memory, time, the user's own values, weights that are installed. Planner options:
            `base_features`, feature maps of the decoder at full resolution, and those of the head.

    Raises:
        PlanningError: If the weights are not installed and the network is not that of another model, or under the
            conditions of `planners.unet.plan`.
    """
    if budget.like is None and WEIGHTS not in budget.installed_weights:
        raise PlanningError(explain_missing_weights(WEIGHTS))
    if budget.like is not None and any(len(item.spacing) > 2 for item in budget.like.configurations.values()):
        raise PlanningError(
            f"--like {budget.like.model}: it has 3D configurations, and {NAME} plans 2D ones. Leave --planner out."
        )
    return compose(make_pretrained_preset(budget.overrides.options), fingerprint, budget)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("efficientnet_unet",)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: ("2d",)}, plan, WIDTHS, trial_seconds)


def make_pretrained_preset(options: Mapping[str, str]) -> Preset:
    """The constants of the planner.

    Raises:
        PlanningError: If an option is unknown or out of range.
    """
    check_options(options, ("base_features", *HEAD_OPTIONS), NAME)
    asked = whole_number(options, "base_features", 1, WIDEST)
    preset = Preset(
        name=NAME,
        memory_gigabytes=8.0,
        memory_references=MEMORY_REFERENCES,
        dataset_fraction=DATASET_FRACTION,
        widths=WIDTHS if asked is None else (asked,),
        max_levels=MAX_LEVELS,
        width_reason=WIDTH_REASON if asked is None else "Requested.",
        plan_network=plan_efficientnet_unet,
        wanted_steps=WANTED_STEPS,
        min_steps=MIN_STEPS,
        initial_weights=Decided(
            WEIGHTS, "An encoder trained on a million photographs knows what a small set of images cannot teach."
        ),
    )
    return with_head(preset, options)


def plan_efficientnet_unet(
    topology: Topology, base_features: int, input_channels: int, output_channels: int
) -> NetworkSpec:
    """An EfficientNet-Lite0 with as many levels as the topology, and a decoder of doubling width.

    Examples:
        Five levels at width 16 have decoder levels of 16, 32, 64 and 128 feature maps, and the encoder's 112 below.
    """
    levels = topology.levels
    decoder = (min(FEATURE_CAP, base_features * 2**level) for level in range(levels - 1))
    return NetworkSpec(
        architecture="efficientnet_unet",
        dimensions=2,
        input_channels=input_channels,
        output_channels=output_channels,
        features=(*decoder, encoder_features(levels)[-1]),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        encoder_blocks=encoder_blocks(levels),
        decoder_blocks=(1,) * (levels - 1),
    )
