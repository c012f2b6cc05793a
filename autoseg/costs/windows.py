"""Shapes of resampled images and numbers of windows, by which planning, preprocessing and prediction count alike."""

import math
from collections.abc import Sequence

from autoseg.records.case import Spacing, Triple

OVERLAP_FRACTION = 0.5
"""Part of a window that it has in common with the next one, as in nnU-Net v2."""


def resampled_shape(shape: Triple, spacing: Spacing, target_spacing: Spacing) -> Triple:
    """Shape that covers the same extent at another spacing, rounded (halves to even); at least one voxel per axis.

    Args:
        shape: Voxels, (z, y, x).
        spacing: mm, (z, y, x).
        target_spacing: mm, (z, y, x).

    Examples:
        >>> resampled_shape((10, 256, 216), (10.0, 1.5, 1.5), (5.0, 1.5, 3.0))
        (20, 256, 108)
    """
    z, y, x = (max(1, round(old / new * size)) for old, new, size in zip(spacing, target_spacing, shape, strict=True))
    return z, y, x


def count_windows(image_shape: Sequence[float], patch_size: Sequence[int], overlap: float = OVERLAP_FRACTION) -> int:
    """Number of windows that cover an image; every slice has its own for a 2D patch (y, x).

    Args:
        image_shape: (z, y, x), voxels; may end in fractions where it is a median.
        patch_size: (z, y, x) or (y, x), voxels.
        overlap: Least fraction of a window that it has in common with the next one, [0, 1).

    Examples:
        >>> count_windows((138, 169, 138), (128, 128, 128)), count_windows((10, 256, 256), (256, 256))
        (8, 10)
    """
    slices = math.ceil(image_shape[0]) if len(patch_size) == 2 else 1
    in_patch_axes = image_shape[-len(patch_size) :]
    return slices * math.prod(
        count_steps(size, edge, overlap) + 1 for size, edge in zip(in_patch_axes, patch_size, strict=True)
    )


def count_steps(size: float, edge: int, overlap: float) -> int:
    """Steps from the first to the last window along one axis; 0 where one window covers it.

    Args:
        size: Voxels of the image along the axis.
        edge: Voxels of a window.
        overlap: Least fraction of a window that it has in common with the next one, [0, 1).
    """
    return max(math.ceil((size - edge) / (edge * (1 - overlap))), 0)
