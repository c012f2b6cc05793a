"""Cross-entropy and its relatives: means over annotated voxels of a function of -ln p, p the true class' probability.

All classes take part, the background as well. Regions: means over regions too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor

from autoseg.training.losses.level import Level, fractional_power, mean_of
from autoseg.training.losses.overlap import EXP_LOG_EXPONENT

FOREGROUND_WEIGHT: Final = 2.0
"""Weight of foreground in weighted cross-entropy. Above 1: less foreground is missed, more is false."""

HARDEST_PERCENT: Final = 10
"""Percentage of a sample's annotated voxels that count, as in nnU-Net v2."""

FOCAL_EXPONENT: Final = 2.0
"""Gamma, Lin et al. (2017), best of their series."""

Number = TypeVar("Number", int, Tensor)


@dataclass(frozen=True)
class EntropyTerm:
    """Mean over annotated voxels, 0 when there is none."""

    loss: Callable[[Tensor], Tensor]
    """Function of -ln p; 0 at 0, because ignored voxels hold 0."""

    def sums(self, level: Level) -> Tensor:
        """Sum the loss and count the decisions, (2,)."""
        losses = self.loss(level.negative_log_likelihood)
        count = losses.new_full((), losses.numel())
        if level.annotated is not None:
            count = level.annotated.expand_as(losses).sum().to(losses.dtype)
        return torch.stack([losses.sum(), count])

    def value(self, sums: Tensor) -> Tensor:
        """Take the mean."""
        return mean_of(sums)


@dataclass(frozen=True)
class ClassWeightedTerm:
    """Mean over annotated voxels, each weighted by its true class; 0 when there is none."""

    loss: Callable[[Tensor], Tensor]
    """Function of -ln p."""
    weights: Callable[[Tensor], Tensor]
    """Weights of the classes, given their numbers of voxels in the batch; both (D, C)."""

    def sums(self, level: Level) -> Tensor:
        """Sum the loss and count the voxels of each class in each decision, (2, D, C)."""
        losses = self.loss(level.negative_log_likelihood)  # (B, D, V)
        summed, counts = [], []
        for index in range(level.num_classes):
            members = level.classes == index
            if level.annotated is not None:
                members = members & level.annotated
            summed.append(losses.masked_fill(~members, 0.0).sum(dim=(0, 2)))
            counts.append(members.sum(dim=(0, 2)).to(losses.dtype))
        return torch.stack([torch.stack(summed, dim=1), torch.stack(counts, dim=1)])

    def value(self, sums: Tensor) -> Tensor:
        """Weigh the classes and take the mean over voxels, and over decisions."""
        summed, counts = sums
        return mean_of(torch.stack([(self.weights(counts) * summed).sum(), counts.sum()]))


@dataclass(frozen=True)
class HardestVoxelsTerm:
    """Mean -ln p over the hardest tenth of each sample's annotated voxels (each region's, for regions); 0 for none.

    References:
        Wu et al., Bridging category-level and instance-level semantic image segmentation, 2016; nnU-Net v2 (Isensee et
        al. 2021). Differs: the hardest of each sample, not of the batch, so that no process needs another one's
        voxels; a tenth of the annotated voxels, not of all, rounded up.
    """

    def sums(self, level: Level) -> Tensor:
        """Sum the loss of the hardest voxels and count them, (2,)."""
        losses = level.negative_log_likelihood  # (B, D, V)
        if level.annotated is not None:
            losses = losses.masked_fill(~level.annotated, -1.0)  # after every annotated voxel
        hardest = losses.topk(_hardest_of(losses.shape[2]), dim=2).values  # largest first
        numbers = _hardest_of(level.annotated_per_sample()).expand(losses.shape[:2])
        is_taken = torch.arange(hardest.shape[2], device=hardest.device) < numbers.unsqueeze(2)
        summed = hardest.masked_fill(~is_taken, 0.0).sum()
        return torch.stack([summed, numbers.sum().to(losses.dtype)])

    def value(self, sums: Tensor) -> Tensor:
        """Take the mean."""
        return mean_of(sums)


def plain(negative_log_likelihood: Tensor) -> Tensor:
    """Leave -ln p as it is."""
    return negative_log_likelihood


def focal(negative_log_likelihood: Tensor) -> Tensor:
    """-(1 - p)^2 ln p.

    References:
        Lin et al., Focal loss for dense object detection, 2017. Differs: without the class weight alpha; averaged over
        voxels, not over foreground voxels.
    """
    error = -torch.expm1(-negative_log_likelihood)  # 1 - p, exact for p near 1
    return error**FOCAL_EXPONENT * negative_log_likelihood


def exp_log_entropy(negative_log_likelihood: Tensor) -> Tensor:
    """(-ln p)^0.3, the cross-entropy term of the exponential logarithmic loss.

    References:
        Wong et al., 3D segmentation with exponential logarithmic loss for highly unbalanced object sizes, 2018.
    """
    return fractional_power(negative_log_likelihood, EXP_LOG_EXPONENT)


def foreground_weights(counts: Tensor) -> Tensor:
    """1 for the background (outside), `FOREGROUND_WEIGHT` for every other class.

    References:
        Weighted cross-entropy of two classes, -[beta y ln p + (1 - y) ln(1 - p)]; here for any number of classes.
    """
    weights = torch.full_like(counts, FOREGROUND_WEIGHT)
    weights[:, 0] = 1.0
    return weights


def balancing_weights(counts: Tensor) -> Tensor:
    """Fraction of the batch's voxels that are of another class.

    References:
        Xie and Tu, Holistically-nested edge detection, 2015: the background's share for the foreground and the
        foreground's for the background. Differs: for any number of classes; over the batch, not per image.
    """
    return 1.0 - counts / counts.sum(dim=1, keepdim=True).clamp_min(1.0)


def rarity_weights(counts: Tensor) -> Tensor:
    """Square root of 1 / (fraction of the batch's voxels); 0 for absent classes, which no voxel asks for.

    References:
        Wong et al. (2018), see `exp_log_entropy`. Differs: shares in the batch, not in the training set.
    """
    rarity = counts.sum(dim=1, keepdim=True) / counts.clamp_min(1.0)
    return torch.where(counts > 0.0, rarity, 0.0).sqrt()


def _hardest_of(voxels: Number) -> Number:
    """Give a tenth, rounded up: 1 of 1, 0 of 0."""
    return (voxels * HARDEST_PERCENT + 99) // 100
