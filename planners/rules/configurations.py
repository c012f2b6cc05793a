"""Which of the configurations that make sense are planned.

Called once per plan.

Example: a dataset with a low resolution, and `3d_cascade_fullres` asked for: the plan holds 3d_fullres, 3d_lowres and
3d_cascade_fullres, because the cascade cannot be trained without the two others.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): 2D, 3D full resolution, 3D cascade.
"""

from collections.abc import Sequence

from autoseg.errors import PlanningError

CASCADE_NEEDS = ("3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""The cascade refines label maps of the low resolution on arrays of the full resolution."""

SPACING_REASONS = {
    "2d": "The target spacing in plane; slices are not resampled.",
    "3d_fullres": "The target spacing.",
    "3d_lowres": "The finest spacing at which a patch sees a quarter of the median image.",
}

SINGLE_SLICE_REASON = "The images have a single slice, so there is no third dimension to look along."
CASCADE_REASON = "A second network at full resolution refines the label maps of 3d_lowres, which saw more context."

BATCH_DICE_REASONS = {
    True: "A patch shows little of an image, so Dice over the whole batch is steadier.",
    False: "A patch shows much of an image, so each sample has its own Dice.",
}


def choose_configurations(available: Sequence[str], asked: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Those asked for, with what the cascade needs; all when nothing is asked for.

    Args:
        available: What makes sense for the data, in the order of the plan.
        asked: By the budget; empty for all.

    Returns:
        Names in the order of the plan, and the reason.

    Raises:
        PlanningError: If something is asked for that is not available; lists what is.
    """
    missing = [name for name in asked if name not in available]
    if missing:
        raise PlanningError(
            f"Configuration {', '.join(missing)} is not available for this data; available: {', '.join(available)}."
        )
    if not asked:
        return tuple(available), "All configurations that make sense for the data."
    if "3d_cascade_fullres" in asked and not set(asked).issuperset(CASCADE_NEEDS):
        names = tuple(name for name in available if name in {*asked, *CASCADE_NEEDS})
        return names, "Asked for; the cascade also needs 3d_lowres for its label maps, and the arrays of 3d_fullres."
    return tuple(name for name in available if name in asked), "Only these were asked for."
