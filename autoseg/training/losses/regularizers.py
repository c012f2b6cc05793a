"""What a network should answer where the reference is unknown: something clear, and alike where voxels look alike.

A regulariser is added to the loss of datasets with an ignore label, such as scribbles. It looks at logits and image of
one level, and only at voxels, or pairs of voxels, whose reference is not known.

    entropy    mean entropy of the unknown voxels: every one should be decided
    crf        pairs of voxels at some distances, weighted by how alike they look: they should be decided alike
"""

import math
from collections.abc import Iterator
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.records.dataset import LabelEncoding
from autoseg.records.losses import Regularizer
from autoseg.training.losses.level import downsample_target
from autoseg.training.losses.partial_labels import split_target

WEIGHTS: Final[dict[Regularizer, float]] = {"none": 0.0, "entropy": 0.1, "crf": 5.0}
"""Weight of each regulariser beside the loss. That of the entropy is the one of Luo et al. (2022); that of pairs gives
their mean about the weight that Obukhov et al. (2019) give a sum over 120 neighbours."""

DISTANCES: Final = (1, 2, 4)
"""Distances of the voxels of a pair along each axis on which they differ, voxels."""

INTENSITY_SCALE: Final = 0.5
"""Difference of normalised intensities at which voxels look alike no more, standard deviations."""

DISTANCE_SCALE: Final = 6.0
"""Distance at which voxels belong together no more, voxels."""

MIN_PROBABILITY: Final = 1e-7
"""Smaller probabilities count as this one, so that logarithms are finite."""


def regularize(name: Regularizer, logits: Tensor, image: Tensor, target: Tensor, encoding: LabelEncoding) -> Tensor:
    """The weighted regulariser of a batch; 0 without unknown voxels.

    Args:
        name: Which regulariser.
        logits: (B, K, *S).
        image: (B, C, *T), normalised; brought to the grid of the logits by means.
        target: Label indices, len(encoding.values) on unknown voxels, (B, *T), integer.
        encoding: Says what the heads stand for.

    Returns:
        A float32 scalar.

    References:
        Entropy: Grandvalet and Bengio, "Semi-supervised learning by entropy minimization", 2004. Pairs: Obukhov et al.,
        "Gated CRF loss for weakly supervised semantic image segmentation", 2019. Differs: neighbours at three distances
        along the plane's axes and diagonals, and along the third axis, instead of all within a radius. Both for
        scribbles on ACDC: Luo et al., "Scribble-supervised medical image segmentation via dual-branch network", 2022.
    """
    indices, _ = split_target(downsample_target(target, logits.shape[2:]), encoding)
    unknown = indices == len(encoding.values)
    is_softmax = encoding.activation == "softmax"
    logits = logits.float()
    probabilities = torch.softmax(logits, dim=1) if is_softmax else torch.sigmoid(logits)
    if name == "entropy":
        value = _measure_entropy(probabilities, unknown, is_softmax=is_softmax)
    else:
        seen = F.interpolate(image.float(), size=tuple(logits.shape[2:]), mode="area")
        value = _measure_disagreement(probabilities, seen, unknown, is_softmax=is_softmax)
    return WEIGHTS[name] * value


def _measure_entropy(probabilities: Tensor, unknown: Tensor, *, is_softmax: bool) -> Tensor:
    """Mean over unknown voxels, and over regions, as a fraction of the largest entropy."""
    certain = probabilities.clamp(MIN_PROBABILITY, 1.0 - MIN_PROBABILITY)
    entropy = -(certain * certain.log())
    if is_softmax:
        entropy = entropy.sum(dim=1) / math.log(probabilities.shape[1])
    else:
        entropy = (entropy - (1.0 - certain) * (1.0 - certain).log()).mean(dim=1) / math.log(2.0)
    return (entropy * unknown).sum() / unknown.sum().clamp_min(1)


def _measure_disagreement(probabilities: Tensor, image: Tensor, unknown: Tensor, *, is_softmax: bool) -> Tensor:
    """Mean over pairs with an unknown voxel of their likeness times the probability that they have different labels."""
    totals, counts = [], []
    for offset in list_offsets(image.ndim - 2):
        first, second = _shifted(offset)
        if any(abs(step) >= edge for step, edge in zip(offset, image.shape[2:], strict=True)):
            continue
        difference = (image[first] - image[second]).square().mean(dim=1)
        distance = sum(step * step for step in offset)
        likeness = torch.exp(-difference / (2.0 * INTENSITY_SCALE**2) - distance / (2.0 * DISTANCE_SCALE**2))
        one, other = probabilities[first], probabilities[second]
        if is_softmax:
            different = 1.0 - (one * other).sum(dim=1)
        else:
            different = (one * (1.0 - other) + other * (1.0 - one)).mean(dim=1)
        is_open = unknown[first[0], *first[2:]] | unknown[second[0], *second[2:]]
        totals.append((likeness * different * is_open).sum())
        counts.append(is_open.sum())
    if not totals:
        return probabilities.sum() * 0.0
    return torch.stack(totals).sum() / torch.stack(counts).sum().clamp_min(1)


def list_offsets(dimensions: int) -> Iterator[tuple[int, ...]]:
    """Steps from the first voxel of a pair to the second, (y, x) or (z, y, x), each pair once."""
    for distance in DISTANCES:
        for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)):
            yield (0,) * (dimensions - 2) + (distance * y, distance * x)
        if dimensions == 3:
            yield distance, 0, 0


def _shifted(offset: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Boxes of all first and of all second voxels, with batch and channels."""
    whole = (slice(None), slice(None))
    first = tuple(slice(max(0, -step), -step if step > 0 else None) for step in offset)
    second = tuple(slice(max(0, step), step if step < 0 else None) for step in offset)
    return (*whole, *first), (*whole, *second)
