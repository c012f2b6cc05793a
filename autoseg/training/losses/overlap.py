"""Dice and its relatives: fractions of sums over voxels, one per foreground class or region.

The background of a softmax has no part in them: it would say again what the foreground classes say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from autoseg.training.losses.level import Level, fractional_power, mean_of, mean_over_classes

SMOOTHING: Final = 1e-5
"""Voxels, added above and below the fraction: a class absent from reference and prediction scores 1 (nnU-Net v2)."""

EXP_LOG_SMOOTHING: Final = 1.0
"""Voxels; the pseudo-count of Wong et al. (2018), without which the logarithm of a class not found is enormous."""

EXP_LOG_EXPONENT: Final = 0.3
"""Gamma of Wong et al. (2018), of both terms."""

FALSE_POSITIVE_WEIGHT: Final = 0.3
"""Salehi et al. (2017), best of their series; false negatives weigh 1 - 0.3."""

FOCAL_TVERSKY_EXPONENT: Final = 3 / 4
"""1 / gamma with gamma = 4/3, Abraham and Khan (2018)."""

Index = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Overlap, total and reference, (..., F) each, to fractions in [0, 1], (..., F) or (..., 1)."""


@dataclass(frozen=True)
class OverlapTerm:
    """Mean loss over classes, and over samples unless `batch_dice`."""

    index: Index
    loss: Callable[[Tensor], Tensor]
    """Loss of an index."""
    batch_dice: bool
    """The index of the whole batch instead of each sample's."""

    def sums(self, level: Level) -> Tensor:
        """Overlap, total and reference, (3, F), with `batch_dice`; else the summed losses and their number, (2,)."""
        overlap = (level.probabilities * level.reference).sum(dim=2)  # (B, F)
        reference = level.reference.sum(dim=2)
        total = level.probabilities.sum(dim=2) + reference
        if self.batch_dice:
            return level.with_counts([overlap.sum(dim=0), total.sum(dim=0), reference.sum(dim=0)])
        return level.sum_over_classes(self.loss(self.index(overlap, total, reference)))

    def value(self, sums: Tensor) -> Tensor:
        """Take the mean over classes, or over classes and samples."""
        if self.batch_dice:
            return mean_over_classes(self.loss(self.index(*sums[:3])), sums[3:])
        return mean_of(sums)


def dice_index(overlap: Tensor, total: Tensor, _reference: Tensor) -> Tensor:
    """Soft Dice.

    References:
        Milletari et al., V-Net, 2016; with the plain denominator of nnU-Net v2 (Isensee et al. 2021).
    """
    return (2.0 * overlap + SMOOTHING) / (total + SMOOTHING)


def tversky_index(overlap: Tensor, total: Tensor, reference: Tensor) -> Tensor:
    """Overlap / (overlap + 0.3 false positives + 0.7 false negatives).

    References:
        Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional deep networks, 2017.
    """
    # The two weights have the sum 1, so the overlap cancels out of the denominator.
    mixed = FALSE_POSITIVE_WEIGHT * (total - reference) + (1.0 - FALSE_POSITIVE_WEIGHT) * reference
    return (overlap + SMOOTHING) / (mixed + SMOOTHING)


def generalized_dice_index(overlap: Tensor, total: Tensor, reference: Tensor) -> Tensor:
    """Dice of all classes together, each weighted with 1 / (its reference voxels) squared, (..., 1).

    A class without reference weighs as much as the rarest one that has some; without any reference all weigh the same.

    References:
        Sudre et al., Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations,
        2017. Differs: no background class; absent classes have a finite weight; the weights are divided by the largest
        one, which changes nothing but the unit of the smoothing.
    """
    is_present = reference > 0
    rarest = torch.where(is_present, reference, torch.inf).amin(dim=-1, keepdim=True)
    weights = torch.where(is_present, rarest / reference.clamp_min(1), 1.0) ** 2
    overlap, total = (weights * overlap).sum(dim=-1, keepdim=True), (weights * total).sum(dim=-1, keepdim=True)
    return (2.0 * overlap + SMOOTHING) / (total + SMOOTHING)


def exp_log_index(overlap: Tensor, total: Tensor, _reference: Tensor) -> Tensor:
    """Soft Dice with a pseudo-count of one voxel; never 0."""
    return (2.0 * overlap + EXP_LOG_SMOOTHING) / (total + EXP_LOG_SMOOTHING)


def one_minus(index: Tensor) -> Tensor:
    """Turn an index in [0, 1] into a loss in [0, 1]."""
    return 1.0 - index


def focal_tversky_loss(index: Tensor) -> Tensor:
    """(1 - index)^(3/4).

    References:
        Abraham and Khan, A novel focal Tversky loss function with improved attention U-Net for lesion segmentation,
        2018.
    """
    return fractional_power(1.0 - index, FOCAL_TVERSKY_EXPONENT)


def exp_log_dice_loss(index: Tensor) -> Tensor:
    """(-ln index)^0.3, the Dice term of the exponential logarithmic loss.

    References:
        Wong et al., 3D segmentation with exponential logarithmic loss for highly unbalanced object sizes, 2018.
    """
    return fractional_power(-torch.log(index), EXP_LOG_EXPONENT)
