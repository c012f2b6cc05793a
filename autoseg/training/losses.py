"""How far logits are from the truth: Dice and cross-entropy, for labels and for regions, at one or several levels.

All losses compute in float32 whatever the type of the logits, autocast or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.training.targets import downsample_target, region_target

DICE_SMOOTHING: Final = 1e-5
"""Voxels, added above and below the fraction: a class absent from truth and prediction scores 1."""

SMALLEST_DENOMINATOR: Final = 1e-8


@dataclass(frozen=True)
class SegmentationLoss:
    """The loss of a dataset's label encoding, summed over the network's outputs; made by `build_loss`."""

    encoding: LabelEncoding
    batch_dice: bool
    """Dice over the whole batch instead of per sample."""
    weights: tuple[float, ...]
    """Per output, full resolution first."""

    def __call__(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Compare logits with label indices.

        Args:
            outputs: Logits, full resolution first, (B, K, *S) each; one tensor alone counts as full resolution
                with weight 1, whatever `weights` says.
            target: Label indices 0..K at full resolution, len(encoding.values) on ignored voxels, (B, *S), integer.

        Returns:
            A float32 scalar; outputs of weight 0 get no gradient.

        Raises:
            ValueError: If the number of outputs is not the number of weights.
        """
        if isinstance(outputs, Tensor):
            return self._at_one_level(outputs, target)
        if len(outputs) != len(self.weights):
            raise ValueError(f"{len(outputs)} outputs of the network, but {len(self.weights)} weights of the loss")
        terms = [
            weight * self._at_one_level(logits, target)
            for logits, weight in zip(outputs, self.weights, strict=True)
            if weight > 0.0
        ]
        return torch.stack(terms).sum()

    def _at_one_level(self, logits: Tensor, target: Tensor) -> Tensor:
        target = downsample_target(target, logits.shape[2:])
        match self.encoding.activation:
            case "softmax":
                ignore_index = None if self.encoding.ignore_value is None else len(self.encoding.values)
                return dice_and_cross_entropy(
                    logits, target.long(), batch_dice=self.batch_dice, ignore_index=ignore_index
                )
            case "sigmoid":
                regions, annotated = region_target(target, self.encoding)
                return dice_and_binary_cross_entropy(logits, regions, annotated, batch_dice=self.batch_dice)


def build_loss(encoding: LabelEncoding, *, batch_dice: bool, num_outputs: int) -> SegmentationLoss:
    """Make the loss for a network with `num_outputs` outputs (1 without deep supervision)."""
    return SegmentationLoss(encoding, batch_dice, deep_supervision_weights(num_outputs))


def deep_supervision_weights(num_outputs: int) -> tuple[float, ...]:
    """Weights of the outputs' losses, full resolution first: halved from level to level, none for the lowest, sum 1.

    Five outputs: 1, 1/2, 1/4, 1/8, 0, divided by 1.875 = 0.533, 0.267, 0.133, 0.067, 0. One output: 1.

    Raises:
        ValueError: If there is no output.

    References:
        nnU-Net v2 (Isensee et al. 2021). Differs: a single output keeps its weight instead of losing it as the lowest.
    """
    if num_outputs < 1:
        raise ValueError(f"a network has at least one output, not {num_outputs}")
    if num_outputs == 1:
        return (1.0,)
    raw = [0.5**level for level in range(num_outputs - 1)]
    return (*(weight / sum(raw) for weight in raw), 0.0)


def dice_and_cross_entropy(logits: Tensor, target: Tensor, *, batch_dice: bool, ignore_index: int | None) -> Tensor:
    """Cross-entropy minus mean soft Dice of the foreground classes, for labels that exclude each other.

    Args:
        logits: (B, K, *S), background first.
        target: Class of every voxel, 0..K - 1 or `ignore_index`, (B, *S) int64.
        batch_dice: Dice over the whole batch instead of per sample.
        ignore_index: Value of voxels that count nowhere; None: every voxel counts.

    Returns:
        A float32 scalar in [-1, inf). Cross-entropy is the mean over annotated voxels, 0 when there is none.

    References:
        nnU-Net v2 (Isensee et al. 2021), compound loss; as published.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_probabilities = F.log_softmax(logits.float().flatten(2), dim=1)  # (B, K, V)
        target = target.flatten(1).unsqueeze(1)  # (B, 1, V)
        # Equality with each class leaves ignored voxels out by itself; booleans are a quarter of a float one-hot map.
        classes = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, 1)
        reference = target == classes  # (B, K - 1, V)
        foreground = log_probabilities[:, 1:].exp()
        if ignore_index is None:
            cross_entropy = -log_probabilities.gather(1, target).mean()
        else:
            annotated = target != ignore_index
            own = log_probabilities.gather(1, target.masked_fill(~annotated, 0))
            cross_entropy = -own.masked_fill(~annotated, 0.0).sum() / annotated.sum().clamp_min(1)
            foreground = foreground * annotated
        return cross_entropy - _mean_soft_dice(foreground, reference, batch_dice=batch_dice)


def dice_and_binary_cross_entropy(logits: Tensor, target: Tensor, mask: Tensor | None, *, batch_dice: bool) -> Tensor:
    """Binary cross-entropy minus mean soft Dice of all heads, for regions that may overlap.

    Args:
        logits: (B, R, *S).
        target: 1 inside the region and 0 outside, (B, R, *S) float.
        mask: 1 where the truth is known and 0 elsewhere, (B, 1, *S) float; None: known everywhere.
        batch_dice: Dice over the whole batch instead of per sample.

    Returns:
        A float32 scalar in [-1, inf). Cross-entropy is the mean over regions and annotated voxels, 0 when there is
        none.

    References:
        nnU-Net v2 (Isensee et al. 2021), loss of region-based training. Differs: with an ignore label the
        cross-entropy is divided by the number of regions too, so that it stays a mean.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float().flatten(2), target.float().flatten(2)  # (B, R, V)
        probabilities = torch.sigmoid(logits)
        if mask is None:
            cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
        else:
            mask = mask.float().flatten(2)
            summed = F.binary_cross_entropy_with_logits(logits, target, mask.expand_as(logits), reduction="sum")
            cross_entropy = summed / (mask.sum() * logits.shape[1]).clamp_min(1.0)
            probabilities, target = probabilities * mask, target * mask
        return cross_entropy - _mean_soft_dice(probabilities, target, batch_dice=batch_dice)


def _mean_soft_dice(probabilities: Tensor, reference: Tensor, *, batch_dice: bool) -> Tensor:
    """Mean over classes, and over samples unless `batch_dice`; both (B, K, V), zero on ignored voxels."""
    overlap = (probabilities * reference).sum(dim=2)  # (B, K)
    total = probabilities.sum(dim=2) + reference.sum(dim=2)
    if batch_dice:
        overlap, total = overlap.sum(dim=0), total.sum(dim=0)
    dice = (2.0 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING).clamp_min(SMALLEST_DENOMINATOR)
    return dice.mean()
