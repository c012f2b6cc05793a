"""Shapes of resampled images and numbers of windows, by which planning, preprocessing and prediction count alike."""

import math
from collections.abc import Sequence

from autoseg.records.case import Spacing, Triple
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan

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


def prediction_macs(plan: Plan, fingerprint: Fingerprint, name: str) -> int:
    """Multiply-accumulates of one network of a configuration, and of the cascade steps before it, on the median case.

    Args:
        plan: Plan with the configuration.
        fingerprint: Training cases; the one with the median number of voxels counts.
        name: Configuration name.

    Returns:
        Multiply-accumulates of all windows and their mirrored variants; 0 if the plan does not say what a window costs.
    """
    configuration = plan.configurations[name]
    ranked = sorted(fingerprint.cases, key=lambda case: math.prod(case.cropped_shape))
    shape = _planned_shape(ranked[len(ranked) // 2], plan.transpose, configuration.spacing)
    windows = count_windows(shape, configuration.patch_size) << len(configuration.training.mirror_axes)
    previous = configuration.previous_configuration
    earlier = 0 if previous is None else prediction_macs(plan, fingerprint, previous)
    return earlier + windows * configuration.estimates.macs


def _planned_shape(case: CaseFingerprint, transpose: Triple, target: tuple[float, ...]) -> Triple:
    """Shape at the target spacing in voxels; a spacing of two axes keeps the slices."""
    z, y, x = transpose
    shape = (case.cropped_shape[z], case.cropped_shape[y], case.cropped_shape[x])
    spacing = (case.spacing[z], case.spacing[y], case.spacing[x])
    first, second, third = (*spacing[: 3 - len(target)], *target)
    return resampled_shape(shape, spacing, (first, second, third))
