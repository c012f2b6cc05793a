"""Which of the configurations that make sense are planned.

Called once per plan.

Example: a dataset with a low resolution, and `3d_cascade_fullres` asked for: the plan holds 3d_fullres, 3d_lowres and
3d_cascade_fullres, because the cascade cannot be trained without the two others.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021): 2D, 3D full resolution, 3D cascade.
"""

from collections.abc import Mapping, Sequence

from autoseg.errors import PlanningError

CASCADE_NEEDS = ("3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""The cascade refines label maps of the low resolution on arrays of the full resolution."""

SPACING_REASONS = {
    "2d": "The target spacing in plane; slices are not resampled.",
    "3d_fullres": "The target spacing.",
    "3d_lowres": "The finest spacing at which a patch sees a quarter of the median image.",
}

SINGLE_SLICE_REASON = "The images have a single slice, so there is no third dimension to look along."
CASCADE_LATENCY_REASON = "Two networks in a row take twice as long, and the prediction time is limited."
CASCADE_REASON = "A second network at full resolution refines the label maps of 3d_lowres, which saw more context."

BATCH_DICE_REASONS = {
    True: "A patch shows little of an image, so Dice over the whole batch is steadier.",
    False: "A patch shows much of an image, so each sample has its own Dice.",
}


def choose_configurations(
    available: Sequence[str], asked: Sequence[str], left_out: Mapping[str, str]
) -> tuple[tuple[str, ...], str]:
    """Those asked for, with what the cascade needs; when nothing is asked for all but those that are left out.

    Args:
        available: What makes sense for the data, in the order of the plan.
        asked: By the budget; empty for all.
        left_out: What the planner would rather not train, and why; ignored where nothing else would remain.

    Returns:
        Names in the order of the plan, and the reason.

    Raises:
        PlanningError: If something is asked for that is not available; lists what is.
    """
    missing = [name for name in asked if name not in available]
    if missing:
        raise PlanningError(
            f"Configuration {', '.join(missing)} is not available for this data, budget or model; available: "
            f"{', '.join(available)}."
        )
    if not asked:
        return _all_but(available, left_out)
    if "3d_cascade_fullres" in asked and not set(asked).issuperset(CASCADE_NEEDS):
        names = tuple(name for name in available if name in {*asked, *CASCADE_NEEDS})
        return names, "Asked for; the cascade also needs 3d_lowres for its label maps, and the arrays of 3d_fullres."
    return tuple(name for name in available if name in asked), "Only these were asked for."


def _all_but(available: Sequence[str], left_out: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    kept = tuple(name for name in available if name not in left_out)
    if not kept or len(kept) == len(available):
        return tuple(available), "All configurations that make sense for the data."
    reasons = " ".join(f"{name} is left out: {left_out[name]}" for name in available if name in left_out)
    return kept, f"{reasons} -c asks for it all the same."
