"""Which terms a loss has, and how they are added up over terms, levels and processes.

All losses compute in float32 whatever the type of the logits, in autocast too, which leaves their operations alone.
Terms of overlap (Dice, Tversky, boundary, centre lines) leave out the background of a softmax; terms of entropy include
it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from operator import add

import torch
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.records.losses import LOSS_MODULES, LossName
from autoseg.training.losses.entropy import EntropyTerm, plain
from autoseg.training.losses.level import Level, WeightedTerm, build_level

Reduce = Callable[[Tensor], Tensor]
"""Sum a tensor over all processes, differentiably; every process gets the same sum."""


@dataclass(frozen=True)
class SegmentationLoss:
    """A loss for a dataset's label encoding, summed over the network's outputs; made by `build_loss`."""

    encoding: LabelEncoding
    terms: tuple[WeightedTerm, ...]
    level_weights: tuple[float, ...]
    """Weight of each output, full resolution first."""
    across_ranks: Reduce
    point_terms: tuple[WeightedTerm, ...] = ()
    """Terms for the points of a network with a point head; none: it has no points."""

    def __call__(
        self,
        outputs: Tensor | Sequence[Tensor],
        target: Tensor,
        progress: float = 1.0,
        maps: Sequence[Tensor] = (),
    ) -> Tensor:
        """Compare logits with label indices.

        Args:
            outputs: Logits, full resolution first, (B, K, *S) each; one tensor alone counts as full resolution
                with weight 1, whatever `level_weights` says. With a point head the coarse level comes first, and last
                the logits of the points, (B, K, P), and their voxels, (B, P).
            target: Label indices 0..K at full resolution, len(encoding.values) on ignored voxels, (B, *S), integer.
            progress: Fraction of the training that is done, [0, 1]; only the boundary loss depends on it.
            maps: For boundary and skeleton_recall: maps at each output that has a weight, (B, F, *S) each, as
                `make_maps` gives them; none: the loss makes them.

        Returns:
            The loss of the global batch, the same in all processes, a float32 scalar; outputs of weight 0 get no
            gradient.

        Raises:
            ValueError: If the number of outputs is not the number of weights, or maps have other shapes.
        """
        if isinstance(outputs, Tensor):
            return self._weighted([(outputs, 1.0)], target, progress, maps[:1])
        points: list[Level] = []
        if self.point_terms:
            *outputs, logits, voxels = outputs
            points = [build_level(logits, target.flatten(1).gather(1, voxels), self.encoding)]
        if len(outputs) != len(self.level_weights):
            raise ValueError(
                f"{len(outputs)} outputs of the network, but {len(self.level_weights)} weights of the loss"
            )
        pairs = zip(outputs, self.level_weights, strict=True)
        weighted = [(logits, weight) for logits, weight in pairs if weight > 0.0]
        return self._weighted(weighted, target, progress, maps, points)

    def _weighted(
        self,
        outputs: Sequence[tuple[Tensor, float]],
        target: Tensor,
        progress: float,
        maps: Sequence[Tensor],
        points: Sequence[Level] = (),
    ) -> Tensor:
        by_level: Sequence[Tensor | None] = maps or [None] * len(outputs)
        levels = [
            build_level(logits, target, self.encoding, of_level)
            for (logits, _), of_level in zip(outputs, by_level, strict=True)
        ]
        compared = [(level, self.terms, weight) for level, (_, weight) in zip(levels, outputs, strict=True)]
        compared += [(level, self.point_terms, 1.0) for level in points]
        sums = self._gather([weighted.term.sums(level) for level, terms, _ in compared for weighted in terms])
        totals = []
        for _, terms, level_weight in compared:
            values = (weighted.weight(progress) * weighted.term.value(next(sums)) for weighted in terms)
            totals.append(level_weight * reduce(add, values))
        return torch.stack(totals).sum()

    def _gather(self, sums: Sequence[Tensor]) -> Iterator[Tensor]:
        """Sum over processes, all tensors in one go."""
        gathered = self.across_ranks(torch.cat([tensor.flatten() for tensor in sums]))
        parts = torch.split(gathered, [tensor.numel() for tensor in sums])
        return (part.view_as(tensor) for part, tensor in zip(parts, sums, strict=True))


def keep_local(sums: Tensor) -> Tensor:
    """Give the sums back: this process is alone."""
    return sums


def build_loss(
    encoding: LabelEncoding,
    *,
    name: LossName = "dice_ce",
    batch_dice: bool,
    num_outputs: int,
    across_ranks: Reduce = keep_local,
    has_points: bool = False,
) -> SegmentationLoss:
    """Make a loss by name.

    Args:
        encoding: Labels (softmax) or regions (sigmoid).
        name: dice_ce: cross-entropy minus Dice, as published with nnU-Net v2 (Isensee et al. 2021; for regions with
            an ignore label, the cross-entropy is a mean over regions too). All others are 0 at best, but for boundary.
            dice_topk, dice_focal: plain sums. exp_log, boundary: as weighted by Wong et al. (2018) and, for Dice and
            cross-entropy as the regional part, Kervadec et al. (2019). cldice: Dice and centre line Dice as weighted
            by Shit et al. (2021), and cross-entropy. skeleton_recall: the sum of Dice, cross-entropy and skeleton
            recall, as by Kirchhoff et al. (2024).
        batch_dice: Indices of overlap over the whole batch instead of per sample.
        num_outputs: Outputs of the network, 1 without deep supervision.
        across_ranks: Called once per call of the loss, with all sums that it needs. The gradient is that of the
            global batch's loss with respect to this process's logits, times what `across_ranks` makes of it.
        has_points: Whether the network has a point head. Its points add their mean cross-entropy, whatever the name
            (Kirillov et al. 2020): overlap of single voxels means nothing.
    """
    return SegmentationLoss(
        encoding,
        _build_terms(name, batch_dice=batch_dice),
        deep_supervision_weights(num_outputs),
        across_ranks,
        (WeightedTerm(EntropyTerm(plain)),) if has_points else (),
    )


def _build_terms(name: LossName, *, batch_dice: bool) -> tuple[WeightedTerm, ...]:
    module = import_module(f"autoseg.training.losses.{LOSS_MODULES[name]}")
    build: Callable[[bool], tuple[WeightedTerm, ...]] = getattr(module, f"{name}_terms")
    return build(batch_dice)


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
