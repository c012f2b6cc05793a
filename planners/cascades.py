"""Configurations that take the label map of another one as input: the cascade, and the one that clicks correct.

Tested in tests/planners/test_unet.py and tests/planners/test_cascades.py.
"""

from autoseg.records.plan import Configuration, Decision
from planners.context import PlanningContext
from planners.rules import Decided, as_decision
from planners.rules.clicks import choose_clicks
from planners.rules.configurations import INTERACTIVE, choose_corrected
from planners.rules.schedule import choose_schedule


def plan_cascade(context: PlanningContext, full: Configuration) -> Configuration:
    """3d_fullres with the low resolution's label map as further input channels, one per foreground label."""
    num_labels = len(context.fingerprint.encoding.values) - 1
    following = _with_inputs(context, full, num_labels)
    return following.model_copy(update={"preprocessed_as": "3d_fullres", "previous_configuration": "3d_lowres"})


def plan_interactive(
    context: PlanningContext, configurations: dict[str, Configuration]
) -> tuple[Configuration, list[Decision]]:
    """A configuration like the one that it corrects, with further input channels for clicks and its label map.

    Args:
        context: What the configurations share.
        configurations: The planned ones.
    """
    name, num_values = choose_corrected(list(configurations)), len(context.fingerprint.encoding.values)
    corrected = configurations[name]
    if not context.budget.overrides.progressive:  # patches smaller than a click's surroundings teach little about it
        whole = corrected.training.model_copy(update={"growing_patches": ()})
        corrected = corrected.model_copy(update={"training": whole})
    clicks = choose_clicks(context.fingerprint, corrected)
    configuration = _with_inputs(context, corrected, num_values + num_values - 1).model_copy(
        update={
            "preprocessed_as": name,
            "previous_configuration": name,
            "previous_labels": "label_map",
            "clicks": clicks.value,
        }
    )
    reason = f"{clicks.reason} Clicks correct the label maps of {name}, whose network it has."
    return configuration, [as_decision(f"{INTERACTIVE}.reach_mm", Decided(clicks.value.reach_mm, reason))]


def _with_inputs(context: PlanningContext, configuration: Configuration, added: int) -> Configuration:
    """The same configuration with more input channels, and the schedule and the costs that follow."""
    network = configuration.network
    network = network.model_copy(update={"input_channels": network.input_channels + added})
    patch_size, batch_size = configuration.patch_size, configuration.batch_size
    schedule = choose_schedule(configuration.training, context.budget, network, patch_size, batch_size)
    estimates = context.estimate_costs(network, patch_size, batch_size, schedule.value.optimizer)
    return configuration.model_copy(update={"network": network, "training": schedule.value, "estimates": estimates})
