"""Dice over random validation patches: how training goes, epoch by epoch; not the fold's score."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.training.distributed import Ranks
from autoseg.training.losses.level import region_target
from autoseg.training.losses.partial_labels import split_target

MOVING_AVERAGE_DECAY: Final = 0.9
"""Fraction of the old average that an epoch keeps (nnU-Net v2)."""


class PseudoDice:
    """Counts agreeing and differing voxels per foreground head over the validation batches of one epoch.

    A head that was not looked for in a sample is not counted there.

    References:
        nnU-Net v2 (Isensee et al. 2021), online evaluation during training. Differs: a label that is neither in the
        patches nor predicted has no value instead of a division by zero.
    """

    def __init__(self, encoding: LabelEncoding) -> None:
        self._encoding = encoding
        heads = encoding.heads[1:] if encoding.activation == "softmax" else encoding.heads
        self._names = tuple(head.name for head in heads)
        self._counted: list[Tensor] = []

    @property
    def counts(self) -> Tensor:
        """True positives, false positives, false negatives by foreground head, (3, F), on the CPU."""
        if not self._counted:
            return torch.zeros(3, len(self._names), dtype=torch.int64)
        return torch.stack(self._counted).sum(dim=0).cpu()

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Count one batch; the counts stay where it is, so that nobody waits for a GPU.

        Args:
            logits: At full resolution, (B, K, *S).
            target: Label indices, len(encoding.values) on ignored voxels, (B, *S), integer.
        """
        self._counted.append(self._count(logits, target))

    def sum_over(self, ranks: Ranks) -> None:
        """Take in what the other processes have counted on their parts of the batches."""
        self._counted = [ranks.sum(self.counts)]

    def dice(self) -> dict[str, float | None]:
        """2 TP / (2 TP + FP + FN) by name, [0, 1]; None for a label neither present nor predicted."""
        return {
            name: 2 * hits / total if (total := 2 * hits + false_alarms + misses) else None
            for name, hits, false_alarms, misses in zip(self._names, *self.counts.tolist(), strict=True)
        }

    def _count(self, logits: Tensor, target: Tensor) -> Tensor:
        indices, looked_for = split_target(target, self._encoding)
        if looked_for is None:
            return self._count_all(logits, indices)
        counted = looked_for[:, -len(self._names) :]  # a softmax begins with its background
        samples = zip(torch.split(logits, 1), torch.split(indices, 1), counted, strict=True)
        return torch.stack([self._count_all(*sample) * is_counted for *sample, is_counted in samples]).sum(dim=0)

    def _count_all(self, logits: Tensor, target: Tensor) -> Tensor:
        match self._encoding.activation:
            case "softmax":
                return self._count_labels(logits, target)
            case "sigmoid":
                return self._count_regions(logits, target)

    def _count_labels(self, logits: Tensor, target: Tensor) -> Tensor:
        num_heads = logits.shape[1]
        pairs = target.long() * num_heads + logits.argmax(dim=1)
        ignored = target >= num_heads  # the ignore index is the first one without a head
        pairs = pairs.masked_fill_(ignored, num_heads**2).flatten()
        counts = torch.zeros(num_heads**2 + 1, dtype=torch.int64, device=pairs.device)
        counts.scatter_add_(0, pairs, torch.ones_like(pairs))
        confusion = counts[:-1].view(num_heads, num_heads)  # row: reference, column: prediction
        hits = confusion.diagonal()
        return torch.stack((hits, confusion.sum(dim=0) - hits, confusion.sum(dim=1) - hits))[:, 1:]

    def _count_regions(self, logits: Tensor, target: Tensor) -> Tensor:
        regions, mask = region_target(target, self._encoding)
        predicted, reference = logits > 0.0, regions > 0.0  # a probability above 0.5 is a logit above 0
        annotated = torch.ones_like(predicted) if mask is None else mask > 0.0
        voxels = (0, *range(2, logits.ndim))
        return torch.stack(
            [
                (first & second & annotated).sum(dim=voxels)
                for first, second in ((predicted, reference), (predicted, ~reference), (~predicted, reference))
            ]
        )


def mean_dice(dice: Mapping[str, float | None]) -> float | None:
    """Mean over the labels that have a value; None if none has."""
    values = [value for value in dice.values() if value is not None]
    return sum(values) / len(values) if values else None


def moving_average(average: float | None, value: float | None) -> float | None:
    """Take an epoch's mean Dice into the exponential moving average over epochs.

    The first value is the first average; an epoch without value leaves the average as it is.

    References:
        nnU-Net v2 (Isensee et al. 2021). Differs: an epoch without value does not spoil all later averages.
    """
    if value is None:
        return average
    if average is None:
        return value
    return MOVING_AVERAGE_DECAY * average + (1.0 - MOVING_AVERAGE_DECAY) * value
