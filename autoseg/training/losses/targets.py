"""What the loss compares with: label indices at the size of each output, and regions made of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.records.dataset import LabelEncoding


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
    ignore_index = len(encoding.values)
    membership = torch.zeros(len(encoding.heads), ignore_index + 1)
    for position, head in enumerate(encoding.heads):
        membership[position, list(head.indices)] = 1.0
    membership = membership.to(target.device)
    indices = target.long()
    regions = torch.stack([row[indices] for row in membership], dim=1)
    if encoding.ignore_value is None:
        return regions, None
    annotated = (indices != ignore_index).unsqueeze(1).to(regions.dtype)
    return regions, annotated
