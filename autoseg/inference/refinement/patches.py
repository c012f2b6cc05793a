"""Patches along a surface: how large they are, where they lie, and how they are cut out.

All axes follow the plan's transpose; the grid is the image's own.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.case import Slices3, Spacing, Triple
from autoseg.records.network import NetworkSpec
from autoseg.records.selection import PatchSettings

EDGE_3D, EDGE_2D = 24, 48
"""Voxels of a patch along the finest axis. BPR takes 64 of 1024 x 2048 pixels; in 3D smaller ones, for time."""
MIN_EDGE = 4
"""Smallest edge of a 3D patch, along its coarsest axis; where it would be shorter, patches are flat."""
FEATURES = (8, 16, 32)
"""Feature maps of each level. On a CPU, twice as many learn less in the same time and predict half as fast."""
TRAINING_FRACTION, PREDICTION_FRACTION = 1 / 2, 3 / 8
"""Distance between centres as a fraction of the patch's edge; the smaller, the more patches overlap."""


def plan_patches(shapes: Sequence[Triple], spacings: Sequence[Spacing]) -> PatchSettings:
    """Patches that are cubes in mm as far as whole blocks of 4 voxels allow; flat where slices are single or far apart.

    Args:
        shapes: Shapes of the training images in voxels.
        spacings: Spacings of the training images in mm.
    """
    shape, spacing = np.median(shapes, axis=0), np.median(spacings, axis=0)
    edges = EDGE_3D * spacing.min() / spacing
    if shape[0] == 1 or edges[0] < MIN_EDGE:
        size = np.array((1, EDGE_2D, EDGE_2D))
    else:
        size = np.maximum(MIN_EDGE, 4 * np.rint(edges / 4).astype(int))
    return PatchSettings(
        size=_positives(size),
        training_distance=_positives(size * TRAINING_FRACTION),
        prediction_distance=_positives(size * PREDICTION_FRACTION),
    )


def plan_refiner(patches: PatchSettings, channels: int) -> NetworkSpec:
    """A U-Net of three levels. Axes are halved while they have at least 8 voxels; shorter ones have kernel 1 at first.

    Args:
        patches: Patches, whose size decides about strides and kernels.
        channels: Channels of the image.
    """
    size = [edge for edge in patches.size if edge > 1]
    strides = [(1,) * len(size)]
    for _ in FEATURES[1:]:
        stride = tuple(2 if edge >= 8 and edge % 2 == 0 else 1 for edge in size)
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        strides.append(stride)
    first = tuple(1 if edge < 8 else 3 for edge in patches.size if edge > 1)
    return NetworkSpec(
        architecture="unet",
        dimensions=3 if len(size) == 3 else 2,
        input_channels=channels + 1,
        output_channels=1,
        features=FEATURES,
        strides=tuple(strides),
        kernel_sizes=(first, *((3,) * len(size) for _ in FEATURES[1:])),
        encoder_blocks=(1, 2, 2),
        decoder_blocks=(1, 1),
        deep_supervision=False,
    )


def find_surface(mask: NDArray[np.bool_], *, flat: bool) -> NDArray[np.bool_]:
    """Voxels of the mask with a face towards a voxel outside it; beyond the border of the array is not outside.

    Args:
        mask: (Z, Y, X).
        flat: Whether only faces within slices count.
    """
    faces = ndimage.generate_binary_structure(3, 1)
    if flat:
        faces[[0, 2]] = False
    inner = ndimage.binary_erosion(mask, faces, border_value=1)
    surface: NDArray[np.bool_] = mask & ~inner
    return surface


def choose_centres(surface: NDArray[np.bool_], distance: Triple) -> list[Triple]:
    """Choose surface voxels greedily, in the order of memory, so that every other one is near one of them.

    Args:
        surface: (Z, Y, X).
        distance: Distance in voxels. Any two centres are at least this far apart along some axis; every surface voxel
            has a centre closer than this along all axes.

    References:
        Replaces BPR's non-maximum suppression (Tang et al. 2021). Linear in the number of surface voxels: each centre
        removes a box of them.
    """
    left = surface.copy()
    centres: list[Triple] = []
    for z, y, x in np.argwhere(surface).tolist():
        if left[z, y, x]:
            centres.append((z, y, x))
            near = (slice(max(0, at - reach + 1), at + reach) for at, reach in zip((z, y, x), distance, strict=True))
            left[tuple(near)] = False
    return centres


def cut_patch(array: AnyArray, centre: Triple, size: Triple) -> AnyArray:
    """A patch around a centre, as a copy; beyond the border the nearest voxel is repeated.

    Args:
        array: (..., Z, Y, X).
        centre: Voxel at index size // 2 of the patch.
        size: Size of the patch.

    Returns:
        Array of shape (..., *size).
    """
    rows = (
        np.clip(np.arange(at - edge // 2, at - edge // 2 + edge), 0, end - 1)
        for at, edge, end in zip(centre, size, array.shape[-3:], strict=True)
    )
    z, y, x = np.ix_(*rows)
    patch: AnyArray = array[..., z, y, x]
    return patch


def cut_patches(array: Tensor, centres: Tensor, size: Triple) -> Tensor:
    """Patches around several centres, where the array is; the same voxels as `cut_patch` gives for each.

    Args:
        array: (..., Z, Y, X).
        centres: (B, 3), whole numbers, beside the array; see `cut_patch`.
        size: Size of the patches.

    Returns:
        (B, ..., *size).
    """
    z, y, x = (
        (at[:, None] + torch.arange(-(edge // 2), edge - edge // 2, device=array.device)).clamp(0, end - 1)
        for at, edge, end in zip(centres.unbind(1), size, array.shape[-3:], strict=True)
    )
    patches = array[..., z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]
    return patches.movedim(array.ndim - 3, 0).contiguous()


def patch_box(centre: Triple, size: Triple, shape: Triple) -> tuple[Slices3, Slices3]:
    """Where a patch lies in the array, and which part of the patch that is."""
    inside, own = [], []
    for at, edge, end in zip(centre, size, shape, strict=True):
        first = at - edge // 2
        start, stop = max(first, 0), min(first + edge, end)
        inside.append(slice(start, stop))
        own.append(slice(start - first, stop - first))
    return (inside[0], inside[1], inside[2]), (own[0], own[1], own[2])


def _positives(numbers: NDArray[np.generic]) -> Triple:
    z, y, x = (max(1, math.floor(number)) for number in numbers.tolist())
    return z, y, x
