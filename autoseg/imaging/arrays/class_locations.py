"""Locations of each label or region: a bounded sample of its voxels, from which training draws patch centres."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.imaging.arrays.labels import foreground_heads
from autoseg.records.dataset import Head, LabelEncoding

MAX_LOCATIONS = 10_000
"""Voxels kept per head and case; patches around more centres than this hardly differ."""

Locations = NDArray[np.int32]
"""Voxels (z, y, x), (N, 3)."""
ClassLocations = tuple[dict[int, Locations], Locations | None]
"""Voxels by index in `LabelEncoding.heads`, foreground heads only; and voxels with a label other than `ignore`, None
when the dataset has no ignore label."""


def draw_class_locations(labels: NDArray[np.int16], encoding: LabelEncoding, case: str) -> ClassLocations:
    """Draw voxels of every foreground head, evenly and without replacement; the same ones whenever it is called.

    Args:
        labels: Label indices, (Z, Y, X); -1 outside the nonzero mask.
        encoding: Encoding of the dataset.
        case: Case id; seeds the draw, so the order of cases and heads does not matter.

    Returns:
        Up to MAX_LOCATIONS voxels by index in `encoding.heads`, (0, 3) for an absent one; and as many voxels
        that have a label other than `ignore`, None when the dataset has no ignore label.
    """
    boxes = label_boxes(labels, encoding)
    locations = {
        index: _draw_voxels(*head_mask(labels, head, boxes), np.random.default_rng([index, *case.encode()]))
        for index, head in foreground_heads(encoding)
    }
    if encoding.ignore_value is None:
        return locations, None
    annotated = labels != len(encoding.values)
    generator = np.random.default_rng([len(encoding.heads), *case.encode()])
    return locations, _draw_voxels(annotated, (0, 0, 0), generator)


def label_boxes(labels: NDArray[np.int16], encoding: LabelEncoding) -> list[tuple[slice, slice, slice] | None]:
    """Bounding boxes of the label indices from 1 on; None for an absent label."""
    found: list[tuple[slice, ...] | None] = [*ndimage.find_objects(labels, max_label=len(encoding.values) - 1)]
    return [None if box is None else (box[0], box[1], box[2]) for box in found]


def head_mask(
    labels: NDArray[np.int16], head: Head, boxes: list[tuple[slice, slice, slice] | None]
) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    """Mask of a head within its bounding box, and the first voxel of the box; shape (0, 0, 0) for an absent head.

    Args:
        labels: Label indices, (Z, Y, X).
        head: A foreground head.
        boxes: Result of `label_boxes`.
    """
    if 0 in head.indices:
        return np.isin(labels, head.indices), (0, 0, 0)
    present = [box for box in (boxes[index - 1] for index in head.indices) if box is not None]
    if not present:
        return np.zeros((0, 0, 0), dtype=np.bool_), (0, 0, 0)
    z, y, x = (
        slice(min(box[axis].start for box in present), max(box[axis].stop for box in present)) for axis in range(3)
    )
    inside = labels[z, y, x]
    mask = inside == head.indices[0] if len(head.indices) == 1 else np.isin(inside, head.indices)
    return mask, (z.start, y.start, x.start)


def _draw_voxels(mask: NDArray[np.bool_], offset: tuple[int, int, int], generator: np.random.Generator) -> Locations:
    """Up to MAX_LOCATIONS voxels of a mask, shifted by `offset`, in ascending order.

    Ranks among the True voxels are drawn first and looked up plane by plane, so that no list of all True voxels of
    a large volume is made.
    """
    shift = np.array(offset, dtype=np.int32)
    ends = np.cumsum(np.count_nonzero(mask, axis=(1, 2)))
    if not ends.size or ends[-1] <= MAX_LOCATIONS:
        return np.argwhere(mask).astype(np.int32) + shift
    ranks = np.sort(generator.choice(int(ends[-1]), MAX_LOCATIONS, replace=False))
    planes = np.searchsorted(ends, ranks, side="right")
    voxels = np.empty((ranks.size, 3), dtype=np.int32)
    voxels[:, 0] = planes
    for z in np.unique(planes):
        chosen = planes == z
        first_rank = ends[z - 1] if z else 0
        flat = np.flatnonzero(mask[z])[ranks[chosen] - first_rank]
        voxels[chosen, 1], voxels[chosen, 2] = np.divmod(flat, mask.shape[2])
    return voxels + shift
