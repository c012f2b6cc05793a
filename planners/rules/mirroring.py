"""Along which axes patches are mirrored in training, and images at prediction.

nnU-Net mirrors all axes. That makes the task eight times as varied in 3D, which pays only in a long training: with
limited time only the left-right axis is mirrored, along which bodies are roughly symmetric. Prediction then averages
2 instead of 8 variants, too.

Example: task 4 of the Decathlon (hippocampus, 160 training cases), 8 feature maps, 2.5 minutes on two CPU cores,
mean foreground Dice of 40 whole validation volumes: all axes 0.843, left-right 0.867, none 0.870.

References:
    nnU-Net v2 (Isensee et al., Nature Methods 2021) mirrors all axes. Differs: fewer with limited time; own rule.
"""

from autoseg.records.case import Triple

LEFT_RIGHT_AXIS = 2
"""In working orientation, (z, y, x): x runs from right to left. Pictures are mirrored like a mirror does."""


def choose_mirror_axes(dimensions: int, transpose: Triple, *, limited_time: bool) -> tuple[int, ...]:
    """Spatial axes of the patch, 0 being the first of `patch_size`.

    Args:
        dimensions: 2 or 3; a 2D patch lacks the first transposed axis.
        transpose: Transposed axis i is working axis transpose[i].
        limited_time: Whether a time per fold is promised.

    Returns:
        Empty when a 2D patch lies across the left-right axis.

    Examples:
        >>> choose_mirror_axes(3, (0, 1, 2), limited_time=False), choose_mirror_axes(3, (2, 0, 1), limited_time=True)
        ((0, 1, 2), (0,))
    """
    if not limited_time:
        return tuple(range(dimensions))
    axis = transpose.index(LEFT_RIGHT_AXIS) - (3 - dimensions)
    return (axis,) if axis >= 0 else ()


def explain_mirroring(axes: tuple[int, ...], *, limited_time: bool) -> str:
    """The reason, for a user."""
    if not limited_time:
        return "All axes, as nnU-Net does: in a long training every view helps."
    if not axes:
        return "With little time only left and right would be mirrored, and this patch does not show them."
    return "Left and right only: with little time, views that no patient shows cost more than they teach."
