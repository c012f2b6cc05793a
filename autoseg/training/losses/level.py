"""One output of the network beside its reference, in the form that every term of a loss starts from.

Also tested in tests/training/losses/test_build.py and tests/training/losses/test_entropy.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.training.losses.partial_labels import split_target

MIN_BASE: Final = 1e-12
"""Anything smaller counts as 0; a probability that close to 1 has no gradient in float32 anyway."""


@dataclass(frozen=True)
class Level:
    """Logits of one level and their reference, float32, the V voxels of a patch in one row.

    Labels: F = K - 1 foreground classes, and one decision (D = 1) between the C = K classes at each voxel. Regions:
    F = R regions, and one decision between C = 2 classes, outside and inside, for each of the D = R regions.
    """

    probabilities: Tensor
    """Probabilities of the foreground classes or regions, 0 on ignored voxels, (B, F, V)."""
    reference: Tensor
    """Where they are, zero on ignored voxels, (B, F, V) bool (labels) or float32 (regions)."""
    negative_log_likelihood: Tensor
    """-ln of the true class' probability, 0 on ignored voxels, (B, D, V)."""
    classes: Tensor
    """True class, 0..C - 1, of each decision; meaningless on ignored voxels, (B, D, V) int64 or float32."""
    num_classes: int
    """C."""
    annotated: Tensor | None
    """False where a decision does not count, (B, 1, V) or (B, D, V) bool: on ignored voxels, and in samples in which a
    region was not looked for; None: every voxel counts."""
    spatial_shape: tuple[int, ...]
    maps: Tensor | None = None
    """What the loader has made of the reference for losses that need it, (B, F, V) float32."""
    looked_for: Tensor | None = None
    """Whether each class or region was looked for in a sample, (B, F) bool; probabilities and reference are 0 where it
    was not. None: all were in every sample."""

    def annotated_per_sample(self) -> Tensor:
        """Count the voxels that count for each decision, (B, 1) or (B, D) int64."""
        if self.annotated is not None:
            return self.annotated.sum(dim=2)
        batch, _, voxels = self.probabilities.shape
        return torch.full((batch, 1), voxels, device=self.probabilities.device)

    def count_voxels(self) -> Tensor:
        """Count the voxels that count for each class or region, (B, F) int64."""
        counts = self.annotated_per_sample().expand(self.probabilities.shape[:2])
        return counts if self.looked_for is None else counts * self.looked_for

    def with_counts(self, rows: Sequence[Tensor]) -> Tensor:
        """Sums of each class over the batch, (N, F), and last, where not all were looked for, its number of samples."""
        counted = [] if self.looked_for is None else [self.looked_for.sum(dim=0).to(rows[0].dtype)]
        return torch.stack([*rows, *counted])

    def sum_over_classes(self, losses: Tensor) -> Tensor:
        """Sum and count losses, (B, F) or (B, 1) for all classes together, of classes that were looked for, (2,)."""
        if self.looked_for is None:
            return torch.stack([losses.sum(), losses.new_full((), losses.numel())])
        counted = self.looked_for if losses.shape[1] == self.looked_for.shape[1] else self.looked_for.any(1, True)
        return torch.stack([(losses * counted).sum(), counted.sum().to(losses.dtype)])


class Term(Protocol):
    """One summand of a loss, as a function of sums over voxels and samples.

    Sums of several processes can be added up before `value` is taken, which makes it the value of the global batch.
    """

    def sums(self, level: Level) -> Tensor:
        """Sum over this process's samples, float32; any shape that does not depend on their number."""

    def value(self, sums: Tensor) -> Tensor:
        """Make a scalar of the sums."""


@dataclass(frozen=True)
class WeightedTerm:
    """A term and its weight, which moves in a straight line over the training."""

    term: Term
    first_weight: float = 1.0
    last_weight: float = 1.0

    def weight(self, progress: float) -> float:
        """Weight at a progress in [0, 1]."""
        return self.first_weight + progress * (self.last_weight - self.first_weight)


def fractional_power(base: Tensor, exponent: float) -> Tensor:
    """Raise to a power in (0, 1); 0 without gradient up to `MIN_BASE`, where its slope would be infinite."""
    return base.clamp_min(MIN_BASE) ** exponent * (base > MIN_BASE)


def mean_of(sums: Tensor) -> Tensor:
    """Divide a sum by the count beside it, (2,); 0 when nothing was counted."""
    return sums[0] / sums[1].clamp_min(1.0)


def mean_over_classes(losses: Tensor, counts: Tensor) -> Tensor:
    """Mean of the losses of classes, (F,), without those that were looked for in no sample.

    Args:
        losses: (F,), or (1,) for all classes together.
        counts: What `Level.with_counts` adds to the sums: (1, F) or (0, F).
    """
    if len(counts) == 0 or len(losses) == 1:
        return losses.mean()
    is_counted = counts[0] > 0
    return (losses * is_counted).sum() / is_counted.sum().clamp_min(1)


def build_level(logits: Tensor, target: Tensor, encoding: LabelEncoding, maps: Tensor | None = None) -> Level:
    """Bring the target to the size of the logits and take softmax or sigmoid.

    Args:
        logits: (B, K, *S), any floating type.
        target: Label indices 0..K at full resolution, len(encoding.values) on ignored voxels, (B, *S), integer; with
            numbers of sets where the encoding has any.
        encoding: Says what the heads stand for.
        maps: Maps of the classes at the size of the logits, (B, F, *S); None: not made yet.

    Raises:
        ValueError: If the maps are those of another size.
    """
    target, looked_for = split_target(downsample_target(target, logits.shape[2:]), encoding)
    if encoding.activation == "sigmoid":
        level = _region_level(logits, *region_target(target, encoding), looked_for)
    else:
        ignore_index = None if encoding.ignore_value is None else len(encoding.values)
        level = _label_level(logits, target, ignore_index, looked_for)
    if maps is None:
        return level
    if maps.shape[2:] != logits.shape[2:]:
        raise ValueError(f"maps of shape {tuple(maps.shape)} for logits of shape {tuple(logits.shape)}")
    return replace(level, maps=maps.flatten(2))


def _label_level(logits: Tensor, target: Tensor, ignore_index: int | None, looked_for: Tensor | None) -> Level:
    log_probabilities = F.log_softmax(logits.float().flatten(2), dim=1)  # (B, K, V)
    classes = target.long().flatten(1).unsqueeze(1)  # (B, 1, V)
    foreground = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, 1)
    # Equality with each class leaves ignored voxels out by itself; booleans are a quarter of a float one-hot map.
    reference = classes == foreground  # (B, K - 1, V)
    probabilities = log_probabilities[:, 1:].exp()
    annotated, counted = None, None
    if looked_for is not None:
        log_probabilities = _with_marginal_background(log_probabilities, looked_for)
        counted = looked_for[:, 1:]
        probabilities = probabilities * counted.unsqueeze(2)
    if ignore_index is None:
        own = log_probabilities.gather(1, classes)
    else:
        annotated = classes != ignore_index
        mask = annotated.to(log_probabilities.dtype)  # multiplies faster than booleans do
        own = log_probabilities.gather(1, classes * annotated) * mask
        probabilities = probabilities * mask
    shape = tuple(logits.shape[2:])
    return Level(probabilities, reference, -own, classes, logits.shape[1], annotated, shape, looked_for=counted)


def _with_marginal_background(log_probabilities: Tensor, looked_for: Tensor) -> Tensor:
    """Logarithms of probabilities whose background is the sum of background and all labels that were not looked for.

    Args:
        log_probabilities: (B, K, V).
        looked_for: (B, K) bool.

    References:
        Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", 2021.
    """
    is_open = ~looked_for
    is_open[:, 0] = True
    background = log_probabilities.masked_fill(~is_open.unsqueeze(2), -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, log_probabilities[:, 1:]], dim=1)


def _region_level(logits: Tensor, regions: Tensor, mask: Tensor | None, looked_for: Tensor | None) -> Level:
    regions, rows = regions.flatten(2), logits.float().flatten(2)  # (B, R, V)
    probabilities = torch.sigmoid(rows)
    own = F.binary_cross_entropy_with_logits(rows, regions, reduction="none")
    annotated = None
    if mask is not None:
        mask = mask.flatten(2)
    if looked_for is not None:
        counted = looked_for.unsqueeze(2).to(rows.dtype)
        mask = counted.expand_as(rows) if mask is None else mask * counted
        regions = regions * counted
    if mask is not None:
        own, probabilities, annotated = own * mask, probabilities * mask, mask > 0.0
    shape = tuple(logits.shape[2:])
    return Level(probabilities, regions, own, regions, 2, annotated, shape, looked_for=looked_for)


def downsample_target(target: Tensor, shape: Sequence[int]) -> Tensor:
    """Take the nearest label for every voxel of a coarser grid that covers the same space.

    Output voxel i takes input voxel floor((i + 1/2) * size / new size) along each axis, the one that contains its
    centre ("nearest-exact").

    Args:
        target: Label indices, (B, *S).
        shape: New spatial shape, one number per axis of S.

    Returns:
        Label indices, (B, *shape), of the same type; `target` itself if it has that shape already.

    Raises:
        ValueError: If the number of axes differs.

    References:
        nnU-Net v2 (Isensee et al. 2021), targets of deep supervision; computed in integers, so without rounding.
    """
    sizes = tuple(target.shape[1:])
    if len(sizes) != len(shape):
        raise ValueError(f"cannot bring a target of spatial shape {sizes} to {tuple(shape)}: numbers of axes differ")
    for axis, (size, new_size) in enumerate(zip(sizes, shape, strict=True), start=1):
        if new_size != size:
            doubled_centers = 2 * torch.arange(new_size, device=target.device) + 1
            target = target.index_select(axis, doubled_centers * size // (2 * new_size))
    return target


def region_target(target: Tensor, encoding: LabelEncoding) -> tuple[Tensor, Tensor | None]:
    """Masks of every region and of the voxels whose reference is known.

    Args:
        target: Label indices 0..K, and K + 1 = len(encoding.values) where the dataset's ignore label is, (B, *S).
        encoding: Its R heads are the regions.

    Returns:
        The regions, 1 inside and 0 outside and on ignored voxels, (B, R, *S) float32; and 1 on annotated voxels, 0 on
        ignored ones, (B, 1, *S) float32, or None when the dataset has no ignore label.
    """
    # comparisons, not a table of indices, for which the host would have to wait for a GPU
    members = [reduce(or_, (target == index for index in head.indices)) for head in encoding.heads]
    regions = torch.stack(members, dim=1).float()
    if encoding.ignore_value is None:
        return regions, None
    return regions, (target != len(encoding.values)).unsqueeze(1).float()
