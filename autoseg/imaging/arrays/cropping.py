"""Content of a case: the nonzero mask and the box around it. Used by the fingerprint and by preprocessing."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.components import label_components
from autoseg.records.case import Bounds, PreprocessedCase, Slices3, Triple

Voxel = TypeVar("Voxel", bound=np.generic)


def nonzero_mask(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels that are nonzero in any channel, and the holes that these enclose.

    Args:
        image: (C, Z, Y, X).

    Returns:
        Mask, (Z, Y, X). All False for an image of zeros.

    References:
        nnU-Net v2 (Isensee et al. 2021, Nature Methods), cropping to nonzero.
    """
    mask: NDArray[np.bool_] = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    if not mask.all():
        _fill_holes(mask)
    return mask


def find_content_bounds(image: NDArray[np.float32]) -> Bounds:
    """The bounding box of `nonzero_mask`, without the mask: filled holes do not reach beyond it.

    Works plane by plane along the axis with the largest stride in memory, which needs memory for one plane.

    Args:
        image: (C, Z, Y, X).

    Returns:
        Start and stop, (z, y, x), voxels; the full box for an image of zeros.
    """
    occupied = [np.zeros(size, dtype=np.bool_) for size in image.shape[1:]]
    slowest = max(range(3), key=lambda axis: abs(image.strides[axis + 1]))
    first, second = (axis for axis in range(3) if axis != slowest)
    for index, planes in enumerate(np.moveaxis(image, slowest + 1, 0)):
        plane = (planes != 0).any(axis=0)
        occupied[slowest][index] = plane.any()
        occupied[first] |= plane.any(axis=1)
        occupied[second] |= plane.any(axis=0)
    if not occupied[0].any():
        return (0, 0, 0), (image.shape[1], image.shape[2], image.shape[3])
    return _bounds_of(occupied)


def find_bounds(mask: NDArray[np.bool_]) -> Bounds:
    """The smallest half-open box that holds every True voxel; the full box for an empty mask.

    Args:
        mask: (Z, Y, X).

    Returns:
        Start and stop, (z, y, x), voxels.
    """
    if not mask.any():
        return (0, 0, 0), (mask.shape[0], mask.shape[1], mask.shape[2])
    return _bounds_of([np.any(mask, axis=others) for others in ((1, 2), (0, 2), (0, 1))])


def to_slices(bounds: Bounds) -> Slices3:
    """The bounds as an index into an array (Z, Y, X)."""
    start, stop = bounds
    return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])


def crop_slices(record: PreprocessedCase) -> Slices3:
    """The part that preprocessing kept, as an index into the volume with the plan's axes."""
    return to_slices((record.crop_start, record.crop_stop))


def crop_shape(record: PreprocessedCase) -> Triple:
    """Shape of the part that preprocessing kept, voxels."""
    start, stop = record.crop_start, record.crop_stop
    return stop[0] - start[0], stop[1] - start[1], stop[2] - start[2]


def cropped_view(volume: NDArray[Voxel], record: PreprocessedCase) -> NDArray[Voxel]:
    """The part of a volume that preprocessing kept, with the plan's axes; no copy.

    Args:
        volume: (Z, Y, X) in working orientation, before the crop.
        record: What preprocessing did to the case.
    """
    return volume.transpose(record.transpose)[crop_slices(record)]


def _bounds_of(occupied: Sequence[NDArray[np.bool_]]) -> Bounds:
    """The bounds from the planes of each axis that hold anything."""
    indices = [np.flatnonzero(planes) for planes in occupied]
    z, y, x = ((int(found[0]), int(found[-1]) + 1) for found in indices)
    return (z[0], y[0], x[0]), (z[1], y[1], x[1])


def _fill_holes(mask: NDArray[np.bool_]) -> None:
    """Set background that no path of face neighbours joins to the outside, in place.

    Gives the same voxels as scipy.ndimage.binary_fill_holes and is several times faster: one labelling of the
    background within the box instead of a growing front. The padding is the outside; it joins all faces of the box.
    """
    inner = mask[to_slices(find_bounds(mask))]
    components = label_components(np.pad(~inner, 1, constant_values=True), "face")
    inner |= components[1:-1, 1:-1, 1:-1] != components[0, 0, 0]
