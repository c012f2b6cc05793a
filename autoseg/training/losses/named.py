"""The terms of each loss by name; `batch_dice`: indices of overlap over the whole batch instead of per sample.

Tested in tests/training/losses/test_build.py.
"""

from typing import Final

import torch

from autoseg.training.losses.boundary import BoundaryTerm
from autoseg.training.losses.centerline import CenterlineTerm, SkeletonRecallTerm
from autoseg.training.losses.entropy import (
    ClassWeightedTerm,
    EntropyTerm,
    HardestVoxelsTerm,
    balancing_weights,
    exp_log_entropy,
    focal,
    foreground_weights,
    plain,
    rarity_weights,
)
from autoseg.training.losses.level import WeightedTerm
from autoseg.training.losses.overlap import (
    OverlapTerm,
    dice_index,
    exp_log_dice_loss,
    exp_log_index,
    focal_tversky_loss,
    generalized_dice_index,
    one_minus,
    tversky_index,
)

MIN_REGIONAL_WEIGHT: Final = 0.01
"""Weight of Dice and cross-entropy in the boundary loss at the end; Kervadec et al. (2019)."""

EXP_LOG_DICE_WEIGHT: Final = 0.8
"""Cross-entropy has the rest; Wong et al. (2018)."""

CENTERLINE_WEIGHT: Final = 0.5
"""Dice has the rest; alpha of Shit et al. (2021), by default of their code."""

Terms = tuple[WeightedTerm, ...]


def dice_ce_terms(batch_dice: bool) -> Terms:
    """Cross-entropy minus the Dice index, as published with nnU-Net v2; not 0 at best, but -1."""
    return WeightedTerm(EntropyTerm(plain)), WeightedTerm(OverlapTerm(dice_index, torch.neg, batch_dice))


def dice_terms(batch_dice: bool) -> Terms:
    """One minus the Dice index."""
    return (WeightedTerm(OverlapTerm(dice_index, one_minus, batch_dice)),)


def tversky_terms(batch_dice: bool) -> Terms:
    """One minus the Tversky index."""
    return (WeightedTerm(OverlapTerm(tversky_index, one_minus, batch_dice)),)


def focal_tversky_terms(batch_dice: bool) -> Terms:
    """A power of one minus the Tversky index."""
    return (WeightedTerm(OverlapTerm(tversky_index, focal_tversky_loss, batch_dice)),)


def generalized_dice_terms(batch_dice: bool) -> Terms:
    """One minus the generalised Dice index."""
    return (WeightedTerm(OverlapTerm(generalized_dice_index, one_minus, batch_dice)),)


def ce_terms(_batch_dice: bool) -> Terms:
    """Cross-entropy."""
    return (WeightedTerm(EntropyTerm(plain)),)


def focal_terms(_batch_dice: bool) -> Terms:
    """Cross-entropy with less weight on voxels that are right already."""
    return (WeightedTerm(EntropyTerm(focal)),)


def weighted_ce_terms(_batch_dice: bool) -> Terms:
    """Cross-entropy with more weight on foreground."""
    return (WeightedTerm(ClassWeightedTerm(plain, foreground_weights)),)


def balanced_ce_terms(_batch_dice: bool) -> Terms:
    """Cross-entropy with weights that balance the classes of a batch."""
    return (WeightedTerm(ClassWeightedTerm(plain, balancing_weights)),)


def topk_ce_terms(_batch_dice: bool) -> Terms:
    """Cross-entropy of the hardest voxels."""
    return (WeightedTerm(HardestVoxelsTerm()),)


def dice_topk_terms(batch_dice: bool) -> Terms:
    """Sum of Dice loss and cross-entropy of the hardest voxels."""
    return dice_terms(batch_dice) + topk_ce_terms(batch_dice)


def dice_focal_terms(batch_dice: bool) -> Terms:
    """Sum of Dice loss and focal loss."""
    return dice_terms(batch_dice) + focal_terms(batch_dice)


def exp_log_terms(batch_dice: bool) -> Terms:
    """Exponential logarithmic loss, weighted as by Wong et al. (2018)."""
    log_dice = OverlapTerm(exp_log_index, exp_log_dice_loss, batch_dice)
    log_entropy = ClassWeightedTerm(exp_log_entropy, rarity_weights)
    rest = 1.0 - EXP_LOG_DICE_WEIGHT
    return WeightedTerm(log_dice, EXP_LOG_DICE_WEIGHT, EXP_LOG_DICE_WEIGHT), WeightedTerm(log_entropy, rest, rest)


def boundary_terms(batch_dice: bool) -> Terms:
    """Boundary loss that replaces Dice and cross-entropy over the training, as by Kervadec et al. (2019)."""
    return (
        WeightedTerm(OverlapTerm(dice_index, one_minus, batch_dice), 1.0, MIN_REGIONAL_WEIGHT),
        WeightedTerm(EntropyTerm(plain), 1.0, MIN_REGIONAL_WEIGHT),
        WeightedTerm(BoundaryTerm(), 0.0, 1.0 - MIN_REGIONAL_WEIGHT),
    )


def cldice_terms(batch_dice: bool) -> Terms:
    """Half Dice, half centre line Dice, as by Shit et al. (2021), and cross-entropy."""
    rest = 1.0 - CENTERLINE_WEIGHT
    return (
        WeightedTerm(OverlapTerm(dice_index, one_minus, batch_dice), rest, rest),
        WeightedTerm(EntropyTerm(plain)),
        WeightedTerm(CenterlineTerm(batch_dice), CENTERLINE_WEIGHT, CENTERLINE_WEIGHT),
    )


def skeleton_recall_terms(batch_dice: bool) -> Terms:
    """Sum of Dice loss, cross-entropy and skeleton recall, as by Kirchhoff et al. (2024)."""
    return (*dice_terms(batch_dice), *ce_terms(batch_dice), WeightedTerm(SkeletonRecallTerm(batch_dice)))
