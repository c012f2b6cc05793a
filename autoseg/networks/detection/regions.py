"""Features of regions of interest: every box is divided into the same number of bins, whatever its size.

References:
    He et al., "Mask R-CNN", 2017 (RoIAlign); Lin et al., "Feature pyramid networks", 2017 (a level for each region).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLES_PER_BIN = 2
"""Sampling points along each axis of a bin, whose mean is the bin's feature."""


def bin_grid(boxes: Tensor, bins: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Coordinates of the middle of every bin of every box, as `grid_sample` takes them.

    Args:
        boxes: (N, 2 * D), voxels of the patch.
        bins: Bins along each axis.
        shape: Shape of the patch, whose outer faces lie at -1 and 1.

    Returns:
        (N, *bins, D), the last axis first, as torch counts them.
    """
    dimensions, axes = len(bins), []
    for axis, (count, edge) in enumerate(zip(bins, shape, strict=True)):
        start, stop = boxes[:, axis, None], boxes[:, dimensions + axis, None]
        middles = start + (torch.arange(count, device=boxes.device) + 0.5) / count * (stop - start)
        along = [len(boxes), *(1,) * dimensions]
        along[axis + 1] = count
        axes.append((2 * middles / edge - 1).view(along).expand(len(boxes), *bins))
    return torch.stack(axes[::-1], dim=-1)


def align_regions(features: Tensor, boxes: Tensor, bins: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Features of every bin of every box of one sample, interpolated linearly.

    Args:
        features: One level of one sample, (F, *S'), which covers the patch.
        boxes: (N, 2 * D), voxels of the patch, within it.
        bins: Bins along each axis.
        shape: Shape of the patch, (*S).

    Returns:
        (N, F, *bins), float32. Points nearer to the border than the middle of its voxels get the border's values.

    References:
        He et al. 2017, RoIAlign: four regular points in each bin of a plane, eight in space, and their mean.
    """
    if len(boxes) == 0:
        return features.new_zeros((0, len(features), *bins), dtype=torch.float32)
    fine = [SAMPLES_PER_BIN * count for count in bins]
    grid = bin_grid(boxes, fine, shape)
    rows = grid.flatten(0, 1)[None]  # all boxes in one image, one after the other along its first axis
    with torch.autocast(features.device.type, enabled=False):
        sampled = F.grid_sample(features[None].float(), rows, padding_mode="border", align_corners=False)
        by_box = sampled[0].view(len(features), len(boxes), *fine).transpose(0, 1)
        pool = F.avg_pool2d if len(bins) == 2 else F.avg_pool3d
        return pool(by_box, SAMPLES_PER_BIN)


def paste_mask(mask: Tensor, box: Tensor, shape: Sequence[int]) -> tuple[tuple[slice, ...], Tensor]:
    """The mask of a box on the voxels of its patch, interpolated linearly.

    Args:
        mask: Probabilities, (*M), which cover the box in equal bins.
        box: (2 * D,), voxels of the patch.
        shape: Shape of the patch.

    Returns:
        Slices of the voxels whose middle is in the box, and their probabilities.
    """
    dimensions, corners = mask.ndim, box.tolist()
    slices, axes = [], []
    for axis, edge in enumerate(shape):
        start, stop = corners[axis], corners[dimensions + axis]
        first = min(max(round(start), 0), edge)
        last = min(max(round(stop), first), edge)
        slices.append(slice(first, last))
        middles = torch.arange(first, last, device=mask.device) + 0.5
        axes.append(2 * (middles - start) / max(stop - start, 1e-6) - 1)
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    if grid.numel() == 0:
        return tuple(slices), mask.new_zeros(grid.shape[:-1])
    pasted = F.grid_sample(mask[None, None].float(), grid[None], padding_mode="border", align_corners=False)
    return tuple(slices), pasted[0, 0]
