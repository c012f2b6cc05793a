"""Which of the configurations that make sense are planned.

Called once per plan.

Example: a dataset with a low resolution, and `3d_cascade_fullres` asked for: the plan holds 3d_fullres, 3d_lowres and
3d_cascade_fullres, because the cascade cannot be trained without the two others.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): 2D, 3D full resolution, 3D cascade.
"""

from collections.abc import Mapping, Sequence

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from planners.rules import Decided

CASCADE_NEEDS = ("3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""The cascade refines label maps of the low resolution on arrays of the full resolution."""

THICK_SLICE = "2.5d"
"""A 2D network that sees the neighbouring slices, too."""

CASCADE = "3d_cascade_fullres"
"""It corrects the label map of a coarser configuration."""

INTERACTIVE = "interactive"
"""A network that corrects label maps of another configuration by clicks."""

CORRECTED = ("3d_fullres", "2d")
"""Configurations whose label maps are corrected; the first that is planned."""

ON_REQUEST = frozenset({THICK_SLICE, INTERACTIVE})
"""Configurations that are planned only where they are asked for."""

NEIGHBOR_SLICES = 1
"""Neighbouring slices on each side unless the user says otherwise."""

SPACING_REASONS = {
    "2d": "The target spacing in plane; slices are not resampled.",
    THICK_SLICE: "The target spacing in plane; slices are not resampled.",
    "3d_fullres": "The target spacing.",
    "3d_lowres": "The finest spacing at which a patch sees a quarter of the median image.",
}

FLAT_PLANNER_REASON = "This planner has 2D networks only; volumes are segmented slice by slice."

SINGLE_SLICE_REASON = "The images have a single slice, so there is no third dimension to look along."


def choose_batch_dice(name: str, *, has_low_resolution: bool) -> Decided[bool]:
    """Whether Dice is computed over the whole batch: in 2D, and at full resolution beside a low resolution."""
    if name in {"2d", THICK_SLICE} or (name == "3d_fullres" and has_low_resolution):
        return Decided(True, "A patch shows little of an image, so Dice over the whole batch is steadier.")
    return Decided(False, "A patch shows much of an image, so each sample has its own Dice.")


def choose_neighbor_slices(budget: Budget) -> Decided[int]:
    """How many slices on each side of its own a 2D network sees in the configuration `2.5d`."""
    asked = budget.overrides.neighbor_slices
    if asked is not None:
        return Decided(asked, "Requested.")
    return Decided(NEIGHBOR_SLICES, "The nearest slices show most of what continues through the plane.")


def choose_cascade(budget: Budget) -> Decided[bool]:
    """Whether a cascade is planned where there is a low resolution."""
    if budget.latency_seconds is not None:
        return Decided(False, "Two networks in sequence take twice as long, and the prediction time is limited.")
    return Decided(
        True, "A second network at full resolution refines the label maps of 3d_lowres, which saw more context."
    )


def choose_corrected(names: Sequence[str]) -> str:
    """The configuration whose label maps are corrected by clicks, among others."""
    return next(name for name in CORRECTED if name in names)


def choose_configurations(
    available: Sequence[str], asked: Sequence[str], left_out: Mapping[str, str]
) -> Decided[tuple[str, ...]]:
    """Those asked for, with what the cascade needs; when nothing is asked for all but those that are left out.

    Args:
        available: What makes sense for the data, in the order of the plan.
        asked: Names that the budget asks for; empty for all.
        left_out: What the planner would rather not train, and why; ignored where nothing else would remain.

    Returns:
        Names in the order of the plan.

    Raises:
        PlanningError: If something is asked for that is not available; lists what is.
    """
    missing = [name for name in asked if name not in available]
    if missing:
        listed = sorted(available, key=lambda name: name in ON_REQUEST)
        raise PlanningError(
            f"Configuration {', '.join(missing)} is not available for this data, budget or model; available: "
            f"{', '.join(listed)}."
        )
    if not asked:
        return _all_but(available, left_out)
    needed, reason = set(asked), "Only these were requested."
    if "3d_cascade_fullres" in asked and not needed.issuperset(CASCADE_NEEDS):
        needed.update(CASCADE_NEEDS)
        reason = "Requested; the cascade also needs 3d_lowres for its label maps, and the arrays of 3d_fullres."
    if INTERACTIVE in asked and not needed.intersection(CORRECTED):
        needed.add(choose_corrected(available))
        reason = f"Requested; {INTERACTIVE} also needs {choose_corrected(available)}, whose label maps it corrects."
    return Decided(tuple(name for name in available if name in needed), reason)


def _all_but(available: Sequence[str], left_out: Mapping[str, str]) -> Decided[tuple[str, ...]]:
    usual = tuple(name for name in available if name not in ON_REQUEST) or tuple(available)
    kept = tuple(name for name in usual if name not in left_out)
    if not kept or len(kept) == len(usual):
        return Decided(usual, "All configurations that make sense for the data.")
    reasons = " ".join(f"{name} is left out: {left_out[name]}" for name in usual if name in left_out)
    return Decided(kept, f"{reasons} -c includes it anyway.")
