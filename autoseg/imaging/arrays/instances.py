"""Instances: the separate objects of each label in a label map.

A label with one index has an instance per connected component. A label that is divided into core and border (see
`imaging.arrays.border_core`) has an instance per component of its core, grown into the border, so that objects that
touch stay apart.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.components import label_components
from autoseg.records.case import Spacing
from autoseg.records.dataset import LabelEncoding

InstanceIds = NDArray[np.unsignedinteger]
"""Numbers of instances, (Z, Y, X), 1 to n, 0 elsewhere; in the smallest unsigned type that holds n."""


def find_instances(
    labels: NDArray[np.integer], encoding: LabelEncoding, spacing: Spacing
) -> tuple[InstanceIds, tuple[int, ...]]:
    """Give every object of a label map a number.

    Labels with one index are separated with full connectivity, as lesions are. The cores of divided labels are
    separated by faces, because two cores may touch at a corner; see `grow_cores`.

    Args:
        labels: Label indices, (Z, Y, X); for regions the indices that are written to label maps.
        encoding: Encoding that tells which indices have the same value.
        spacing: Voxel size in mm, (z, y, x).

    Returns:
        Numbers of instances, ascending in the order of the labels in the encoding and of the first voxels within a
        label; and the value in the files of each, at index number - 1. A foreground voxel that no core of its label
        reaches belongs to no instance.
    """
    ids = np.zeros(labels.shape, dtype=np.uint32)
    owners: list[int] = []
    for value, indices in _foreground(encoding):
        mask = np.isin(labels, indices)
        boxes = ndimage.find_objects(mask.view(np.uint8))
        if not boxes:
            continue
        box = boxes[0]  # what follows needs up to 20 bytes a voxel
        if len(indices) == 1:
            found = label_components(mask[box])
        else:
            found = grow_cores(labels[box] == indices[0], mask[box], spacing)
        inside = found > 0
        ids[box][inside] = found[inside].astype(np.uint32) + len(owners)
        owners += [value] * int(found.max())
    return ids.astype(np.min_scalar_type(len(owners))), tuple(owners)


def grow_cores(core: NDArray[np.bool_], mask: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.int32]:
    """Grow the components of the core into the rest of the mask until they meet.

    The rest is flooded in order of its distance to the nearest core in mm, from voxel to voxel across faces: a voxel
    joins the core that is nearest along a path within the mask. Parts of the mask that no core reaches do not become
    instances: they are mostly specks (on the cells of the ISBI 2012 membranes panoptic quality is 0.59 without and
    0.50 with them).

    Args:
        core: Mask of cores, (Z, Y, X), within the mask.
        mask: Mask of core and border, (Z, Y, X).
        spacing: Voxel size in mm, (z, y, x).

    Returns:
        Instances, (Z, Y, X), 1 to n, 0 outside the mask and where no core reaches.

    References:
        Meyer, Beucher 1990, "Morphological segmentation" (watershed from markers).
    """
    from skimage.segmentation import watershed  # slow to import, and most predictions do without

    markers = label_components(core, "face").astype(np.int32, copy=False)
    if not core.any():
        return markers
    distance_mm = ndimage.distance_transform_edt(~core, sampling=spacing).astype(np.float32)
    grown: NDArray[np.int32] = watershed(distance_mm, markers, connectivity=1, mask=mask).astype(np.int32)
    return grown


def _foreground(encoding: LabelEncoding) -> Iterator[tuple[int, Sequence[int]]]:
    """Value in the files and its label indices, core before border, in the order of the encoding."""
    groups: dict[int, list[int]] = {}
    for index, value in enumerate(encoding.values[1:], start=1):
        groups.setdefault(value, []).append(index)
    yield from groups.items()
