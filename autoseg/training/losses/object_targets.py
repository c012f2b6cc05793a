"""What anchors and regions should answer: objects from a target of codes, and which of them are compared.

Codes are those of `imaging.arrays.object_codes`. Everything here is of one sample.

Tested in tests/training/losses/test_objects.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.networks.detection.boxes import match_boxes
from autoseg.networks.detection.regions import SAMPLES_PER_BIN, bin_grid

MAX_SEED = 2**52


@dataclass(frozen=True)
class Objects:
    """The objects that a patch shows, M of them; one that is cut by its border has the box of what is inside."""

    boxes: Tensor
    """(M, 2 * D), voxels of the patch."""
    labels: Tensor
    """Label indices, (M,), 1 or more."""
    codes: Tensor
    """(M,)."""


def find_objects(codes: Tensor, num_values: int) -> Objects:
    """The objects of a target, in the order of their codes.

    Args:
        codes: (*S), integer.
        num_values: Number of label indices, background included.
    """
    found, numbers = torch.unique(codes, return_inverse=True)
    flat, corners = numbers.flatten(), []
    for axis, edge in enumerate(codes.shape):
        along = [1] * codes.ndim
        along[axis] = edge
        positions = torch.arange(edge, device=codes.device).view(along).expand(codes.shape).flatten()
        first = torch.full_like(found, edge).scatter_reduce(0, flat, positions, "amin")
        last = torch.full_like(found, -1).scatter_reduce(0, flat, positions, "amax")
        corners.append((first, last + 1))
    boxes = torch.stack([corner[side] for side in (0, 1) for corner in corners], dim=1).float()
    is_object = found > 0
    found = found[is_object]
    return Objects(boxes=boxes[is_object], labels=found % num_values, codes=found)


@dataclass(frozen=True)
class Chosen:
    """Anchors or regions that are compared."""

    positive: Tensor
    """Positions of those that are an object's, (P,)."""
    owners: Tensor
    """Their objects, (P,)."""
    negative: Tensor
    """Positions of those that are background, (Q,)."""


def make_generator(progress: float) -> torch.Generator:
    """Source of randomness of one step: a training that resumes draws what it would have drawn.

    Args:
        progress: Fraction of the training that is done, [0, 1], which no two steps share.
    """
    return torch.Generator().manual_seed(int(progress * MAX_SEED))


def choose_anchors(
    anchors: Tensor, objects: Tensor, ious: tuple[float, float], numbers: tuple[int, float], generator: torch.Generator
) -> Chosen:
    """Draw the anchors whose scores are compared.

    Args:
        anchors: (N, 2 * D).
        objects: Boxes, (M, 2 * D).
        ious: Overlap up to which an anchor is background, and from which it is an object's.
        numbers: Number of anchors, and largest fraction that are objects'.
        generator: Source of randomness.

    References:
        Ren et al. 2015, section 3.1.2: the best anchor of an object is its own, however little it overlaps.
    """
    if len(objects) == 0:
        return _draw_from(torch.zeros(len(anchors), device=anchors.device), None, (1.0, 1.0), numbers, generator)
    overlaps, owners, best = match_boxes(anchors, objects)
    overlaps[best] = torch.inf
    owners[best] = torch.arange(len(objects), device=owners.device)
    return _draw_from(overlaps, owners, ious, numbers, generator)


def choose_regions(
    regions: Tensor, objects: Tensor, iou: float, numbers: tuple[int, float], generator: torch.Generator
) -> Chosen:
    """Draw the regions whose labels, boxes and masks are compared; arguments as for `choose_anchors`.

    References:
        Girshick 2015; He et al. 2017, section 3.1.
    """
    if len(objects) == 0:
        return _draw_from(torch.zeros(len(regions), device=regions.device), None, (1.0, 1.0), numbers, generator)
    overlaps, owners, _ = match_boxes(regions, objects)
    return _draw_from(overlaps, owners, (iou, iou), numbers, generator)


def _draw_from(
    overlaps: Tensor,
    owners: Tensor | None,
    ious: tuple[float, float],
    numbers: tuple[int, float],
    generator: torch.Generator,
) -> Chosen:
    low, high = ious
    number, fraction = numbers
    keys = torch.rand(len(overlaps), generator=generator).to(overlaps.device)
    positive = torch.nonzero(overlaps >= high)[:, 0] if owners is not None else overlaps.new_zeros(0, dtype=torch.int64)
    positive = _draw(positive, keys, int(number * fraction))
    negative = _draw(torch.nonzero(overlaps < low)[:, 0], keys, number - len(positive))
    return Chosen(positive, positive if owners is None else owners[positive], negative)


def _draw(positions: Tensor, keys: Tensor, number: int) -> Tensor:
    """So many positions, by their keys, in ascending order."""
    if len(positions) <= number:
        return positions
    return positions[keys[positions].topk(number).indices].sort().values


def cut_masks(codes: Tensor, boxes: Tensor, owners: Tensor, bins: Sequence[int]) -> Tensor:
    """The objects' own masks in some regions: bins that are in the object by half at least.

    Args:
        codes: Target, (*S).
        boxes: Regions, (N, 2 * D).
        owners: Code of each region's object, (N,).
        bins: Bins along each axis.

    Returns:
        (N, *bins), 0 or 1, float32.
    """
    grid = bin_grid(boxes, [SAMPLES_PER_BIN * count for count in bins], codes.shape)
    sampled = F.grid_sample(codes[None, None].float(), grid.flatten(0, 1)[None], mode="nearest", align_corners=False)
    by_box = sampled[0, 0].view(grid.shape[:-1])
    inside = (by_box == owners.view(-1, *(1,) * len(bins))).float()[:, None]
    pool = F.avg_pool2d if len(bins) == 2 else F.avg_pool3d
    return (pool(inside, SAMPLES_PER_BIN)[:, 0] >= 0.5).float()
