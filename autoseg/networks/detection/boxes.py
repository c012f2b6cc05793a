"""Boxes: anchors, overlap, the form in which networks predict them, non-maximum suppression; in two and three axes.

A box is its start along each axis, then its stop along each axis, in voxels of the patch: voxel v covers v to v + 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_FACTOR = math.log(1000.0 / 16.0)
"""Largest logarithm of the factor by which a box may grow, so that its size stays finite (Detectron)."""

PAIRS_AT_ONCE = 2**22
"""Pairs of boxes that are compared at a time: 16 MB in float32."""


def make_anchors(
    shape: Sequence[int], step: Sequence[float], sizes: Sequence[Sequence[float]], device: torch.device
) -> Tensor:
    """Boxes of some sizes around the centre of every voxel of a level.

    Args:
        shape: Voxels of the level, (*S).
        step: Voxels of the patch that a voxel of the level covers, along each axis.
        sizes: A anchors, edges in voxels of the patch.
        device: Where the anchors are made.

    Returns:
        (prod(S) * A, 2 * D), the anchors of one voxel side by side, voxels in the order of memory.
    """
    axes = [(torch.arange(edge, device=device) + 0.5) * factor for edge, factor in zip(shape, step, strict=True)]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, len(shape))
    halves = torch.tensor(sizes, dtype=torch.float32, device=device) / 2
    return torch.cat((centres - halves, centres + halves), dim=-1).flatten(0, 1)


def box_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes: (N, 2 * D), (M, 2 * D) -> (N, M), [0, 1]; 0 for empty boxes."""
    dimensions = first.shape[1] // 2
    common = torch.ones(len(first), len(second), device=first.device)
    for axis in range(dimensions):
        start = torch.maximum(first[:, None, axis], second[None, :, axis])
        stop = torch.minimum(first[:, None, dimensions + axis], second[None, :, dimensions + axis])
        common *= (stop - start).clamp(min=0.0)
    union = box_volumes(first)[:, None] + box_volumes(second)[None] - common
    return common / union.clamp(min=torch.finfo(torch.float32).tiny)


def box_volumes(boxes: Tensor) -> Tensor:
    """Volumes in voxels, (N, 2 * D) -> (N,)."""
    return _edges(boxes).clamp(min=0.0).prod(dim=1)


def match_boxes(boxes: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each box the object that it overlaps most, and for each object the box that overlaps it most.

    Args:
        boxes: (N, 2 * D), N at least 1.
        objects: (M, 2 * D), M at least 1.

    Returns:
        Overlap of each box with its object, (N,), [0, 1]; that object, (N,); and the best box of each object, (M,).
        The first one counts where several are equal.
    """
    at_once = max(1, PAIRS_AT_ONCE // len(objects))
    overlaps, owners, highest, best = [], [], [], []
    for first, part in enumerate(torch.split(boxes, at_once)):
        pairs = box_overlaps(part, objects)
        overlap, owner = pairs.max(dim=1)
        of_object, position = pairs.max(dim=0)
        overlaps.append(overlap)
        owners.append(owner)
        highest.append(of_object)
        best.append(position + first * at_once)
    chosen = torch.stack(highest).argmax(dim=0, keepdim=True)
    return torch.cat(overlaps), torch.cat(owners), torch.stack(best).gather(0, chosen)[0]


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """What a network predicts for boxes: shift of the centre over the anchor's edge, logarithm of the edges' ratio.

    Args:
        boxes: (N, 2 * D), not empty along any axis.
        anchors: (N, 2 * D).

    Returns:
        (N, 2 * D): D shifts, then D logarithms.

    References:
        Girshick et al., "Rich feature hierarchies", 2014; Ren et al. 2015, equation 2.
    """
    edges, anchor_edges = _edges(boxes), _edges(anchors)
    shifts = (_centres(boxes) - _centres(anchors)) / anchor_edges
    return torch.cat((shifts, torch.log(edges / anchor_edges)), dim=1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The boxes that a network predicts; the inverse of `encode_boxes`, (N, 2 * D) twice -> (N, 2 * D)."""
    shifts, logarithms = deltas.float().chunk(2, dim=1)
    anchor_edges = _edges(anchors)
    centres = _centres(anchors) + shifts * anchor_edges
    halves = torch.exp(logarithms.clamp(max=MAX_LOG_FACTOR)) * anchor_edges / 2
    return torch.cat((centres - halves, centres + halves), dim=1)


def clip_boxes(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Boxes within a patch of some shape, (N, 2 * D) -> (N, 2 * D)."""
    limits = torch.tensor([*shape, *shape], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0.0), limits)


def is_not_empty(boxes: Tensor, smallest: float = 1e-2) -> Tensor:
    """Whether every edge of a box has at least so many voxels, (N, 2 * D) -> (N,)."""
    return (_edges(boxes) >= smallest).all(dim=1)


def suppress_overlapping(boxes: Tensor, scores: Tensor, groups: Tensor, largest_overlap: float) -> Tensor:
    """Keep the best boxes: the highest score first, and none that overlaps one of its group that is kept.

    Args:
        boxes: (N, 2 * D).
        scores: (N,).
        groups: Number of each box's group, (N,); boxes of different groups do not touch each other.
        largest_overlap: Largest intersection over union of two boxes that are kept, [0, 1].

    Returns:
        Positions of the boxes that are kept, best first; of equal scores the first.

    References:
        Greedy suppression as in Girshick et al. 2014. Every box is decided from the decisions on all better ones at
        once, again and again until nothing changes, which ends with what going through them one by one gives.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    ordered, ordered_groups = boxes[order], groups[order]
    suppresses = box_overlaps(ordered, ordered) > largest_overlap
    suppresses = torch.triu(suppresses & (ordered_groups[:, None] == ordered_groups[None]), diagonal=1).float()
    kept = torch.ones(len(order), device=boxes.device)
    while True:
        after = ((kept @ suppresses) == 0).float()
        if torch.equal(after, kept):
            return order[kept > 0]
        kept = after


def _centres(boxes: Tensor) -> Tensor:
    start, stop = boxes.chunk(2, dim=1)
    return (start + stop) / 2


def _edges(boxes: Tensor) -> Tensor:
    start, stop = boxes.chunk(2, dim=1)
    return stop - start


def mean_edges(boxes: Tensor) -> Tensor:
    """Geometric mean of the edges of boxes that are not empty, in voxels, (N, 2 * D) -> (N,)."""
    return torch.exp(torch.log(_edges(boxes).clamp(min=1e-3)).mean(dim=1))
