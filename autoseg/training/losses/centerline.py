"""Centre lines: how much of the prediction's lies in the reference, and of the reference's in the prediction.

Erosion and dilation are minima and maxima of neighbouring voxels, so the centre line of probabilities has a gradient.
They are taken of shifted views, not by pooling, whose backward pass would keep an eight-byte index for each voxel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from autoseg.training.losses.level import Level, mean_of, mean_over_classes
from autoseg.training.losses.maps import maps_of_level, tubed_skeleton
from autoseg.training.losses.overlap import SMOOTHING

SKELETON_EROSIONS: Final = 3
"""Default of the authors' code. Structures more than twice as wide, in voxels of the level, keep little of a centre."""

CENTERLINE_SMOOTHING: Final = 1.0
"""Voxels, added above and below both fractions: the default of the authors' code."""


@dataclass(frozen=True)
class CenterlineTerm:
    """One minus the centre line Dice: mean over classes, and over samples unless `batch_dice`.

    Every level has its own centre lines, in its own voxels. Ignored voxels are like those outside the patch: no
    structure ends at them. A class without a centre line, in reference and prediction, has the loss 0.

    References:
        Shit et al., clDice - a novel topology-preserving loss function for tubular structure segmentation, 2021.
        Differs: one index for each class; smoothing by one voxel is that of the authors' code.
    """

    batch_dice: bool
    """The index of the whole batch instead of each sample's."""

    def sums(self, level: Level) -> Tensor:
        """Four sums over voxels, (4, F), with `batch_dice`; else the summed losses and their number, (2,)."""
        sums = torch.stack([_sums_of_class(level, index) for index in range(level.probabilities.shape[1])], dim=2)
        if self.batch_dice:
            return level.with_counts(list(sums.sum(dim=1)))
        return level.sum_over_classes(_centerline_loss(sums))

    def value(self, sums: Tensor) -> Tensor:
        """Take the mean over classes, or over classes and samples."""
        if self.batch_dice:
            return mean_over_classes(_centerline_loss(sums[:4]), sums[4:])
        return mean_of(sums)


@dataclass(frozen=True)
class SkeletonRecallTerm:
    """One minus the part of the reference's tubed skeleton that is found: mean over classes, and over samples.

    Every level has its own skeletons, in its own voxels. A class absent from the patch has the loss 0. False positives
    cost nothing, so it only goes with a term of overlap.

    References:
        Kirchhoff et al., Skeleton recall loss for connectivity conserving and resource efficient segmentation of thin
        tubular structures, 2024. Differs: see `tubed_skeleton`; one is added, so that the best loss is 0.
    """

    batch_dice: bool
    """The recall of the whole batch instead of each sample's."""

    def sums(self, level: Level) -> Tensor:
        """Skeleton found and skeleton, (2, F), with `batch_dice`; else the summed losses and their number, (2,)."""
        skeletons = maps_of_level(level, tubed_skeleton)
        found = (level.probabilities * skeletons).sum(dim=2)  # (B, F)
        whole = skeletons.sum(dim=2)
        if self.batch_dice:
            return level.with_counts([found.sum(dim=0), whole.sum(dim=0)])
        return level.sum_over_classes(_missed(found, whole))

    def value(self, sums: Tensor) -> Tensor:
        """Take the mean over classes, or over classes and samples."""
        if self.batch_dice:
            return mean_over_classes(_missed(sums[0], sums[1]), sums[2:])
        return mean_of(sums)


def _missed(found: Tensor, whole: Tensor) -> Tensor:
    return 1.0 - (found + SMOOTHING) / (whole + SMOOTHING)


def _sums_of_class(level: Level, index: int) -> Tensor:
    """Sums over voxels of one class or region, (4, B).

    The prediction's centre line inside the reference, and all of it; the reference's inside the prediction, and all of
    it. The backward pass computes centre lines again, one class at a time, so that a step needs the memory of one:
    some 370 bytes per voxel of a batch in 3D.
    """
    shape = (-1, *level.spatial_shape)
    probabilities, reference = level.probabilities[:, index], level.reference[:, index].to(level.probabilities.dtype)
    mask = None
    if level.annotated is not None:
        of_class = level.annotated[:, index if level.annotated.shape[1] > 1 else 0]
        mask = of_class.to(probabilities.dtype).view(shape)
    predicted_line: Tensor = checkpoint(
        soft_skeleton, probabilities.view(shape), mask, use_reentrant=False, preserve_rng_state=False
    )
    lines = torch.stack([predicted_line, soft_skeleton(reference.view(shape), mask)]).flatten(2)  # (2, B, V)
    inside = (lines * torch.stack([reference, probabilities])).sum(dim=2)
    total = lines.sum(dim=2)
    return torch.stack([inside[0], total[0], inside[1], total[1]])


def _centerline_loss(sums: Tensor) -> Tensor:
    """One minus the harmonic mean of topology precision and sensitivity, from four sums, (4, ...)."""
    precision = (sums[0] + CENTERLINE_SMOOTHING) / (sums[1] + CENTERLINE_SMOOTHING)
    sensitivity = (sums[2] + CENTERLINE_SMOOTHING) / (sums[3] + CENTERLINE_SMOOTHING)
    return 1.0 - 2.0 * precision * sensitivity / (precision + sensitivity)


def soft_skeleton(mask: Tensor, annotated: Tensor | None, erosions: int = SKELETON_EROSIONS) -> Tensor:
    """What an opening removes from a mask, and from the mask eroded once, twice, ...: its centre line.

    Args:
        mask: Probabilities or a reference, 0 on ignored voxels, (B, *S), one to three spatial axes.
        annotated: 0 on ignored voxels, which hide their neighbours' borders, 1 elsewhere, (B, *S); None: all count.
        erosions: How often the mask is eroded; about the largest radius of a structure, in voxels.

    Returns:
        (B, *S), in [0, 1] if the mask is; 0 on ignored voxels.

    References:
        Shit et al., 2021, algorithm 1. As in the authors' code, erosion takes the minimum along each axis, dilation
        the maximum of all neighbours.
    """
    skeleton = _removed_by_opening(mask, annotated)
    for _ in range(erosions):
        mask = _erode(mask, annotated)
        removed = _removed_by_opening(mask, annotated)
        skeleton = skeleton + removed * (1.0 - skeleton)
    return skeleton


def _removed_by_opening(mask: Tensor, annotated: Tensor | None) -> Tensor:
    dilated = _erode(mask, annotated)
    for axis in range(1, mask.ndim):
        dilated = _extreme_of_three(dilated, axis, torch.maximum)
    removed = (mask - dilated).relu()
    return removed if annotated is None else removed * annotated


def _erode(mask: Tensor, annotated: Tensor | None) -> Tensor:
    # an ignored voxel is 1 while minima are taken, and 0 while maxima are: neither can be one
    filled = mask if annotated is None else mask + (1.0 - annotated)
    eroded = filled
    for axis in range(1, mask.ndim):
        eroded = torch.minimum(eroded, _extreme_of_three(filled, axis, torch.minimum))
    return eroded if annotated is None else eroded * annotated


def _extreme_of_three(values: Tensor, axis: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The minimum or maximum of each voxel and its two neighbours along an axis; at the ends there is one."""
    length = values.shape[axis]
    if length == 1:
        return values
    pairs = extreme(values.narrow(axis, 0, length - 1), values.narrow(axis, 1, length - 1))
    inner = extreme(pairs.narrow(axis, 0, length - 2), pairs.narrow(axis, 1, length - 2))
    return torch.cat([pairs.narrow(axis, 0, 1), inner, pairs.narrow(axis, length - 2, 1)], dim=axis)
