"""Configurations of a model to start from (`--like`), at the spacing that it has or that the user chose.

Tested in tests/planners/test_adoption.py.
"""

from autoseg.errors import PlanningError
from autoseg.records.budget import AdoptedConfiguration, AdoptedModel
from planners.configuration import ConfigurationPlanner
from planners.context import PlanningContext
from planners.rules import Decided
from planners.rules.configurations import CASCADE, INTERACTIVE, SPACING_REASONS, THICK_SLICE


def adopt_configurations(context: PlanningContext, model: AdoptedModel) -> list[ConfigurationPlanner]:
    """The model's configurations, the cascade left aside; only 2D ones for images of a single slice."""
    planners = [
        _adopt_configuration(context, name, configuration, model.model)
        for name, configuration in model.configurations.items()
        if name not in {CASCADE, INTERACTIVE} and (len(configuration.spacing) == 2 or min(context.median_shape) > 1)
    ]
    if not planners:
        raise PlanningError(
            f"--like {model.model}: its configurations are {', '.join(model.configurations)}, but the images have a "
            "single slice and need 2d. Take another model, or plan without it."
        )
    return planners


def _adopt_configuration(
    context: PlanningContext, name: str, configuration: AdoptedConfiguration, model: str
) -> ConfigurationPlanner:
    """The model's spacing, unless the user chose another one; and the median image at that spacing."""
    spacing = Decided(configuration.spacing, f"That of {model}.")
    if context.budget.overrides.spacing is not None and name in {"2d", THICK_SLICE, "3d_fullres"}:
        asked = context.spacing[-len(spacing.value) :]
        spacing = spacing if asked == spacing.value else Decided(asked, SPACING_REASONS[name])
    through_plane = context.spacing[: 3 - len(spacing.value)]
    z, y, x = (
        old / new * size
        for old, new, size in zip(context.spacing, (*through_plane, *spacing.value), context.median_shape, strict=True)
    )
    shape = (max(round(z), 1.0), max(round(y), 1.0), max(round(x), 1.0))
    neighbors = Decided(configuration.neighbor_slices, f"That of {model}.")
    return ConfigurationPlanner(context, name, spacing, shape, max(z * y * x, 1.0), configuration, neighbors)
